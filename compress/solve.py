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
    stored_dtype. The outcomes in the order of `requests`; one that has no solution takes no other with it.
    """
    broken = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
    if broken:
        return [NumericalError(f"{broken[0]} holds values that are not finite") for _ in requests]
    parts = [part for index, request in enumerate(requests) for part in _parts(index, weights, request)]
    energies = {name: output_energy(weight, inputs.hessian) for name, weight in weights.items()} if inputs else {}
    outcomes: list[SolvedUnit | NumericalError] = [SolvedUnit() for _ in requests]
    measured: list[tuple[int, str, Factor | None, Tensor]] = []
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
                    numbers = _measure(part.weights[name], outcome, name, inputs, energies.get(name), stored_dtype)
                    measured.append((part.request, name, outcome.factor, numbers))
                outcomes[part.request] = SolvedUnit(
                    {**before.weights, **outcome.weights},
                    {},
                    before.factors + ((outcome.factor,) if outcome.factor else ()),
                    outcome.input_scale,
                )
    return _with_reports(outcomes, measured, has_loss=inputs is not None)


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
    energy: Tensor | None,
    stored_dtype: torch.dtype,
) -> Tensor:
    """What a report needs, [4], fp64, on the device: energy lost and of the whole, weight error, share kept."""
    result = outcome.weights[name]
    stored = result.weight.to(stored_dtype).to(weight.dtype)
    error = weight - (stored if outcome.input_scale is None else stored / outcome.input_scale)
    lost = output_energy(error, inputs.hessian) if inputs else error.new_zeros(())
    kept = error.new_ones(()) if result.keep_mask is None else result.keep_mask.sum() / weight.numel()
    norm, changed = weight.square().sum().clamp(min=1e-30), error.square().sum()
    numbers = (lost, lost.new_ones(()) if energy is None else energy, changed / norm, kept)
    return torch.stack([number.double() for number in numbers])


def _with_reports(
    outcomes: list[SolvedUnit | NumericalError],
    measured: Sequence[tuple[int, str, Factor | None, Tensor]],
    *,
    has_loss: bool,
) -> list[SolvedUnit | NumericalError]:
    """The outcomes with a report for each weight. All numbers come from the device at once: one wait."""
    numbers = torch.stack([found for *_, found in measured]).tolist() if measured else []
    for (request, name, used, _), (lost, whole, weight_error, kept) in zip(measured, numbers, strict=True):
        outcome = outcomes[request]
        if isinstance(outcome, SolvedUnit):
            report = LayerReport(
                name=name,
                loss=lost / (whole or 1.0) if has_loss else None,
                weight_error=weight_error,
                sparsity=1 - kept,
                dampening_frac=used.dampening_frac if used else None,
            )
            outcomes[request] = replace(outcome, reports={**outcome.reports, name: report})
    return outcomes
