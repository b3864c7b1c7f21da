"""One unit of weights that read the same inputs, from their statistics to stored values, for any number of schemes.
Pure.

Shapes: R rows/out, C columns/in. The rows of a unit's weights are stacked, because they share H, and so are those of
all schemes that share its factor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

import torch
from torch import Tensor

from compress.awq import solve_awq
from compress.columns import solve_columns
from compress.errors import NumericalError
from compress.gptaq import asymmetric_target
from compress.hessian import Factor, InputStatistics, output_energy
from compress.lanes import Lane, Pruning, Solved, block_width
from compress.magnitude import prune_by_magnitude, round_to_nearest
from compress.methods import WEIGHTS_ALONE, Method
from compress.obr import solve_obr
from compress.quantizer import GridSpec
from compress.report import LayerReport
from compress.scheme import Scheme
from compress.wanda import prune_by_wanda

Weights = Mapping[str, Tensor]
UnitSchemes = Mapping[str, Scheme | None]
_SWEEPING = (Method.GPTQ, Method.GPTAQ, Method.SPARSEGPT, Method.ALPHAPRUNING)
# AWQ leaves the range of queries and keys whole: clipped ones disturb their product (its authors' code does so).
_UNCLIPPED = ("q_proj", "k_proj")


@dataclass(frozen=True)
class SolvedUnit:
    """What each weight became, by name. factors: those that were used, none for methods that need none. input_scale
    [C]: what the inputs must be divided by, None = nothing; the weights count on it.
    """

    weights: Mapping[str, Solved] = field(default_factory=dict)
    reports: Mapping[str, LayerReport] = field(default_factory=dict)
    factors: tuple[Factor, ...] = ()
    input_scale: Tensor | None = None


@dataclass(frozen=True)
class _Outcome:
    """What one solver made of one part."""

    weights: Mapping[str, Solved]
    factor: Factor | None = None
    input_scale: Tensor | None = None


@dataclass(frozen=True)
class _Energies:
    """A weight's own square, and that of its outputs where there are inputs, on the device."""

    weight: Tensor
    output: Tensor | None


@dataclass(frozen=True)
class _Measured:
    """What a report of one weight of one request needs. numbers: see _measure."""

    request: int
    name: str
    factor: Factor | None
    numbers: Tensor


@dataclass(frozen=True)
class _Part:
    """Weights of the unit, by name, that one of the requests has one scheme for; whole: they are all of the unit."""

    request: int
    scheme: Scheme
    weights: Weights
    whole: bool


def solve_unit(weights: Weights, hessian: Tensor | None, scheme: Scheme, stored_dtype: torch.dtype) -> SolvedUnit:
    """Apply one scheme to weights {name: [R, C]}, fp32, whose inputs have the Hessian [C, C]; see solve_requests."""
    inputs = None if hessian is None else InputStatistics(hessian)
    (solved,) = solve_requests(weights, inputs, [dict.fromkeys(weights, scheme)], stored_dtype)
    if isinstance(solved, NumericalError):
        raise solved
    return solved


def solve_requests(
    weights: Weights, inputs: InputStatistics | None, requests: Sequence[UnitSchemes], stored_dtype: torch.dtype
) -> list[SolvedUnit | NumericalError]:
    """Apply each request {name: scheme, or None to leave the weight} to weights {name: [R, C]}, fp32.

    inputs may be None for rtn and magnitude; given, the loss is reported for them too. Scales are rounded to
    stored_dtype. The outcomes in the order of `requests`; one that has no solution takes no other with it. Raises
    NumericalError when the Hessian is not finite.

    A sweep is given to the device before anyone has seen its factor, so that the device never waits for this process;
    all numbers are looked at together when all is given, and a factor that was not sound has its unit solved again.
    """
    parts = [part for index, request in enumerate(requests) for part in _parts(index, weights, request)]
    if inputs and not inputs.is_settled and any(part.scheme.method not in _SWEEPING for part in parts):
        inputs.settle()
    energies = {
        name: _Energies(_square(weight), output_energy(weight, inputs.hessian) if inputs else None)
        for name, weight in weights.items()
    }
    outcomes, measured = _solve_parts(parts, inputs, energies, len(requests), stored_dtype)
    sound = [used.is_sound for found in outcomes if isinstance(found, SolvedUnit) for used in found.factors]
    finite = [torch.isfinite(weight.sum()) for weight in weights.values()]
    numbers, is_sound, is_finite = _on_host(measured, sound, finite)
    if inputs and not inputs.is_settled and not all(is_sound):
        del outcomes, measured  # a large layer's results take much room
        inputs.settle()
        return solve_requests(weights, inputs, requests, stored_dtype)
    for index, request in enumerate(requests):
        broken = [n for n, whole in zip(weights, is_finite, strict=True) if not whole and request[n] is not None]
        if broken:
            outcomes[index] = NumericalError(f"{broken[0]} holds values that are not finite")
    return _with_reports(outcomes, measured, numbers, has_loss=inputs is not None)


