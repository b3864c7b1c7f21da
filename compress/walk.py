"""The walk over the decoder's layers that solves any number of schemes: the model is read once, a layer at a time.

A stream is a residual stream through the model, with the checkpoints whose Hessians are measured on it. Schemes that
propagate dense share one stream of the unchanged model, and so its Hessians and their factors; one that propagates
compressed has a stream of its own, in which every unit is measured behind the compressed ones before it, as the papers
do. Without calibration a stream has no batches.

Layers that an earlier, killed process has finished are passed, not solved: the streams behind them are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from compress.activations import Activations, Batch, open_activations
from compress.budget import EMBEDDING
from compress.decoder import Decoder
from compress.errors import NumericalError
from compress.families import Stage, Unit, layer_stages, layers_of, linear_shapes
from compress.folding import feeder_of
from compress.forward import (
    HESSIAN_BYTES,
    KEPT_INPUT_BYTES,
    Measured,
    Twin,
    advance,
    measure_layer,
    measure_stage,
    pass_layer,
    portions,
)
from compress.job import Job
from compress.kept import KeptHessians
from compress.making import Making, changed_tensors, layer_tensors, outer_tensor
from compress.methods import Method, Propagate
from compress.outbox import Outbox
from compress.progress import PartialCheckpoint
from compress.solve import SolvedUnit, solve_requests

Progress = Callable[[int, int], None]
# Weights, of all schemes together, that are solved at once, and bytes that each takes on the way, at most.
SOLVED_WEIGHTS, SOLVING_BYTES = 9 << 27, 16
FORWARD_BYTES = 1 << 32


@dataclass(frozen=True)
class _Stream:
    propagate: Propagate
    makings: Sequence[Making]
    batches: list[Batch] = field(default_factory=list)
    twins: list[Batch] = field(default_factory=list)

    @property
    def needs_twins(self) -> bool:
        """Whether the dense model's inputs are wanted beside the stream's own."""
        return any(making.target.scheme.method is Method.GPTAQ for making in self.makings)

    @property
    def rounds_embedding(self) -> bool:
        """Whether the stream begins with another embedding than the dense model's: a budget rounds it too."""
        return self.propagate is Propagate.COMPRESSED and self.makings[0].target.schemes.get(EMBEDDING) is not None

    @property
    def alive(self) -> list[Making]:
        return [making for making in self.makings if making.partial.failure is None]


def compress_layers(
    job: Job,
    partials: Sequence[PartialCheckpoint],
    memory_bytes: int | None,
    on_progress: Progress,
    kept: KeptHessians | None = None,
) -> str | None:
    """Fill the partial checkpoints, one for each target; where activations were kept, None where there were none.

    kept: the Hessians of the dense stream, read where they are whole, else saved.

    A target that has no solution is left with its failure noted.
    """
    decoder = Decoder(job.model, job.stored_dtype if job.device.type == "cuda" else torch.float32, job.device)
    makings = [Making(target, partial) for target, partial in zip(job.targets, partials, strict=True)]
    alive = [making for making in makings if making.partial.failure is None]
    start = min((making.partial.num_layers for making in alive), default=decoder.num_layers)
    for making in alive:
        making.partial.go_back(start)
    streams, stages = _streams(makings), layer_stages(job.shapes)
    measured = [stream for stream in streams if not (kept and kept.is_whole and stream.propagate is Propagate.DENSE)]
    if start == decoder.num_layers:
        measured = []
    with _activations(job, decoder, measured, memory_bytes) as activations, Outbox(job.device) as outbox:
        _send_outer_tensors(job, outbox, decoder, alive)
        for index in range(decoder.num_layers):
            if not any(stream.alive for stream in streams):
                break
            if index >= start or activations is not None:
                dense = decoder.read_layer(index)
                _check_finite(outbox, makings, _unsolved(job, index, dense))
                for stream in filter(lambda stream: stream.alive, streams):
                    layer = decoder.layer(index, dense)
                    if index >= start:
                        twin = Twin(decoder.layer(index, dense), stream.twins) if stream.twins else None
                        _solve_layer(job, outbox, activations, kept, stream, index, stages[index], layer, dense, twin)
                    elif activations is not None:
                        pass_layer(decoder.layer(index, dense), activations, stream.twins)
                        _pass_solved_layer(job, activations, stream, index, layer)
            on_progress(index + 1, decoder.num_layers)
    return activations.description if activations else None


