"""Batches on their way through one layer, and the Hessians they leave behind.

Shapes: N tokens, T positions of a row, C columns/in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.activations import Activations, Batch
from compress.decoder import ends_block, pass_unit, unit_inputs
from compress.gptaq import CrossSum
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


@dataclass(frozen=True)
class Twin:
    """The same batches on their way through the dense model, beside a compressed stream."""

    layer: nn.Module
    batches: Sequence[Batch]


@dataclass(frozen=True)
class Measured:
    """hessian: of one unit's inputs. cross: of them against the dense twin's, None without one. kept: the first inputs,
    batch by batch, where they are needed again.
    """

    hessian: HessianSum
    cross: CrossSum | None
    kept: list[Tensor]


@torch.no_grad()
def measure_unit(
    layer: nn.Module, activations: Activations, batches: Sequence[Batch], unit: Unit, twin: Twin | None = None
) -> Measured:
    """Measure the inputs of one unit. The twin is behind the unit afterwards, the batches are not."""
    kept: list[Tensor] = []
    room = KEPT_INPUT_BYTES if ends_block(unit) else 0
    total: HessianSum | None = None
    cross: CrossSum | None = None
    for index, stored in enumerate(batches):
        batch = activations.load(stored)
        inputs = unit_inputs(layer, unit, batch)
        total = total or HessianSum(inputs.shape[-1])
        total.add(batch.tokens(inputs))
        if twin is not None:
            dense_batch = activations.load(twin.batches[index])
            dense_inputs = unit_inputs(twin.layer, unit, dense_batch)
            cross = cross or CrossSum(inputs.shape[-1])
            cross.add(batch.tokens(inputs), batch.tokens(dense_inputs))
            twin.batches[index].hidden.copy_(pass_unit(twin.layer, unit, dense_batch, dense_inputs).hidden)
        room -= inputs.numel() * inputs.element_size()
        if room >= 0:
            kept.append(inputs)
    assert total is not None  # there is at least one batch
    return Measured(total, cross, kept)


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
