"""The decoder as a walk over its layers: transformers' own modules do the forwards, one layer on the device at a time.

Shapes: N tokens, T positions of a row, C columns/in. A batch is [rows, T, hidden]; rows are padded on the right, which
causal attention never looks back at, so no mask is needed; `real` says which positions are no padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import CalibrationError
from compress.hessian import HessianSum

# Tokens of one forward, and so of one product into the Hessian: see HessianSum.add.
BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Batch:
    """hidden [rows, T, C]: what enters the next layer; real [rows, T]; positions: the rotary cosines and sines."""

    hidden: Tensor
    real: Tensor
    positions: tuple[Tensor, Tensor]


class _ReachedError(Exception):
    """Ends a forward at the module whose inputs were asked for."""


def load_decoder(model: Path, dtype: torch.dtype) -> Any:
    """The causal language model in eval mode on the CPU."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    decoder: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation="sdpa")
    return decoder.eval()


@torch.no_grad()
def embed_rows(model: Any, rows: Sequence[Sequence[int]], device: torch.device) -> list[Batch]:
    """Token rows as batches of about BATCH_TOKENS, rows of like length together.

    Raises CalibrationError for a row longer than the model's positions or its sliding window.
    """
    longest = max(map(len, rows))
    window = getattr(model.config, "sliding_window", None) or model.config.max_position_embeddings
    limit = min(window, model.config.max_position_embeddings)
    if longest > limit:
        raise CalibrationError("max_seq_length", longest, f"at most {limit}, as far as this model attends")
    batches: list[Batch] = []
    pending: list[Sequence[int]] = []
    for row in sorted(rows, key=len):
        if pending and (len(pending) + 1) * len(row) > BATCH_TOKENS:
            batches.append(_embed(model, pending, device))
            pending = []
        pending.append(row)
    return [*batches, _embed(model, pending, device)]


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
    if unit[0] not in ("self_attn.o_proj", "mlp.down_proj"):
        return batch
    return replace(batch, hidden=batch.hidden + layer.get_submodule(unit[0])(inputs))


def measure_hessian(inputs: Sequence[Tensor], batches: Sequence[Batch]) -> Tensor:
    """H [C, C] over the real tokens of one unit's inputs, a batch at a time. Raises NumericalError if not finite."""
    total = HessianSum(inputs[0].shape[-1])
    for values, batch in zip(inputs, batches, strict=True):
        total.add(values[batch.real])
    return total.mean()


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


def _embed(model: Any, rows: Sequence[Sequence[int]], device: torch.device) -> Batch:
    length = max(map(len, rows))
    tokens = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
    real = torch.arange(length) < torch.tensor([len(row) for row in rows]).unsqueeze(1)
    embed: Callable[[Tensor], Tensor] = model.model.embed_tokens
    hidden = embed(tokens)
    cosines, sines = model.model.rotary_emb(hidden, torch.arange(length).unsqueeze(0))
    return Batch(hidden.to(device), real.to(device), (cosines.to(device), sines.to(device)))
