"""Schemes whose settings differ from weight to weight are worked out before the pass that solves them.

average_bits: every width is tried on every unit in one dense pass that writes nothing, and its loss noted; the budget
is then given out. The loss of a unit is the sum of its weights' relative output errors: on the bundled reasoners that
sum ranked allocations as their scores do, where errors weighted by parameters or by output energy did not.
alphapruning: a sparsity for every layer from the spectra of its weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from compress.activations import open_activations
from compress.alphapruning import layer_sparsities, tail_exponent
from compress.budget import EMBEDDING, HEAD, WIDTHS, Losses, allocate, scheme_of_width
from compress.decoder import Decoder
from compress.errors import NumericalError
from compress.families import layer_stages, layers_of, linear_shapes
from compress.folding import feeder_of
from compress.forward import measure_layer, portions
from compress.hessian import InputStatistics
from compress.job import Job, Target
from compress.magnitude import round_to_nearest
from compress.methods import Allocation, Method, Width
from compress.scheme import Scheme
from compress.solve import SolvedUnit, grid_spec, solve_requests


def plan(job: Job, memory_bytes: int | None) -> tuple[Job, dict[Path, NumericalError]]:
    """The job with one scheme for every weight of every target, without the targets that there is none for, and why."""
    planner = _Planner(job, memory_bytes)
    targets: list[Target] = []
    failures: dict[Path, NumericalError] = {}
    for target in job.targets:
        try:
            targets.append(replace(target, schemes=planner.schemes(target)))
        except NumericalError as error:
            failures[target.out] = error
    return job.only(targets), failures


@dataclass
class _Planner:
    job: Job
    memory_bytes: int | None
    _losses: dict[Scheme, Losses] | NumericalError | None = None
    _exponents: list[float] | None = None

    def schemes(self, target: Target) -> Mapping[str, Scheme | None]:
        scheme = target.scheme
        if scheme.average_bits is not None:
            widths = allocate(scheme, self.job.shapes, self._losses_of(scheme), seed=0)
            chosen: dict[str, Scheme | None] = {name: scheme_of_width(scheme, width) for name, width in widths.items()}
            return {**target.schemes, **chosen}
        if scheme.method is Method.ALPHAPRUNING:
            return {**target.schemes, **self._by_layer(target)}
        return target.schemes

    def _losses_of(self, scheme: Scheme) -> Losses | None:
        """Measured at once for all budgets that solve alike; None where nobody asks."""
        if scheme.allocation is not Allocation.MEASURED:
            return None
        if self._losses is None:
            measured = [t.scheme for t in self.job.targets if t.scheme.average_bits is not None]
            kinds = list(dict.fromkeys(_kind(s) for s in measured if s.allocation is Allocation.MEASURED))
            try:
                self._losses = dict(zip(kinds, measure_losses(self.job, kinds, self.memory_bytes), strict=True))
            except NumericalError as error:
                self._losses = error
        if isinstance(self._losses, NumericalError):
            raise self._losses
        return self._losses[_kind(scheme)]

    def _by_layer(self, target: Target) -> dict[str, Scheme | None]:
        """A sparsity by layer for the modules whose own no rule sets; the asked one is their mean."""
        linear = linear_shapes(self.job.shapes)
        layers = layers_of(linear)
        if self._exponents is None:
            decoder = Decoder(self.job.model, torch.float32, self.job.device)
            self._exponents = [sum(self._exponent(decoder, name) for name in names) / len(names) for names in layers]
        asked = target.scheme.sparsity
        free = [[n for n in names if (own := target.schemes[n]) and own.sparsity == asked] for names in layers]
        taken = [index for index, names in enumerate(free) if names]
        if not taken:
            return {}
        sizes = [sum(math.prod(linear[name]) for name in free[index]) for index in taken]
        shares = layer_sparsities([self._exponents[index] for index in taken], sizes, asked)
        found: dict[str, Scheme | None] = {}
        for index, share in zip(taken, shares, strict=True):
            for name in free[index]:
                own = target.schemes[name]
                assert own is not None
                found[name] = replace(own, sparsity=share)
        return found

    def _exponent(self, decoder: Decoder, name: str) -> float:
        weight = decoder.read(f"{name}.weight").to(self.job.device)
        if not torch.isfinite(weight.sum()):
            raise NumericalError(f"{name} holds values that are not finite")
        return tail_exponent(weight)


def measure_losses(
    job: Job, schemes: Sequence[Scheme], memory_bytes: int | None
) -> list[dict[str, dict[Width, float]]]:
    """For each scheme {weight: {width: loss}}, embedding and head included, from one pass over the dense model.

    A weight's loss is its relative output error, for the embedding and the head, whose inputs are not measured, their
    relative error. Raises NumericalError.
    """
    decoder = Decoder(job.model, job.stored_dtype if job.device.type == "cuda" else torch.float32, job.device)
    losses: list[dict[str, dict[Width, float]]] = [{} for _ in schemes]
    num_bytes = sum(map(len, job.rows)) * decoder.config.hidden_size * decoder.dtype.itemsize
    folder = next(parent for parent in job.targets[0].out.absolute().parents if parent.exists())
    with open_activations(num_bytes, job.device, memory_bytes, folder) as activations:
        stages = layer_stages(job.shapes)
        batches = [activations.keep(batch) for batch in decoder.embed(job.rows, job.first_token_weight)]
        for index in range(decoder.num_layers):
            dense = decoder.read_layer(index)
            layer, units = decoder.layer(index, dense), [unit for stage in stages[index] for unit in stage]
            for portion in portions(layer, units):
                sums = measure_layer(layer, activations, batches, portion, leave=portion[-1] == units[-1])
                for unit in portion:
                    weights = {f"model.layers.{index}.{name}": dense[f"{name}.weight"].float() for name in unit}
                    inputs = sums.pop(unit).statistics(feeder_of(unit, dense, job.stored_dtype))
                    for scheme, found in zip(schemes, losses, strict=True):
                        _note(found, weights, inputs, scheme, job.stored_dtype)
    for name in (name for name in (EMBEDDING, HEAD) if f"{name}.weight" in job.shapes):
        weight = decoder.read(f"{name}.weight").float()
        for scheme, found in zip(schemes, losses, strict=True):
            found[name] = {width: _rounding_error(weight, scheme_of_width(scheme, width), job) for width in WIDTHS}
    return losses


def _kind(scheme: Scheme) -> Scheme:
    """What decides the losses: all but the budget."""
    return replace(scheme, average_bits=8.0)


def _note(
    found: dict[str, dict[Width, float]],
    weights: Mapping[str, Tensor],
    inputs: InputStatistics,
    scheme: Scheme,
    stored_dtype: torch.dtype,
) -> None:
    requests = [dict.fromkeys(weights, scheme_of_width(scheme, width)) for width in WIDTHS]
    for width, solved in zip(WIDTHS, solve_requests(weights, inputs, requests, stored_dtype), strict=True):
        if isinstance(solved, NumericalError):
            raise solved
        assert isinstance(solved, SolvedUnit)
        for name, report in solved.reports.items():
            assert report.loss is not None  # there are inputs
            found.setdefault(name, {})[width] = report.loss


def _rounding_error(weight: Tensor, scheme: Scheme, job: Job) -> float:
    spec = grid_spec(scheme, job.stored_dtype)
    assert spec is not None
    error = weight - round_to_nearest(weight, spec).weight
    return float(error.square().sum() / weight.square().sum())