def _send_outer_tensors(job: Job, outbox: Outbox, decoder: Decoder, makings: Sequence[Making]) -> None:
    """What lies outside the layers, read once for all."""
    for name in (name for name in job.shapes if not name.startswith("model.layers.")):
        tensor = decoder.read(name)
        _check_finite(outbox, makings, {name: tensor})
        for making in makings:
            outbox.write(making.partial.tensors, name, outer_tensor(job, making.target, name, tensor))


def _unsolved(job: Job, index: int, dense: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a layer no scheme looks at, such as norms."""
    names = {name: f"model.layers.{index}.{name}" for name in dense}
    solved = linear_shapes(job.shapes)
    return {full: dense[name] for name, full in names.items() if full.removesuffix(".weight") not in solved}


def _check_finite(outbox: Outbox, makings: Sequence[Making], tensors: Mapping[str, Tensor]) -> None:
    """No scheme can be made of a model that has other values here."""
    finite = torch.stack([tensor.sum(dtype=torch.float32) for tensor in tensors.values()]).isfinite().tolist()
    for name in (name for name, whole in zip(tensors, finite, strict=True) if not whole):
        outbox.flush()  # the layers before come first
        for making in (making for making in makings if making.partial.failure is None):
            making.partial.fail(NumericalError(f"{name} holds values that are not finite"))


def _streams(makings: Sequence[Making]) -> list[_Stream]:
    dense = [making for making in makings if making.target.scheme.propagate is Propagate.DENSE]
    own = [_Stream(Propagate.COMPRESSED, [making]) for making in makings if making not in dense]
    return [*([_Stream(Propagate.DENSE, dense)] if dense else []), *own]


@contextmanager
def _activations(
    job: Job, decoder: Decoder, streams: Sequence[_Stream], memory_bytes: int | None
) -> Iterator[Activations | None]:
    """Fill the streams with the embedded calibration rows; None when there are none."""
    if not (job.rows and streams):
        yield None
        return
    num_values = (
        sum(1 + stream.needs_twins for stream in streams) * sum(map(len, job.rows)) * decoder.config.hidden_size
    )
    folder, num_bytes = job.targets[0].out.parent, num_values * decoder.dtype.itemsize
    with open_activations(num_bytes, job.device, memory_bytes, folder, working_bytes(job)) as activations:
        for batch in decoder.embed(job.rows, job.first_token_weight):
            for stream in streams:
                if stream.needs_twins:
                    stream.twins.append(activations.keep(batch))
                if not stream.rounds_embedding:
                    stream.batches.append(activations.keep(batch))
        for stream in (stream for stream in streams if stream.rounds_embedding):
            name = f"{EMBEDDING}.weight"
            embedding = outer_tensor(job, stream.makings[0].target, name, decoder.read(name))
            for batch in decoder.embed(job.rows, job.first_token_weight, embedding):
                stream.batches.append(activations.keep(batch))
        yield activations


def working_bytes(job: Job) -> int:
    """What a pass takes on a GPU beside its activations, at most: the layer three times over, weights being solved,
    Hessians, a factor in the making, inputs kept until their stage is passed, and what a forward needs on its way.
    """
    linear = linear_shapes(job.shapes)
    num_sharing = max(1, sum(target.scheme.propagate is Propagate.DENSE for target in job.targets))
    num_tokens = sum(map(len, job.rows))
    most = 0
    for names, stages in zip(layers_of(linear), layer_stages(job.shapes), strict=True):
        layer = names[0].rsplit(".", names[0].count(".") - 2)[0]
        units = [[linear[f"{layer}.{name}"] for name in unit] for stage in stages for unit in stage]
        columns = [unit[0][1] for unit in units]
        unit_weights = max(sum(map(math.prod, unit)) for unit in units)
        taken = (
            3 * 2 * sum(math.prod(linear[name]) for name in names)
            + SOLVING_BYTES * max(unit_weights, min(SOLVED_WEIGHTS, num_sharing * unit_weights))
            + min(HESSIAN_BYTES, sum(4 * width**2 for width in columns))
            + 3 * 4 * max(columns) ** 2
            + min(KEPT_INPUT_BYTES, 2 * num_tokens * max(columns))
        )
        most = max(most, taken)
    return most + FORWARD_BYTES


def _pass_solved_layer(job: Job, activations: Activations, stream: _Stream, index: int, layer: nn.Module) -> None:
    if stream.propagate is Propagate.COMPRESSED:
        _put(layer, layer_tensors(job, stream.alive[0], index))
    pass_layer(layer, activations, stream.batches)


def _solve_layer(
    job: Job,
    outbox: Outbox,
    activations: Activations | None,
    kept: KeptHessians | None,
    stream: _Stream,
    index: int,
    stages: Sequence[Stage],
    layer: nn.Module,
    dense: Mapping[str, Tensor],
    twin: Twin | None,
) -> None:
    if activations is None or stream.propagate is Propagate.DENSE:
        units = [unit for stage in stages for unit in stage]
        for portion in portions(layer, units):
            last, sums = portion[-1] == units[-1], {}
            if kept and kept.is_whole:
                sums = kept.load(index, portion, job.device)
            elif activations is not None:
                sums = measure_layer(layer, activations, stream.batches, portion, leave=last)
                if kept:
                    kept.save(index, sums)
            for unit in portion:
                _solve_unit(job, outbox, stream, index, unit, dense, sums.pop(unit, None), at_once=True)
    else:
        for stage in stages:
            _solve_stage(job, outbox, activations, stream, index, stage, layer, dense, twin)
    for making in stream.alive:
        making.send(job, outbox, index, dense)
        making.finish_layer(outbox)


def _solve_stage(
    job: Job,
    outbox: Outbox,
    activations: Activations,
    stream: _Stream,
    index: int,
    stage: Stage,
    layer: nn.Module,
    dense: Mapping[str, Tensor],
    twin: Twin | None,
) -> None:
    """Measure a stage behind what is compressed, solve it, put the results into the layer and take the batches on."""
    kept: list[Tensor] = []
    for portion in portions(layer, stage):
        measured = measure_stage(layer, activations, stream.batches, portion, twin)
        for unit in portion:
            found = measured.pop(unit)
            scale = _solve_unit(job, outbox, stream, index, unit, dense, found, at_once=False)
            kept = found.kept if scale is None else [inputs / scale.to(inputs.dtype) for inputs in found.kept]
        for making in stream.alive:
            _put(layer, changed_tensors(job, making))
            if making.target.scheme.method is not Method.AWQ:  # whose later units may still divide these
                names = [f"{name}.weight" for unit in portion for name in unit]
                making.send(job, outbox, index, {name: dense[name] for name in names})
    advance(layer, activations, stream.batches, stage, kept)
    if twin is not None:
        advance(twin.layer, activations, twin.batches, stage)


def _solve_unit(
    job: Job,
    outbox: Outbox,
    stream: _Stream,
    index: int,
    unit: Unit,
    dense: Mapping[str, Tensor],
    measured: Measured | None,
    *,
    at_once: bool,
) -> Tensor | None:
    """Solve one unit for all that measure on the stream; what the last one divides its inputs by, if anything. at_once:
    results go to the files now, but for those that a later unit may still divide.
    """
    prefix = f"model.layers.{index}"
    weights = {f"{prefix}.{name}": dense[f"{name}.weight"].float() for name in unit}
    inputs, scale = None, None
    for makings in _solved_at_once(stream.alive, weights):
        outcomes: Sequence[SolvedUnit | NumericalError]
        try:
            if measured and inputs is None:
                inputs = measured.statistics(feeder_of(unit, dense, job.stored_dtype))
            outcomes = solve_requests(weights, inputs, [making.target.schemes for making in makings], job.stored_dtype)
        except NumericalError as error:
            outcomes = [error] * len(makings)
        for making, outcome in zip(makings, outcomes, strict=True):
            if isinstance(outcome, NumericalError):
                outbox.flush()  # the layers before come first
                making.partial.fail(NumericalError(f"{prefix} {', '.join(unit)}: {outcome}"))
                continue
            making.take(unit, outcome, measured, dense, job.stored_dtype)
            scale = outcome.input_scale
            if at_once and making.target.scheme.method is not Method.AWQ:
                making.send(job, outbox, index, {name: dense[name] for name in map("{}.weight".format, unit)})
    return scale


def _solved_at_once(makings: Sequence[Making], weights: Mapping[str, Tensor]) -> Iterator[Sequence[Making]]:
    """Makings in their order, as many at a time as SOLVED_WEIGHTS allow."""
    count = max(1, SOLVED_WEIGHTS // sum(weight.numel() for weight in weights.values()))
    for start in range(0, len(makings), count):
        yield makings[start : start + count]


def _put(layer: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        module, _, parameter = name.rpartition(".")
        owner = layer.get_submodule(module)
        before = getattr(owner, parameter)
        stored = tensor.to(before.device, before.dtype)
        is_parameter = isinstance(before, nn.Parameter)  # else a buffer
        setattr(owner, parameter, nn.Parameter(stored, requires_grad=False) if is_parameter else stored)
