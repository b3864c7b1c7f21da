"""The pocket reasoners in plain torch: Llama and Qwen3 as transformers implements them, under its parameter names.

So a trained model is exported as its state dict beside a config.json. Shapes: B rows, T positions, D = head_dim.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

ROPE_THETA = 10_000.0
RMS_NORM_EPS = 1e-5
CONTEXT = 1024


@dataclass(frozen=True)
class Shape:
    """family: "llama" or "qwen3" (the same with a norm on queries and keys). Sizes are multiples of 128 throughout."""

    family: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int = 64
    vocab_size: int = 1024

    def to_config(self, special_ids: dict[str, int]) -> dict[str, Any]:
        """What transformers and vLLM read as config.json; special_ids: bos_token_id, eos_token_id, pad_token_id."""
        name = {"llama": "Llama", "qwen3": "Qwen3"}[self.family]
        sizes = asdict(self)
        sizes.pop("family")
        return {
            "architectures": [f"{name}ForCausalLM"],
            "model_type": self.family,
            **sizes,
            "max_position_embeddings": CONTEXT,
            "hidden_act": "silu",
            "rms_norm_eps": RMS_NORM_EPS,
            "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
            "attention_bias": False,
            "tie_word_embeddings": True,
            "dtype": "bfloat16",
            **special_ids,
        }


class RMSNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        normed = F.rms_norm(x.float(), (x.shape[-1],), eps=RMS_NORM_EPS)
        return (self.weight.float() * normed).to(x.dtype)


class KeyValueCache:
    """Keys and values of every layer, B x heads x T x D, filled up to `length` positions."""

    def __init__(self, shape: Shape, num_rows: int, capacity: int, like: Tensor) -> None:
        size = (shape.num_hidden_layers, num_rows, shape.num_key_value_heads, capacity, shape.head_dim)
        self.keys, self.values = like.new_zeros(size), like.new_zeros(size)
        self.length = 0

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new positions of one layer; the caller moves `length` on once all layers have."""
        end = self.length + key.shape[2]
        self.keys[layer, :, :, self.length : end] = key
        self.values[layer, :, :, self.length : end] = value
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class Attention(nn.Module):
    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, shape.head_dim
        num_q, num_kv = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, num_q, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, num_kv, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, num_kv, bias=False)
        self.o_proj = nn.Linear(num_q, shape.hidden_size, bias=False)
        if shape.family == "qwen3":
            self.q_norm, self.k_norm = RMSNorm(shape.head_dim), RMSNorm(shape.head_dim)

    def forward(self, x: Tensor, rope: Tensor, mask: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        query, key, value = (
            projection(x).unflatten(-1, (-1, self.head_dim)) for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if hasattr(self, "q_norm"):
            query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = rotate(query, rope), rotate(key, rope), value.transpose(1, 2)
        if cache is not None:
            key, value = cache.extend(self.layer, key, value)
        mixed = F.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotary embedding of x (B x T x heads x D) by rope (2 x B or 1 x T x D: cos and sin); gives B x heads x T x D."""
    x = x.transpose(1, 2)
    first, second = x.chunk(2, dim=-1)
    cos, sin = rope[0].unsqueeze(1), rope[1].unsqueeze(1)
    return (x * cos + torch.cat((-second, first), -1) * sin).to(x.dtype)


def rotary_angles(positions: Tensor, head_dim: int) -> Tensor:
    """Cosine and sine, stacked: 2 x (shape of positions) x head_dim, fp32."""
    frequencies = ROPE_THETA ** -(torch.arange(0, head_dim, 2, device=positions.device) / head_dim)
    angles = positions[..., None].float() * torch.cat((frequencies, frequencies))
    return torch.stack((angles.cos(), angles.sin()))


class MLP(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size)
        self.self_attn = Attention(shape, layer)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, rope: Tensor, mask: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rope, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(shape, index) for index in range(shape.num_hidden_layers))
        self.norm = RMSNorm(shape.hidden_size)


class PocketModel(nn.Module):
    """Tied embeddings; parameters are named as in transformers' LlamaForCausalLM and Qwen3ForCausalLM."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        residual_scale = (2 * shape.num_hidden_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                is_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 * (residual_scale if is_residual else 1.0))

    def forward(
        self, tokens: Tensor, positions: Tensor, mask: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Hidden states B x T x hidden of tokens (B x T); positions: B x T or 1 x T. Causal where mask is None."""
        x = self.model.embed_tokens(tokens)
        if torch.is_autocast_enabled(x.device.type):
            x = x.bfloat16()
        rope = rotary_angles(positions, self.shape.head_dim)
        for layer in self.model.layers:
            x = layer(x, rope, mask, cache)
        if cache is not None:
            cache.length += tokens.shape[1]
        return self.model.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.model.embed_tokens.weight)


def save_model(model: PocketModel, folder: Path, special_ids: dict[str, int]) -> None:
    """Write config.json, generation_config.json and model.safetensors (bf16) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().to("cpu", torch.bfloat16) for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    generation = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, **special_ids}
    for name, content in (("config", model.shape.to_config(special_ids)), ("generation_config", generation)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def load_model(folder: Path, device: str) -> PocketModel:
    """Read a folder that save_model or compress wrote (dequantized), in bf16."""
    config = json.loads((folder / "config.json").read_text())
    sizes = {key: config[key] for key in Shape.__dataclass_fields__ if key != "family"}
    model = PocketModel(Shape(family=config["model_type"], **sizes))
    weights = load_file(folder / "model.safetensors")
    weights.pop("lm_head.weight", None)
    model.load_state_dict(weights)
    return model.to(device, torch.bfloat16).eval()
