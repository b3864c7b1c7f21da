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
def measure_hessian(layer: nn.Module, name: str, batches: Sequence[Batch]) -> HessianSum:
    """Sum of x x' over the inputs of layer.`name`, given what enters the layer; later modules are not run."""
    module = layer.get_submodule(name)
    total = HessianSum(module.in_features)  # type: ignore[arg-type]
    for batch in batches:
        total.add(_inputs_of(module, layer, batch)[batch.real])
    return total


@torch.no_grad()
def advance(layer: nn.Module, batches: Sequence[Batch]) -> list[Batch]:
    """The batches as they leave the layer."""
    return [replace(batch, hidden=_forward(layer, batch)) for batch in batches]


def _forward(layer: nn.Module, batch: Batch) -> Tensor:
    hidden: Tensor = layer(batch.hidden, attention_mask=None, position_embeddings=batch.positions)
    return hidden


def _inputs_of(module: nn.Module, layer: nn.Module, batch: Batch) -> Tensor:
    seen: list[Tensor] = []

    def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])
        raise _ReachedError

    hook = module.register_forward_pre_hook(stop)
    try:
        _forward(layer, batch)
    except _ReachedError:
        pass
    finally:
        hook.remove()
    return seen[0]


def _embed(model: Any, rows: Sequence[Sequence[int]], device: torch.device) -> Batch:
    length = max(map(len, rows))
    tokens = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
    real = torch.arange(length) < torch.tensor([len(row) for row in rows]).unsqueeze(1)
    embed: Callable[[Tensor], Tensor] = model.model.embed_tokens
    hidden = embed(tokens)
    cosines, sines = model.model.rotary_emb(hidden, torch.arange(length).unsqueeze(0))
    return Batch(hidden.to(device), real.to(device), (cosines.to(device), sines.to(device)))