def _solve_parts(
    parts: Sequence[_Part],
    inputs: InputStatistics | None,
    energies: Mapping[str, _Energies],
    num_requests: int,
    stored_dtype: torch.dtype,
) -> tuple[list[SolvedUnit | NumericalError], list[_Measured]]:
    """The outcomes, without reports, and what these are made of, still on the device."""
    outcomes: list[SolvedUnit | NumericalError] = [SolvedUnit() for _ in range(num_requests)]
    measured: list[_Measured] = []
    for group in _share_a_sweep(parts):
        try:
            solved = _solve_together(group, inputs, stored_dtype)
        except NumericalError as error:
            for part in group:
                outcomes[part.request] = error
            continue
        for part, outcome in zip(group, solved, strict=True):
            before = outcomes[part.request]
            if isinstance(before, SolvedUnit):
                for name in outcome.weights:
                    numbers = _measure(part.weights[name], outcome, name, inputs, energies[name], stored_dtype)
                    measured.append(_Measured(part.request, name, outcome.factor, numbers))
                outcomes[part.request] = SolvedUnit(
                    {**before.weights, **outcome.weights},
                    {},
                    before.factors + ((outcome.factor,) if outcome.factor else ()),
                    outcome.input_scale,
                )
    return outcomes, measured


def _parts(index: int, weights: Weights, request: UnitSchemes) -> list[_Part]:
    schemes = dict.fromkeys(scheme for name in weights if (scheme := request[name]) is not None)
    named = {s: {name: weight for name, weight in weights.items() if request[name] == s} for s in schemes}
    return [_Part(index, scheme, part, len(part) == len(weights)) for scheme, part in named.items()]


def _share_a_sweep(parts: Iterable[_Part]) -> list[list[_Part]]:
    """Parts that can be solved in one sweep over the columns: of one factor and one width of blocks."""
    groups: dict[object, list[_Part]] = {}
    for number, part in enumerate(parts):
        key: object = number
        scheme = part.scheme
        if scheme.method in _SWEEPING:
            spec, pruning = grid_spec(scheme, torch.float32), _pruning(part)
            num_columns, ordered = next(iter(part.weights.values())).shape[1], bool(scheme.act_order)
            width = block_width(num_columns, spec, pruning, scheme.block_size, ordered=ordered)
            key = (scheme.dampening_frac, ordered, width)
        groups.setdefault(key, []).append(part)
    return list(groups.values())


def _solve_together(
    parts: Sequence[_Part], inputs: InputStatistics | None, stored_dtype: torch.dtype
) -> list[_Outcome]:
    """The one place where a method's name becomes a solver. Only what sweeps comes in more than one part."""
    part, scheme = parts[0], parts[0].scheme
    if inputs is None and scheme.method not in WEIGHTS_ALONE:
        raise NumericalError(f"{scheme.method} needs the Hessian of the inputs")
    spec, hessian = grid_spec(scheme, stored_dtype), inputs.hessian if inputs else torch.empty(0)
    match scheme.method:
        case Method.GPTQ | Method.GPTAQ | Method.SPARSEGPT | Method.ALPHAPRUNING:
            assert inputs is not None
            return _sweep(parts, inputs, stored_dtype)
        case Method.OBR:
            assert inputs is not None
            used, _ = inputs.factor(scheme.dampening_frac, False)
            restored = {
                name: solve_obr(
                    weight, hessian, used, scheme.sparsity, scheme.pattern, spec=spec, block_size=scheme.block_size
                )
                for name, weight in part.weights.items()
            }
            return [_Outcome(restored, used)]
        case Method.AWQ:
            assert spec is not None and inputs is not None
            unclipped = [name for name in part.weights if name.endswith(_UNCLIPPED)]
            feeder = inputs.feeder if part.whole else None
            scaled = solve_awq(part.weights, hessian, spec, feeder=feeder, unclipped=unclipped)
            return [_Outcome(scaled.weights, input_scale=scaled.input_scale if feeder else None)]
        case Method.RTN | Method.MAGNITUDE | Method.WANDA:
            return [
                _Outcome({name: _solve_alone(weight, hessian, scheme, spec) for name, weight in part.weights.items()})
            ]
        case _ as unknown:
            assert_never(unknown)


