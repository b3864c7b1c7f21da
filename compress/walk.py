"""The walk over the decoder's layers that solves any number of schemes: the model is read once, a layer at a time.

A stream is a residual stream through the model, with the checkpoints whose Hessians are measured on it. Schemes that
propagate dense share one stream of the unchanged model, and so its Hessians and their factors; one that propagates
compressed has a stream of its own, in which every unit is measured behind the compressed ones before it, as the papers
do. Without calibration a stream has no batches.

Layers that an earlier, killed process has finished are passed, not solved: the streams behind them are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from compress.activations import Activations, Batch, open_activations
from compress.columns import Solved
from compress.decoder import Decoder
from compress.errors import NumericalError
from compress.forward import Unit, advance, measure_layer, measure_unit, pass_layer
from compress.hessian import HessianSum, InputStatistics
from compress.job import Job, Target
from compress.methods import Propagate
from compress.packing import dense_weight, packed_layout, packed_tensors
from compress.progress import PartialCheckpoint
from compress.report import LayerReport
from compress.scheme import CheckpointFormat
from compress.size import UNITS
from compress.solve import SolvedUnit, grid_spec, solve_requests

Progress = Callable[[int, int], None]


@dataclass
class _Making:
    """One target under way: its partial checkpoint, and what the layer at hand has become so far."""

    target: Target
    partial: PartialCheckpoint
    weights: dict[str, Solved] = field(default_factory=dict)
    reports: list[LayerReport] = field(default_factory=list)
    fallbacks: dict[str, int] = field(default_factory=dict)

    def take(self, solved: SolvedUnit) -> None:
        self.weights |= solved.weights
        self.reports += solved.reports.values()
        counts = {
            "dampening_raised": sum(factor.num_raised for factor in solved.factors),
            "dead_columns": max((int(factor.dead.sum()) for factor in solved.factors), default=0),
        }
        self.fallbacks = {cause: self.fallbacks.get(cause, 0) + count for cause, count in counts.items()}

    def finish_layer(self, tensors: Mapping[str, Tensor]) -> None:
        self.partial.finish_layer(tensors, self.reports, self.fallbacks)
        self.weights, self.reports, self.fallbacks = {}, [], {}


@dataclass(frozen=True)
class _Stream:
    propagate: Propagate
    makings: Sequence[_Making]
    batches: list[Batch] = field(default_factory=list)

    @property
    def alive(self) -> list[_Making]:
        return [making for making in self.makings if making.partial.failure is None]


def layout(job: Job, target: Target) -> dict[str, Tensor]:
    """Every tensor of the target's checkpoint, on the meta device, in the order of the model."""
    tensors: dict[str, Tensor] = {}
    for name, shape in job.shapes.items():
        like = torch.empty(shape, dtype=job.stored_dtype, device="meta")
        scheme = target.schemes.get(name.removesuffix(".weight"))
        spec = grid_spec(scheme, job.stored_dtype) if scheme else None
        if target.format is CheckpointFormat.PACKED and spec is not None:
            prefix = name.removesuffix("weight")
            tensors |= {f"{prefix}{suffix}": part for suffix, part in packed_layout(like.float(), spec).items()}
        else:
            tensors[name] = like
    return tensors


def compress_layers(
    job: Job, partials: Sequence[PartialCheckpoint], memory_bytes: int | None, on_progress: Progress
) -> str | None:
    """Fill the partial checkpoints, one for each target; where activations were kept, None without calibration.

    A target that has no solution is left with its failure noted.
    """
    decoder = Decoder(job.model, job.stored_dtype if job.device.type == "cuda" else torch.float32, job.device)
    makings = [_Making(target, partial) for target, partial in zip(job.targets, partials, strict=True)]
    alive = [making for making in makings if making.partial.failure is None]
    start = min((making.partial.num_layers for making in alive), default=decoder.num_layers)
    for making in alive:
        making.partial.go_back(start)
        for name in job.shapes:
            if not name.startswith("model.layers."):
                making.partial.tensors.write(name, decoder.read(name).to(job.stored_dtype))
    streams = _streams(makings)
    with _activations(job, decoder, streams, memory_bytes) as activations:
        for index in range(decoder.num_layers):
            if index >= start or activations is not None:
                dense = decoder.read_layer(index)
                for stream in filter(lambda stream: stream.alive, streams):
                    layer = decoder.layer(index, dense)
                    if index >= start:
                        _solve_layer(job, activations, stream, index, layer, dense)
                    elif activations is not None:
                        _pass_solved_layer(job, activations, stream, index, layer)
            on_progress(index + 1, decoder.num_layers)
    return activations.description if activations else None


def _streams(makings: Sequence[_Making]) -> list[_Stream]:
    dense = [making for making in makings if making.target.scheme.propagate is Propagate.DENSE]
    own = [_Stream(Propagate.COMPRESSED, [making]) for making in makings if making not in dense]
    return [*([_Stream(Propagate.DENSE, dense)] if dense else []), *own]


