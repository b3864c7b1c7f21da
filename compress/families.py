"""The architectures that compress knows: names and shapes of their tensors from config.json alone, and which weights of
a layer are solved together. Pure, standard library only.

Names are those of the checkpoint's files, which hold experts one by one (mlp.experts.3.up_proj.weight), whatever
transformers makes of them in memory. Sources: the model classes and defaults of transformers 5.19.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from compress.errors import ModelError, nearest_name

Shapes = dict[str, tuple[int, ...]]
# Weights that read the same inputs: they share a Hessian.
Unit = tuple[str, ...]
# Units of a layer whose inputs none of the others changes: they are measured in one forward.
Stage = tuple[Unit, ...]

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3")
# Modules that a scheme changes, in the order of a layer's forward: stages, and in them what reads the same inputs.
# Everything else stays as it is: norms, biases, routers (mlp.gate) and the gates of shared experts.
_STAGES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("q_proj", "k_proj", "v_proj", "q_a_proj", "kv_a_proj_with_mqa"),),
    (("q_b_proj",), ("kv_b_proj",)),
    (("o_proj",),),
    (("gate_proj", "up_proj"),),
    (("down_proj",),),
)
_LINEAR = {module for stage in _STAGES for kind in stage for module in kind}
_MOE = ("qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3")
# Values that are stored in 32 bits: a router's correction is far finer than the scores it corrects.
FULL_PRECISION = "e_score_correction_bias"


def check_family(config: Mapping[str, Any]) -> str:
    """The model_type when compress knows it. Raises ModelError for another one, or for an already quantized model."""
    family = config.get("model_type")
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ModelError("model_type", family or "missing", f"one of {known}", nearest_name(str(family), FAMILIES))
    if config.get("quantization_config"):
        raise ModelError("quantization_config", "present", "absent: compress starts from 16- or 32-bit weights")
    return str(family)


def shapes_from_config(config: Mapping[str, Any]) -> Shapes:
    """Names and shapes of every tensor of a checkpoint of one of FAMILIES, from its config.json alone.

    DeepSeek's layers for predicting several tokens are left out. Raises ModelError for another architecture or a
    missing key.
    """
    family = check_family(config)
    hidden, vocabulary = _size(config, "hidden_size"), _size(config, "vocab_size")
    shapes: Shapes = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for index in range(_size(config, "num_hidden_layers")):
        layer = _layer_shapes(config, family, hidden, index)
        shapes |= {f"model.layers.{index}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = (vocabulary, hidden)
    return shapes


def linear_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """The weights that a scheme changes, {name without ".weight": (rows, columns)}."""
    stems = ((name.removesuffix(".weight"), shape) for name, shape in shapes.items() if name.endswith(".weight"))
    return {stem: (shape[0], shape[1]) for stem, shape in stems if stem.rpartition(".")[2] in _LINEAR}


def routers_of(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Linear modules that choose and weigh experts: no scheme changes them."""
    names = (name.removesuffix(".weight") for name in shapes)
    return [name for name in names if name.endswith((".mlp.gate", ".mlp.shared_expert_gate"))]


def layers_of(names: Iterable[str]) -> list[list[str]]:
    """Names of linear weights by layer, those of the first layer first."""
    layers: dict[int, list[str]] = {}
    for name in names:
        layers.setdefault(int(name.split(".")[2]), []).append(name)
    return [layers[index] for index in sorted(layers)]


def stages_of(names: Iterable[str]) -> tuple[Stage, ...]:
    """One layer's linear weights in the order in which they are solved; a name keeps the form that it comes in."""
    by_kind: dict[tuple[str, ...], dict[str, list[str]]] = {kind: {} for stage in _STAGES for kind in stage}
    kind_of = {module: kind for kind in by_kind for module in kind}
    for name in names:
        parent, _, module = name.rpartition(".")
        by_kind[kind_of[module]].setdefault(parent, []).append(name)
    stages = (tuple(tuple(unit) for kind in stage for unit in by_kind[kind].values()) for stage in _STAGES)
    return tuple(stage for stage in stages if stage)


def layer_stages(shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[Stage, ...]]:
    """stages_of every layer, names within the layer."""
    return [stages_of(name.split(".", 3)[3] for name in layer) for layer in layers_of(linear_shapes(shapes))]


def is_expert(name: str) -> bool:
    """Whether the module belongs to one expert that a router sends tokens to."""
    return ".experts." in name


def shared_scheme(name: str) -> str:
    """A name for all that vLLM fuses with this weight's unit, so that they must have one scheme: with the experts'
    numbers left out, since all experts of a layer lie in one matrix.
    """
    return re.sub(r"\.experts\.\d+\.", ".experts.", name)


def _layer_shapes(config: Mapping[str, Any], family: str, hidden: int, index: int) -> Shapes:
    latent = family.startswith("deepseek")
    shapes = _latent_attention(config, hidden) if latent else _attention(config, family, hidden)
    shapes |= _experts(config, family, hidden) if _is_sparse(config, family, index) else _dense_mlp(config, hidden)
    biased = _biased(config, family)
    names = [name for name in shapes if name.endswith(".weight") and name.split(".")[-2] in biased]
    shapes |= {f"{name.removesuffix('weight')}bias": (shapes[name][0],) for name in names}
    return shapes | {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}


