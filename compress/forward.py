"""Batches on their way through one layer, and the Hessians they leave behind.

Shapes: N tokens, T positions of a row, C columns/in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from compress.activations import Activations, Batch
from compress.decoder import ends_block, pass_unit, unit_inputs
from compress.hessian import HessianSum
from compress.size import UNITS

Unit = tuple[str, ...]
# Bytes of a unit's inputs that are kept between measuring it and passing it, rather than computed twice.
KEPT_INPUT_BYTES = 1 << 33


@torch.no_grad()
def pass_layer(layer: nn.Module, activations: Activations, batches: Iterable[Batch]) -> None:
    """Take the batches through the layer as it is."""
    for stored in batches:
        batch = activations.load(stored)
        for unit in filter(ends_block, UNITS):
            batch = pass_unit(layer, unit, batch, unit_inputs(layer, unit, batch))
        stored.hidden.copy_(batch.hidden)


@torch.no_grad()
def measure_layer(layer: nn.Module, activations: Activations, batches: Iterable[Batch]) -> dict[Unit, HessianSum]:
    """The Hessians of all units in one forward through the layer as it is; the batches are behind it afterwards."""
    sums: dict[Unit, HessianSum] = {}
    for stored in batches:
        batch = activations.load(stored)
        for unit in UNITS:
            inputs = unit_inputs(layer, unit, batch)
            sums.setdefault(unit, HessianSum(inputs.shape[-1])).add(batch.tokens(inputs))
            batch = pass_unit(layer, unit, batch, inputs)
        stored.hidden.copy_(batch.hidden)
    return sums


@torch.no_grad()
def measure_unit(
    layer: nn.Module, activations: Activations, batches: Sequence[Batch], unit: Unit
) -> tuple[HessianSum, list[Tensor]]:
    """The Hessian of one unit, and the first of its inputs, batch by batch, where they are needed again."""
    kept: list[Tensor] = []
    room = KEPT_INPUT_BYTES if ends_block(unit) else 0
    total: HessianSum | None = None
    for stored in batches:
        batch = activations.load(stored)
        inputs = unit_inputs(layer, unit, batch)
        total = total or HessianSum(inputs.shape[-1])
        total.add(batch.tokens(inputs))
        room -= inputs.numel() * inputs.element_size()
        if room >= 0:
            kept.append(inputs)
    assert total is not None  # there is at least one batch
    return total, kept


@torch.no_grad()
def advance(
    layer: nn.Module, activations: Activations, batches: Sequence[Batch], unit: Unit, kept: Sequence[Tensor]
) -> None:
    """Take the batches through one unit that is compressed by now; kept: the first of its inputs."""
    if not ends_block(unit):
        return
    for index, stored in enumerate(batches):
        batch = activations.load(stored)
        inputs = kept[index] if index < len(kept) else unit_inputs(layer, unit, batch)
        stored.hidden.copy_(pass_unit(layer, unit, batch, inputs).hidden)
