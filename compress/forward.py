"""Batches on their way through one layer, and the Hessians they leave behind.

Shapes: N tokens, T positions of a row, C columns/in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compress.activations import Activations, Batch
from compress.decoder import (
    BATCH_TOKENS,
    BLOCK_ENDS,
    BLOCKS,
    block_of,
    ends_block,
    pass_block,
    pass_inputs,
    unit_inputs,
)
from compress.experts import SAMPLE_PER_COLUMN, Experts, is_sparse, mix, needed_tokens
from compress.families import Stage, Unit, is_expert
from compress.gptaq import CrossSum
from compress.hessian import Feeder, HessianSum, InputStatistics

# What all experts of a layer choose their tokens from.
_ALL_TOKENS: Unit = ("mlp.experts",)
# Bytes of a unit's inputs that are kept between measuring it and passing it, rather than computed twice.
KEPT_INPUT_BYTES = 1 << 33
# Bytes of the Hessians that are measured in one forward; hundreds of experts take several.
HESSIAN_BYTES = 1 << 34


@dataclass
class Measured:
    """One unit's inputs. own: those that came. everyone: those that would come if all tokens of the layer were routed
    there, summed when asked for, where few came, else None. cross: against the dense twin's, None without one. kept:
    the first inputs, batch by batch, where they are needed again.
    """

    own: HessianSum
    everyone: Callable[[], HessianSum] | None = None
    cross: CrossSum | None = None
    kept: list[Tensor] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return self.own.num_tokens

    @property
    def is_starved(self) -> bool:
        """Whether the Hessian is one of an expert that saw too few tokens for one of its own."""
        return self.everyone is not None

    def hessian(self) -> Tensor:
        """H [C, C]. Raises NumericalError when there were no tokens or a value is not finite."""
        return self.own.mean() if self.everyone is None else mix(self.own, self.everyone())

    def statistics(self, feeder: Feeder | None) -> InputStatistics:
        """What solvers need; feeder: what makes the inputs. Raises NumericalError as hessian() does."""
        if self.cross is None:
            return InputStatistics(self.hessian(), None, feeder)
        # tokens that stand for others say nothing of the dense model's
        share = self.num_tokens / needed_tokens(self.own.num_columns) if self.is_starved else 1.0
        return InputStatistics(self.hessian(), share * self.cross.mean(), feeder)


@dataclass(frozen=True)
class Twin:
    """The same batches on their way through the dense model, beside a compressed stream."""

    layer: nn.Module
    batches: Sequence[Batch]


def portions(layer: nn.Module, units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """Units in their order, as many at a time as HESSIAN_BYTES hold Hessians of."""
    portion: list[Unit] = []
    room = HESSIAN_BYTES
    for unit in units:
        size = 4 * _num_columns(layer, unit) ** 2
        if portion and size > room:
            yield portion
            portion, room = [], HESSIAN_BYTES
        portion.append(unit)
        room -= size
    yield portion


@torch.no_grad()
def pass_layer(layer: nn.Module, activations: Activations, batches: Iterable[Batch]) -> None:
    """Take the batches through the layer as it is."""
    for stored in batches:
        batch = activations.load(stored)
        for block in BLOCKS:
            _, batch = pass_block(layer, block, batch)
        activations.store(stored, batch)


@torch.no_grad()
def measure_layer(
    layer: nn.Module, activations: Activations, batches: Sequence[Batch], units: Sequence[Unit], *, leave: bool = True
) -> dict[Unit, Measured]:
    """The inputs of `units` in one forward through the layer as it is; to leave it is to have the batches behind it."""
    sums = _Sums(layer, units, batches)
    for stored in batches:
        batch = activations.load(stored)
        for block in BLOCKS:
            seen, batch = pass_block(layer, block, batch, sums.watched(block))
            sums.add(batch, seen)
        if leave:
            activations.store(stored, batch)
    return sums.finish()


@torch.no_grad()
def measure_stage(
    layer: nn.Module,
    activations: Activations,
    batches: Sequence[Batch],
    units: Sequence[Unit],
    twin: Twin | None,
) -> dict[Unit, Measured]:
    """The inputs of units of one stage. The batches, and the twin's, are as they were."""
    sums = _Sums(layer, units, batches)
    watched = sums.watched(block_of(units))
    room = KEPT_INPUT_BYTES if units[0][0] in BLOCK_ENDS else 0
    for index, stored in enumerate(batches):
        batch = activations.load(stored)
        seen = unit_inputs(layer, watched, batch)
        sums.add(batch, seen)
        if twin is not None:
            with _same_routing(twin.layer, layer):
                dense = unit_inputs(twin.layer, units, activations.load(twin.batches[index]))
            sums.add_twin(batch, seen, dense)
        if room > 0:
            inputs = seen[units[0]]
            room -= inputs.numel() * inputs.element_size()
            if room >= 0:
                sums.measured[units[0]].kept.append(inputs)
    return sums.finish()