def _attention(config: Mapping[str, Any], family: str, hidden: int) -> Shapes:
    heads = _size(config, "num_attention_heads")
    head_dim = _head_dim(config, family, hidden, heads)
    default = {"mistral": 8, "llama": heads, "qwen2_moe": 16, "qwen3_moe": 4}.get(family, 32)
    kv_heads = config.get("num_key_value_heads") or default
    widths = {"q_proj": heads * head_dim, "k_proj": kv_heads * head_dim, "v_proj": kv_heads * head_dim}
    shapes: Shapes = {f"self_attn.{name}.weight": (width, hidden) for name, width in widths.items()}
    shapes["self_attn.o_proj.weight"] = (hidden, heads * head_dim)
    if family.startswith("qwen3"):
        shapes |= {"self_attn.q_norm.weight": (head_dim,), "self_attn.k_norm.weight": (head_dim,)}
    return shapes


def _latent_attention(config: Mapping[str, Any], hidden: int) -> Shapes:
    """DeepSeek's attention: queries, keys and values come from narrow latents (arXiv 2405.04434, section 2.1)."""
    heads, rank = _size(config, "num_attention_heads"), _size(config, "kv_lora_rank")
    plain, rotary, value = (_size(config, key) for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    query, query_rank = heads * (plain + rotary), config.get("q_lora_rank", 1536)  # null: none
    shapes: Shapes = {}
    if query_rank is None:
        shapes["q_proj.weight"] = (query, hidden)
    else:
        shapes["q_a_proj.weight"] = (query_rank, hidden)
        shapes["q_a_layernorm.weight"] = (query_rank,)
        shapes["q_b_proj.weight"] = (query, query_rank)
    shapes["kv_a_proj_with_mqa.weight"] = (rank + rotary, hidden)
    shapes["kv_a_layernorm.weight"] = (rank,)
    shapes["kv_b_proj.weight"] = (heads * (plain + value), rank)
    shapes["o_proj.weight"] = (hidden, heads * value)
    return {f"self_attn.{name}": shape for name, shape in shapes.items()}


def _dense_mlp(config: Mapping[str, Any], hidden: int) -> Shapes:
    return _mlp("mlp", hidden, _size(config, "intermediate_size"))


def _experts(config: Mapping[str, Any], family: str, hidden: int) -> Shapes:
    num_experts, inner = num_experts_of(config), _size(config, "moe_intermediate_size")
    shapes: Shapes = {"mlp.gate.weight": (num_experts, hidden)}
    if family == "deepseek_v3":
        shapes[f"mlp.gate.{FULL_PRECISION}"] = (num_experts,)
    for expert in range(num_experts):
        shapes |= _mlp(f"mlp.experts.{expert}", hidden, inner)
    if family.startswith("deepseek"):
        shapes |= _mlp("mlp.shared_experts", hidden, inner * _size(config, "n_shared_experts"))
    if family == "qwen2_moe":
        shapes |= _mlp("mlp.shared_expert", hidden, _size(config, "shared_expert_intermediate_size"))
        shapes["mlp.shared_expert_gate.weight"] = (1, hidden)
    return shapes


def _mlp(name: str, hidden: int, inner: int) -> Shapes:
    rows = {f"{name}.{module}.weight": (inner, hidden) for module in ("gate_proj", "up_proj")}
    return {**rows, f"{name}.down_proj.weight": (hidden, inner)}


def num_experts_of(config: Mapping[str, Any]) -> int:
    """Routed experts of a sparse layer; the key's name differs by family and by who wrote the file."""
    keys = ("num_experts", "n_routed_experts", "num_local_experts")
    return _size(config, next((key for key in keys if config.get(key)), keys[0]))


def _is_sparse(config: Mapping[str, Any], family: str, index: int) -> bool:
    """Whether the layer's MLP is made of experts."""
    if family not in _MOE:
        return False
    if family.startswith("deepseek"):
        first = config.get("first_k_dense_replace")
        return bool(index >= ({"deepseek_v3": 3}.get(family, 0) if first is None else first))
    every = config.get("decoder_sparse_step") or 1
    return index not in (config.get("mlp_only_layers") or ()) and (index + 1) % every == 0


def _head_dim(config: Mapping[str, Any], family: str, hidden: int, heads: int) -> int:
    if config.get("head_dim"):
        return int(config["head_dim"])
    return 128 if family == "qwen3" else hidden // heads  # transformers' defaults


def _biased(config: Mapping[str, Any], family: str) -> set[str]:
    """Last parts of the names of modules with a bias."""
    queries, mlp = {"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj", "down_proj"}
    if family == "qwen2" or (family == "qwen2_moe" and config.get("qkv_bias", True)):
        return queries  # of qwen2 always; no key says so
    names: set[str] = set()
    if family in ("llama", "qwen3", "qwen3_moe") and config.get("attention_bias"):
        names |= {*queries, "o_proj"}
    if family.startswith("deepseek") and config.get("attention_bias"):
        names |= {"q_a_proj", "kv_a_proj_with_mqa", "o_proj"}
    if family in ("llama", "deepseek_v2") and config.get("mlp_bias"):
        names |= mlp
    return names


def _size(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelError(f"config.json {key}", "missing" if value is None else value, "a whole number above 0")
    return value


def count_parameters(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Values in all tensors."""
    return sum(math.prod(shape) for shape in shapes.values())
