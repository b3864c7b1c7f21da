"""AWQ (Lin et al., arXiv 2306.00978): inputs are scaled so that the weights they meet lose less by rounding; then each
group's range is clipped. Pure.

Shapes: R rows/out, C columns/in, G groups. x / s enters the layer instead of x, and W * s is rounded, so the division
must go into what makes x: a norm's weight, or the rows of the matrix before. The paper runs calibration tokens through
the layer for every candidate; the same squared error of the layer's outputs is tr((W-Q)H(W-Q)') of the Hessian here,
and a channel's size is the root mean square of its inputs where the paper takes their mean absolute value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.hessian import Feeder
from compress.lanes import Solved
from compress.products import full_precision
from compress.quantizer import GridSpec, fit_grid, from_codes, search_range, to_codes

NUM_RATIOS = 20


@dataclass(frozen=True)
class Scaled:
    """Weights by name, rounded after their columns were multiplied by input_scale [C]."""

    weights: Mapping[str, Solved]
    input_scale: Tensor


def solve_awq(
    weights: Mapping[str, Tensor],
    hessian: Tensor,
    spec: GridSpec,
    *,
    feeder: Feeder | None = None,
    unclipped: Collection[str] = (),
) -> Scaled:
    """Round weights {name: [R, C]} that read the same inputs.

    feeder: what takes the division; for a norm, scales are chosen so that its weight / scale is exact as stored, for
    rows of a matrix they are powers of two. None: no scale, the inputs come from where none can go. unclipped: names
    whose range stays whole (the paper's choice for queries and keys).
    """
    scale = _search_scale(weights, hessian, spec, feeder.norm) if feeder else torch.ones_like(hessian[0])
    inputs = hessian / scale / scale.unsqueeze(1)
    solved = {}
    for name, weight in weights.items():
        wide = weight * scale
        grid = fit_grid(wide, spec) if name in unclipped else search_range(wide, spec, inputs)
        codes = to_codes(wide, grid)
        solved[name] = Solved(from_codes(codes, grid), grid)
    return Scaled(solved, scale)


def divide_norm(norm: Tensor, scale: Tensor) -> Tensor:
    """A norm's stored weight [C] over the scale that representable_scale gave for it."""
    return (norm.to(scale.dtype) / scale).to(norm.dtype)


def representable_scale(scale: Tensor, norm: Tensor | None) -> Tensor:
    """The nearest scale [C] by which the norm's weight can be divided without rounding; powers of two without one."""
    if norm is None:
        return torch.exp2(scale.log2().round())
    divided = divide_norm(norm, scale).to(scale.dtype)
    exact = norm.to(scale.dtype) / divided
    return torch.where(torch.isfinite(exact) & (exact > 0), exact, torch.ones_like(scale))


def _search_scale(weights: Mapping[str, Tensor], hessian: Tensor, spec: GridSpec, norm: Tensor | None) -> Tensor:
    """Of the input sizes to the powers 0, 1/20 ... 19/20, the scale whose rounding loses least."""
    sizes = hessian.diagonal().clamp(min=0).sqrt()
    sizes = torch.where(sizes > 0, sizes, sizes[sizes > 0].mean() if (sizes > 0).any() else torch.ones_like(sizes))
    best, lowest = torch.ones_like(sizes), float("inf")
    for step in range(NUM_RATIOS):
        powered = sizes.pow(step / NUM_RATIOS).clamp(min=1e-4)
        scale = representable_scale(powered / (powered.max() * powered.min()).sqrt(), norm)
        loss = sum(_loss(weight, scale, hessian, spec) for weight in weights.values())
        if loss < lowest:
            best, lowest = scale, loss
    return best


def _loss(weight: Tensor, scale: Tensor, hessian: Tensor, spec: GridSpec) -> float:
    wide = weight * scale
    grid = fit_grid(wide, spec)
    error = weight - from_codes(to_codes(wide, grid), grid) / scale
    with full_precision():
        return float(((error @ hessian) * error).sum())