def _sweep(parts: Sequence[_Part], inputs: InputStatistics, stored_dtype: torch.dtype) -> list[_Outcome]:
    scheme = parts[0].scheme
    used, order = inputs.factor(scheme.dampening_frac, bool(scheme.act_order))
    lanes = []
    stacked: dict[tuple[str, ...], Tensor] = {}
    for part in parts:
        names = tuple(part.weights)
        if names not in stacked:
            stacked[names] = used.without_dead(torch.cat(list(part.weights.values())), order)
        weight = stacked[names]
        if part.scheme.method is Method.GPTAQ and inputs.cross is not None:
            weight = asymmetric_target(weight, inputs.cross, used, order)
        lanes.append(Lane(weight, grid_spec(part.scheme, stored_dtype), _pruning(part), part.scheme.block_size))
    results = solve_columns(lanes, used.upper, order=order)
    return [_Outcome(_split(part.weights, result), used) for part, result in zip(parts, results, strict=True)]


def _pruning(part: _Part) -> Pruning | None:
    scheme = part.scheme
    if scheme.sparsity == 0:
        return None
    row_counts = tuple(weight.shape[0] for weight in part.weights.values())
    return Pruning(scheme.sparsity, scheme.pattern, scheme.block_size, row_counts)


def _split(weights: Weights, result: Solved) -> dict[str, Solved]:
    ends = torch.tensor([weight.shape[0] for weight in weights.values()]).cumsum(0).tolist()
    return {name: result.rows(end - weights[name].shape[0], end) for name, end in zip(weights, ends, strict=True)}


def _solve_alone(weight: Tensor, hessian: Tensor, scheme: Scheme, spec: GridSpec | None) -> Solved:
    keep_mask = None
    if scheme.sparsity > 0:
        if scheme.method is Method.WANDA:
            pruned = prune_by_wanda(weight, hessian, scheme.sparsity, scheme.pattern)
        else:
            pruned = prune_by_magnitude(weight, scheme.sparsity, scheme.pattern)
        if spec is None:
            return pruned
        weight, keep_mask = pruned.weight, pruned.keep_mask
    assert spec is not None  # a scheme has bits or sparsity
    return replace(round_to_nearest(weight, spec), keep_mask=keep_mask)


def grid_spec(scheme: Scheme, stored_dtype: torch.dtype) -> GridSpec | None:
    """The grid that the scheme rounds to, None when it does not round."""
    if scheme.num_bits is None:
        return None
    return GridSpec.of(
        scheme.num_bits,
        group_size=scheme.group_size,
        symmetric=scheme.symmetric,
        scale_dtype=stored_dtype,
        observer=scheme.observer,
        inputs=scheme.input_activations,
    )


def _measure(
    weight: Tensor,
    outcome: _Outcome,
    name: str,
    inputs: InputStatistics | None,
    energies: _Energies,
    stored_dtype: torch.dtype,
) -> Tensor:
    """What a report needs, [4], fp64, on the device: energy lost and of the whole, weight error, share kept."""
    result = outcome.weights[name]
    stored = result.weight.to(stored_dtype)
    error = weight - (stored if outcome.input_scale is None else stored.to(weight.dtype) / outcome.input_scale)
    lost = output_energy(error, inputs.hessian) if inputs else error.new_zeros(())
    kept = error.new_ones(()) if result.keep_mask is None else result.keep_mask.sum() / weight.numel()
    changed = _square(error) / energies.weight.clamp(min=1e-30)
    numbers = (lost, lost.new_ones(()) if energies.output is None else energies.output, changed, kept)
    return torch.stack([number.double() for number in numbers])


def _on_host(
    measured: Sequence[_Measured], sound: Sequence[Tensor], finite: Sequence[Tensor]
) -> tuple[list[list[float]], list[bool], list[bool]]:
    """The numbers of each report, whether each factor is sound and each weight finite: one wait for the device."""
    flags = torch.stack([*sound, *finite]).double()
    values: list[float] = torch.cat([*(found.numbers for found in measured), flags]).tolist()
    numbers, are = values[: -len(flags)], [value > 0 for value in values[-len(flags) :]]
    return [numbers[i : i + 4] for i in range(0, len(numbers), 4)], are[: len(sound)], are[len(sound) :]


def _square(values: Tensor) -> Tensor:
    """The sum of their squares, []."""
    norm: Tensor = torch.linalg.vector_norm(values)
    return norm.square()


def _with_reports(
    outcomes: list[SolvedUnit | NumericalError],
    measured: Sequence[_Measured],
    numbers: Sequence[Sequence[float]],
    *,
    has_loss: bool,
) -> list[SolvedUnit | NumericalError]:
    """The outcomes with a report for each weight."""
    for found, (lost, whole, weight_error, kept) in zip(measured, numbers, strict=True):
        outcome = outcomes[found.request]
        if isinstance(outcome, SolvedUnit):
            report = LayerReport(
                name=found.name,
                loss=lost / (whole or 1.0) if has_loss else None,
                weight_error=weight_error,
                sparsity=1 - kept,
                dampening_frac=found.factor.dampening_frac if found.factor else None,
            )
            outcomes[found.request] = replace(outcome, reports={**outcome.reports, found.name: report})
    return outcomes