@torch.no_grad()
def advance(
    layer: nn.Module, activations: Activations, batches: Sequence[Batch], stage: Stage, kept: Sequence[Tensor] = ()
) -> None:
    """Take the batches through the block that the stage ends, compressed by now; kept: the first of its inputs."""
    if not ends_block(stage):
        return
    for index, stored in enumerate(batches):
        batch = activations.load(stored)
        if index < len(kept):
            batch = pass_inputs(layer, stage[0][0], batch, kept[index])
        else:
            _, batch = pass_block(layer, block_of(stage), batch)
        activations.store(stored, batch)


class _Sums:
    """The Hessians of `units` while batches come, and a sample of all tokens where some of them are experts'."""

    def __init__(self, layer: nn.Module, units: Sequence[Unit], batches: Sequence[Batch]) -> None:
        self._layer = layer
        self.measured = {unit: Measured(HessianSum(_num_columns(layer, unit))) for unit in units}
        columns = [found.own.num_columns for unit, found in self.measured.items() if is_expert(unit[0])]
        num_tokens = sum(batch.num_tokens for batch in batches)
        self._stride = max(1, num_tokens // (SAMPLE_PER_COLUMN * max(columns))) if columns else 0
        self._sample: list[Tensor] = []
        self._of_tokens: HessianSum | None = None  # of the sample itself, which all gates and ups read

    def watched(self, block: str) -> list[Unit]:
        """What must be seen of a block."""
        units = [unit for unit in self.measured if block_of((unit,)) == block]
        return [*units, _ALL_TOKENS] if any(is_expert(unit[0]) for unit in units) else units

    def add(self, batch: Batch, seen: Mapping[Unit, Tensor]) -> None:
        for unit, inputs in seen.items():
            if unit == _ALL_TOKENS:
                self._sample.append(inputs[:: self._stride].clone())
            else:
                self.measured[unit].own.add(_counted(unit, batch, inputs))

    def add_twin(self, batch: Batch, seen: Mapping[Unit, Tensor], dense: Mapping[Unit, Tensor]) -> None:
        for unit, inputs in dense.items():
            found = self.measured[unit]
            found.cross = found.cross or CrossSum(found.own.num_columns)
            found.cross.add(_counted(unit, batch, seen[unit]), _counted(unit, batch, inputs))

    def finish(self) -> dict[Unit, Measured]:
        for unit, found in self.measured.items():
            if is_expert(unit[0]) and found.num_tokens < needed_tokens(found.own.num_columns):
                found.everyone = partial(self._of_all, unit, found.own.num_columns)
        return self.measured

    @torch.no_grad()
    def _of_all(self, unit: Unit, num_columns: int) -> HessianSum:
        if self._of_tokens is not None and not ends_block((unit,)):
            return self._of_tokens
        name, _, module = unit[0].rpartition(".")
        expert: Any = self._layer.get_submodule(name)
        total, sample = HessianSum(num_columns), torch.cat(self._sample)
        for start in range(0, len(sample), BATCH_TOKENS):
            total.add(expert.inputs_of(module, sample[start : start + BATCH_TOKENS]))
        if not ends_block((unit,)):
            self._of_tokens = total
        return total


@contextmanager
def _same_routing(twin: Any, layer: Any) -> Iterator[None]:
    """Within the block the twin's experts get the tokens that the layer's got last."""
    if not (is_sparse(twin) and isinstance(twin.mlp.experts, Experts)):
        yield
        return
    twin.mlp.experts.leader = layer.mlp.experts
    try:
        yield
    finally:
        twin.mlp.experts.leader = None


def _counted(unit: Unit, batch: Batch, inputs: Tensor) -> Tensor:
    """The tokens [N, C] of a unit's inputs, with their weights."""
    reads_attention_input = unit[0].startswith("self_attn.") and not ends_block((unit,))
    return batch.tokens(batch.weighted(inputs) if reads_attention_input else inputs)


def _num_columns(layer: nn.Module, unit: Unit) -> int:
    module = layer.get_submodule(unit[0])
    assert isinstance(module, nn.Linear)
    return module.in_features
