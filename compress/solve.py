"""One unit of weights that read the same inputs, from Hessian to stored values. Pure.

Shapes: R rows/out, C columns/in. The rows of a unit's weights are stacked, because they share H.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import assert_never

import torch
from torch import Tensor

from compress.columns import Pruning, Solved
from compress.errors import NumericalError
from compress.gptq import falling_diagonal, solve_gptq
from compress.hessian import Factor, factor, relative_loss
from compress.magnitude import prune_by_magnitude, round_to_nearest
from compress.quantizer import GridSpec
from compress.report import LayerReport
from compress.scheme import Method, Scheme
from compress.sparsegpt import solve_sparsegpt
from compress.wanda import prune_by_wanda


@dataclass(frozen=True)
class SolvedUnit:
    """What each weight became, by name; factor: None for methods that need none."""

    weights: Mapping[str, Solved]
    reports: Mapping[str, LayerReport]
    factor: Factor | None


def solve_unit(
    weights: Mapping[str, Tensor], hessian: Tensor | None, scheme: Scheme, stored_dtype: torch.dtype
) -> SolvedUnit:
    """Apply the scheme to weights {name: [R, C]}, fp32, whose inputs have the Hessian [C, C].

    hessian may be None for rtn and magnitude; given, the loss is reported for them too. Scales are rounded to
    stored_dtype. Raises NumericalError for weights that are not finite.
    """
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise NumericalError(f"{name} holds values that are not finite")
    spec = None
    if scheme.num_bits is not None:
        spec = GridSpec.of(scheme.num_bits, scheme.group_size, scheme.symmetric, stored_dtype, scheme.observer)
    solved: Mapping[str, Solved]
    used: Factor | None = None
    match scheme.method:
        case Method.GPTQ | Method.SPARSEGPT:
            if hessian is None:
                raise NumericalError(f"{scheme.method} needs the Hessian of the inputs")
            solved, used = _solve_stacked(weights, hessian, scheme, spec)
        case Method.RTN | Method.MAGNITUDE | Method.WANDA:
            solved = {name: _solve_alone(weight, hessian, scheme, spec) for name, weight in weights.items()}
        case _ as unknown:
            assert_never(unknown)
    frac = used.dampening_frac if used else None
    reports = {
        name: _report(name, weights[name], result, hessian, stored_dtype, frac) for name, result in solved.items()
    }
    return SolvedUnit(solved, reports, used)


def _solve_stacked(
    weights: Mapping[str, Tensor], hessian: Tensor, scheme: Scheme, spec: GridSpec | None
) -> tuple[dict[str, Solved], Factor]:
    stacked = torch.cat(list(weights.values()))
    row_counts = tuple(weight.shape[0] for weight in weights.values())
    order = falling_diagonal(hessian) if scheme.act_order else None
    ordered = hessian if order is None else hessian[order][:, order]
    used = factor(ordered, scheme.dampening_frac)
    if scheme.sparsity > 0:
        pruning = Pruning(scheme.sparsity, scheme.pattern, scheme.block_size, row_counts)
        result = solve_sparsegpt(stacked, used, pruning, spec=spec, block_size=scheme.block_size, order=order)
    else:
        assert spec is not None  # a scheme has bits or sparsity
        result = solve_gptq(stacked, used, spec, block_size=scheme.block_size, order=order)
    ends = torch.tensor(row_counts).cumsum(0).tolist()
    parts = zip(weights, row_counts, ends, strict=True)
    return {name: result.rows(end - count, end) for name, count, end in parts}, used


def _solve_alone(weight: Tensor, hessian: Tensor | None, scheme: Scheme, spec: GridSpec | None) -> Solved:
    keep_mask = None
    if scheme.sparsity > 0:
        if scheme.method is Method.WANDA:
            if hessian is None:
                raise NumericalError(f"{scheme.method} needs the Hessian of the inputs")
            pruned = prune_by_wanda(weight, hessian, scheme.sparsity, scheme.pattern)
        else:
            pruned = prune_by_magnitude(weight, scheme.sparsity, scheme.pattern)
        if spec is None:
            return pruned
        weight, keep_mask = pruned.weight, pruned.keep_mask
    assert spec is not None  # a scheme has bits or sparsity
    return replace(round_to_nearest(weight, spec), keep_mask=keep_mask)


def _report(
    name: str, weight: Tensor, result: Solved, hessian: Tensor | None, stored_dtype: torch.dtype, frac: float | None
) -> LayerReport:
    stored = result.weight.to(stored_dtype).to(weight.dtype)
    return LayerReport(
        name=name,
        loss=None if hessian is None else relative_loss(weight, stored, hessian),
        weight_error=float((weight - stored).square().sum() / weight.square().sum().clamp(min=1e-30)),
        sparsity=0.0 if result.keep_mask is None else 1 - float(result.keep_mask.float().mean()),
        dampening_frac=frac,
    )
