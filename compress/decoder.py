"""The decoder as a walk over its layers: transformers' own modules do the forwards, one layer on the device at a time,
its weights read from the model's files when its turn comes.

Shapes: N tokens, T positions of a row, C columns/in. A batch is [rows, T, hidden]; rows are padded on the right, which
causal attention never looks back at, so no mask is needed; `real` says which positions are no padding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.activations import Batch
from compress.errors import CalibrationError
from compress.shards import TensorReader

# Tokens of one forward, and so of one product into the Hessian: see HessianSum.add.
BATCH_TOKENS = 8192


class _ReachedError(Exception):
    """Ends a forward at the module whose inputs were asked for."""


class Decoder:
    """A causal language model of which only the embedding's rows and one layer at a time are in memory, in `dtype`."""

    def __init__(self, model: Path, dtype: torch.dtype, device: torch.device) -> None:
        from transformers import AutoConfig

        self.config = AutoConfig.from_pretrained(model)
        self.dtype, self.device, self.reader = dtype, device, TensorReader(model)
        with torch.device("meta"):
            skeleton = _skeleton(self.config, dtype)
        self._layers: Sequence[nn.Module] = skeleton.model.layers
        self._rotary: Any = type(skeleton.model.rotary_emb)(config=self.config)

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def read_layer(self, index: int) -> dict[str, Tensor]:
        """The tensors of a layer on the device, by their names within it."""
        names = self._layers[index].state_dict()
        return {name: self.read(f"model.layers.{index}.{name}").to(self.device) for name in names}

    def read(self, name: str) -> Tensor:
        """A tensor of the model, on the CPU."""
        return self.reader.read(name).to(self.dtype)

    def layer(self, index: int, tensors: Mapping[str, Tensor]) -> nn.Module:
        """transformers' module of a layer, holding `tensors` themselves."""
        layer = copy.deepcopy(self._layers[index])
        layer.load_state_dict(dict(tensors), assign=True)
        return layer.requires_grad_(False)

    def check_rows(self, rows: Sequence[Sequence[int]]) -> None:
        """Raises CalibrationError for a row longer than the model's positions or its sliding window."""
        longest, positions = max(map(len, rows)), self.config.max_position_embeddings
        limit = min(getattr(self.config, "sliding_window", None) or positions, positions)
        if longest > limit:
            raise CalibrationError("max_seq_length", longest, f"at most {limit}, as far as this model attends")

    def embed(self, rows: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """Token rows as batches of about BATCH_TOKENS on the device, rows of like length together."""
        weight = self.reader.read("model.embed_tokens.weight")
        pending: list[Sequence[int]] = []
        for row in sorted(rows, key=len):
            if pending and (len(pending) + 1) * len(row) > BATCH_TOKENS:
                yield self._embed(weight, pending)
                pending = []
            pending.append(row)
        yield self._embed(weight, pending)

    def _embed(self, weight: Tensor, rows: Sequence[Sequence[int]]) -> Batch:
        length = max(map(len, rows))
        tokens = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
        real = torch.arange(length) < torch.tensor([len(row) for row in rows]).unsqueeze(1)
        hidden = weight[tokens].to(self.dtype)
        cosines, sines = self._rotary(hidden, torch.arange(length).unsqueeze(0))
        positions = cosines.to(self.device), sines.to(self.device)
        return Batch(hidden.to(self.device), None if real.all() else real.to(self.device), positions)


def _skeleton(config: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    build: Any = AutoModelForCausalLM.from_config
    return build(config, dtype=dtype, attn_implementation="sdpa").eval()


@torch.no_grad()
def unit_inputs(layer: Any, unit: Sequence[str], batch: Batch) -> Tensor:
    """What the weights of `unit` read, [rows, T, C]; batch.hidden is the residual stream before attention or MLP.

    The wiring is that of every family in size.FAMILIES: norm, attention, add; norm, MLP, add.
    """
    match unit[0]:
        case "self_attn.q_proj":
            return _tensor(layer.input_layernorm(batch.hidden))
        case "self_attn.o_proj":
            attention = layer.self_attn
            arguments = {"position_embeddings": batch.positions, "attention_mask": None}
            return _inputs_of(
                attention.o_proj, lambda: attention(hidden_states=layer.input_layernorm(batch.hidden), **arguments)
            )
        case "mlp.gate_proj":
            return _tensor(layer.post_attention_layernorm(batch.hidden))
        case _:
            return _inputs_of(layer.mlp.down_proj, lambda: layer.mlp(layer.post_attention_layernorm(batch.hidden)))


@torch.no_grad()
def pass_unit(layer: nn.Module, unit: Sequence[str], batch: Batch, inputs: Tensor) -> Batch:
    """The batch after `unit`, given its inputs: o and down end a block and add their outputs to the stream."""
    if not ends_block(unit):
        return batch
    return replace(batch, hidden=batch.hidden + layer.get_submodule(unit[0])(inputs))


def ends_block(unit: Sequence[str]) -> bool:
    """Whether the residual stream changes after the unit."""
    return unit[0] in ("self_attn.o_proj", "mlp.down_proj")


def _inputs_of(module: nn.Module, forward: Callable[[], object]) -> Tensor:
    """What `module` is given during forward(), which is ended there."""
    seen: list[Tensor] = []

    def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])
        raise _ReachedError

    hook = module.register_forward_pre_hook(stop)
    try:
        forward()
    except _ReachedError:
        pass
    finally:
        hook.remove()
    return seen[0]


def _tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value