@contextmanager
def _activations(
    job: Job, decoder: Decoder, streams: Sequence[_Stream], memory_bytes: int | None
) -> Iterator[Activations | None]:
    """Fill the streams with the embedded calibration rows; None when there are none."""
    if not job.rows:
        yield None
        return
    decoder.check_rows(job.rows)
    num_values = len(streams) * sum(map(len, job.rows)) * decoder.config.hidden_size
    folder = job.targets[0].out.parent
    with open_activations(num_values * decoder.dtype.itemsize, job.device, memory_bytes, folder) as activations:
        for batch in decoder.embed(job.rows):
            for stream in streams:
                stream.batches.append(activations.keep(batch))
        yield activations


def _pass_solved_layer(job: Job, activations: Activations, stream: _Stream, index: int, layer: nn.Module) -> None:
    if stream.propagate is Propagate.COMPRESSED:
        _put(layer, _stored_weights(job, stream.alive[0], index))
    pass_layer(layer, activations, stream.batches)


def _solve_layer(
    job: Job,
    activations: Activations | None,
    stream: _Stream,
    index: int,
    layer: nn.Module,
    dense: Mapping[str, Tensor],
) -> None:
    if activations is None or stream.propagate is Propagate.DENSE:
        sums = measure_layer(layer, activations, stream.batches) if activations else {}
        for unit in UNITS:
            _solve_unit(job, stream, index, unit, dense, sums.pop(unit, None))
    else:
        for unit in UNITS:
            total, kept = measure_unit(layer, activations, stream.batches, unit)
            _solve_unit(job, stream, index, unit, dense, total)
            for making in stream.alive:
                _put(layer, _weights_of(job, making, index, unit))
            advance(layer, activations, stream.batches, unit, kept)
    for making in stream.alive:
        making.finish_layer(_stored_tensors(job, making, index, dense))


def _solve_unit(
    job: Job, stream: _Stream, index: int, unit: Unit, dense: Mapping[str, Tensor], total: HessianSum | None
) -> None:
    prefix = f"model.layers.{index}"
    weights = {f"{prefix}.{name}": dense[f"{name}.weight"].float() for name in unit}
    alive = stream.alive
    outcomes: Sequence[SolvedUnit | NumericalError]
    try:
        inputs = InputStatistics(total.mean()) if total else None
        outcomes = solve_requests(weights, inputs, [making.target.schemes for making in alive], job.stored_dtype)
    except NumericalError as error:
        outcomes = [error] * len(alive)
    for making, outcome in zip(alive, outcomes, strict=True):
        if isinstance(outcome, NumericalError):
            making.partial.fail(NumericalError(f"{prefix} {', '.join(unit)}: {outcome}"))
        else:
            making.take(outcome)


def _weights_of(job: Job, making: _Making, index: int, unit: Unit) -> dict[str, Tensor]:
    """The stored values of a unit that was just solved, by the name within the layer."""
    found = {name: making.weights.get(f"model.layers.{index}.{name}") for name in unit}
    return {name: solved.weight.to(job.stored_dtype) for name, solved in found.items() if solved is not None}


def _put(layer: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        module = layer.get_submodule(name)
        before = module.weight
        assert isinstance(before, Tensor)
        module.weight = nn.Parameter(weight.to(before.device, before.dtype), requires_grad=False)


def _stored_tensors(job: Job, making: _Making, index: int, dense: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The layer as it stands in the checkpoint; what no scheme changes is as in the model."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in dense.items():
        full_name = f"model.layers.{index}.{name}"
        solved = making.weights.get(full_name.removesuffix(".weight"))
        if solved is None:
            tensors[full_name] = tensor.to(job.stored_dtype)
        elif making.target.format is CheckpointFormat.PACKED and solved.codes is not None and solved.grid is not None:
            prefix = full_name.removesuffix("weight")
            packed = packed_tensors(solved.codes, solved.grid)
            tensors |= {f"{prefix}{suffix}": part for suffix, part in packed.items()}
        else:
            tensors[full_name] = solved.weight.to(job.stored_dtype)
    return tensors


def _stored_weights(job: Job, making: _Making, index: int) -> dict[str, Tensor]:
    """The values of a finished layer's weights as the checkpoint holds them, by the name within the layer."""
    weights: dict[str, Tensor] = {}
    for name in (name for unit in UNITS for name in unit):
        full_name = f"model.layers.{index}.{name}"
        scheme = making.target.schemes[full_name]
        spec = grid_spec(scheme, job.stored_dtype) if scheme else None
        read = making.partial.tensors.read
        if making.target.format is CheckpointFormat.PACKED and spec is not None:
            suffixes = packed_layout(torch.empty(job.shapes[f"{full_name}.weight"], device="meta"), spec)
            packed = {suffix: read(f"{full_name}.{suffix}") for suffix in suffixes}
            weights[name] = dense_weight(packed, spec).to(job.stored_dtype)
        else:
            weights[name] = read(f"{full_name}.weight")
    return weights
