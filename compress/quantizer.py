"""Grids of evenly spaced values. Pure functions over tensors.

Shapes: R rows/out, C columns/in, G groups of C/G consecutive columns that share a scale (G = 1: one per row).
A weight's nearest grid value is (code - zero_point) * scale, with code in [lowest, highest].

Codes are signed, lowest = -2^(bits-1), highest = 2^(bits-1) - 1, scale = range / (2^bits - 1), as compressed-tensors
and the GPTQ code (IST-DASLab/gptq, quant.py) have them. Symmetric: range = 2 * absmax and zero_point = 0.
Asymmetric: the range is widened to contain 0 and zero_point is a whole code. So both kinds hold 0 exactly, which
pruned weights need. Scales are rounded to the dtype they are stored in before any code or error is computed.
Ternary: codes -1, 0, 1 with the scale of least squared error, found exactly; stored like symmetric 2-bit codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from compress.methods import TERNARY, InputActivations, Observer, Width, code_bits

SCALE_DTYPE = torch.bfloat16
FP8, FP8_MAX = torch.float8_e4m3fn, 448
# Shares of the full range that a search for the best clipping tries; 1 = nothing is clipped.
RANGE_SHARES = tuple(1 - 0.025 * step for step in range(29))
# Half-quadratic search: exponent and strength of the error norm, and rounds (Badri and Shaji, HQQ, 2023).
HQQ_NORM, HQQ_BETA, HQQ_GROWTH, HQQ_ROUNDS = 0.7, 10.0, 1.01, 20


@dataclass(frozen=True)
class GridSpec:
    """How weights are rounded; group_size None = one group per row; scale_dtype: as stored in the checkpoint.
    observer: how a grid is fitted to a group's values. ternary: of the 2-bit codes only -1, 0 and 1. inputs: what the
    engine rounds the layer's inputs to; with FP8 the codes are fp8 values themselves, on no even grid.
    """

    num_bits: int
    group_size: int | None = None
    symmetric: bool = True
    scale_dtype: torch.dtype = SCALE_DTYPE
    observer: Observer = Observer.MINMAX
    ternary: bool = False
    inputs: InputActivations | None = None

    @classmethod
    def of(cls, width: Width, **settings: Any) -> GridSpec:
        """The grid of a scheme's num_bits, which may be "ternary"."""
        return cls(code_bits(width), ternary=width == TERNARY, **settings)

    @property
    def is_fp8(self) -> bool:
        return self.inputs is InputActivations.FP8

    @property
    def lowest(self) -> int:
        return -1 if self.ternary else -(1 << (self.num_bits - 1))

    @property
    def highest(self) -> int:
        return (1 << (self.num_bits - 1)) - 1

    @property
    def num_steps(self) -> int:
        """Steps of a scale from one end of a group's range to the other."""
        return 2 * FP8_MAX if self.is_fp8 else (1 << self.num_bits) - 1

    @property
    def holds_range(self) -> bool:
        """Whether a grid just holds its group's smallest and largest value, without a search."""
        return self.observer is Observer.MINMAX and not self.ternary


@dataclass(frozen=True)
class Grid:
    """scale [R, G], exact in the spec's scale_dtype, and zero_point [R, G], whole numbers, in the weights' dtype."""

    spec: GridSpec
    scale: Tensor
    zero_point: Tensor


def fit_grid(weight: Tensor, spec: GridSpec) -> Grid:
    """Grid of weight [R, C] as the spec's observer fits it.

    MINMAX: the range just holds each group's smallest and largest value and 0. MSE: of RANGE_SHARES of that range the
    one with the least squared error. HQQ: scale and zero point by half-quadratic splitting. Ternary grids have the
    least squared error already.
    """
    match spec.observer:
        case Observer.MSE if not spec.ternary:
            return search_range(weight, spec)
        case Observer.HQQ if not spec.ternary:
            return _half_quadratic(weight, _full_range(weight, spec, 1.0))
        case _:
            return _full_range(weight, spec, 1.0)


def search_range(weight: Tensor, spec: GridSpec, hessian: Tensor | None = None) -> Grid:
    """Grid of weight [R, C] with the share of the full range that costs each group least.

    The cost of a group's error e [g] is e' H_gg e with H_gg its block of the Hessian [C, C], or e'e without one.
    """
    num_rows, num_columns = weight.shape
    size = spec.group_size or num_columns
    groups = weight.reshape(num_rows, -1, size)
    best = _full_range(weight, spec, RANGE_SHARES[0])
    lowest: Tensor | None = None
    for share in RANGE_SHARES:
        grid = _full_range(weight, spec, share)
        error = groups - _round_groups(groups, grid)
        cost = error.square().sum(-1) if hessian is None else _block_cost(error, hessian)
        if lowest is None:
            lowest = cost
            continue
        better = cost < lowest
        lowest = torch.where(better, cost, lowest)
        scale, zero_point = (
            torch.where(better, grid.scale, best.scale),
            torch.where(better, grid.zero_point, best.zero_point),
        )
        best = Grid(spec, scale, zero_point)
    return best


def to_codes(weight: Tensor, grid: Grid) -> Tensor:
    """Nearest codes of weight [R, C], int8 [R, C] (fp8 values for an fp8 grid)."""
    codes = weight.reshape(*grid.scale.shape, -1) / grid.scale.unsqueeze(-1)
    if grid.spec.is_fp8:
        return codes.clamp_(-FP8_MAX, FP8_MAX).to(FP8).reshape(weight.shape)
    codes += grid.zero_point.unsqueeze(-1)
    return codes.round_().clamp_(grid.spec.lowest, grid.spec.highest).to(torch.int8).reshape(weight.shape)


def from_codes(codes: Tensor, grid: Grid) -> Tensor:
    """Grid values [R, C] of codes [R, C], in the dtype of the scales."""
    scale, zero_point = expand(grid.scale, codes.shape[1]), expand(grid.zero_point, codes.shape[1])
    return (codes.to(scale.dtype) - zero_point) * scale


def expand(per_group: Tensor, num_columns: int) -> Tensor:
    """[R, G] -> [R, C], each group's value repeated over its columns."""
    return per_group.repeat_interleave(num_columns // per_group.shape[1], dim=1)


def concatenate(grids: Sequence[Grid]) -> Grid:
    """Grids of neighbouring column groups as one, [R, G1] and [R, G2] -> [R, G1 + G2]."""
    scale = torch.cat([grid.scale for grid in grids], 1)
    return Grid(grids[0].spec, scale, torch.cat([grid.zero_point for grid in grids], 1))


def divide_rows(grid: Grid, divisor: Tensor) -> Grid:
    """The grid of weights whose rows are divided by `divisor` [R], powers of two, so that scales stay exact."""
    return replace(grid, scale=grid.scale / divisor.unsqueeze(1))


def _full_range(weight: Tensor, spec: GridSpec, share: float) -> Grid:
    """The grid over `share` of each group's range, widened to hold 0."""
    groups = weight.reshape(weight.shape[0], -1, spec.group_size or weight.shape[1])
    if spec.ternary:
        scale = _stored_scale(share * _ternary_scale(groups), spec)
        return Grid(spec, scale, torch.zeros_like(scale))
    low, high = groups.amin(-1).clamp(max=0) * share, groups.amax(-1).clamp(min=0) * share
    if spec.symmetric:
        high = torch.maximum(high, -low)
        low = -high
    scale = _stored_scale((high - low) / spec.num_steps, spec)
    if spec.symmetric:
        return Grid(spec, scale, torch.zeros_like(scale))
    zero_point = (spec.lowest - low / scale).round().clamp(spec.lowest, spec.highest)
    return Grid(spec, scale, zero_point)


def _stored_scale(scale: Tensor, spec: GridSpec) -> Tensor:
    """As the checkpoint holds it; a group of zeros has any scale."""
    stored = scale.to(spec.scale_dtype).to(scale.dtype)
    return torch.where(stored > 0, stored, torch.ones_like(stored))


def _ternary_scale(groups: Tensor) -> Tensor:
    """[R, G] from [R, G, g]: with the k largest |w| kept, the best scale is their mean and takes (their sum)^2 / k off
    the squared error; the best k of all is taken.
    """
    falling = groups.abs().sort(dim=-1, descending=True).values
    sums = falling.cumsum(-1)
    counts = torch.arange(1, groups.shape[-1] + 1, dtype=groups.dtype, device=groups.device)
    best = (sums.square() / counts).argmax(-1, keepdim=True)
    return (sums / counts).gather(-1, best).squeeze(-1)


def _round_groups(groups: Tensor, grid: Grid) -> Tensor:
    """Grid values of [R, G, g]."""
    scale, zero_point = grid.scale.unsqueeze(-1), grid.zero_point.unsqueeze(-1)
    codes = (groups / scale + zero_point).round().clamp(grid.spec.lowest, grid.spec.highest)
    return (codes - zero_point) * scale


def _block_cost(error: Tensor, hessian: Tensor) -> Tensor:
    """[R, G] from errors [R, G, g]: e' H_gg e with the blocks of the Hessian [C, C] on its diagonal."""
    num_groups, size = error.shape[1:]
    blocks = hessian.reshape(num_groups, size, num_groups, size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    by_group = error.transpose(0, 1)
    return ((by_group @ blocks) * by_group).sum(-1).T


def _half_quadratic(weight: Tensor, grid: Grid) -> Grid:
    """Lower sum |w - q|^0.7 in turns: split off the outliers of the error by shrinkage, refit scale and zero point to
    the rest by least squares. The best round by that norm is kept.
    """
    spec = grid.spec
    groups = weight.reshape(weight.shape[0], -1, spec.group_size or weight.shape[1])
    best, beta = grid, HQQ_BETA
    lowest = (groups - _round_groups(groups, grid)).abs().pow(HQQ_NORM).sum(-1)
    for _ in range(HQQ_ROUNDS):
        scale, zero_point = grid.scale.unsqueeze(-1), grid.zero_point.unsqueeze(-1)
        codes = (groups / scale + zero_point).round().clamp(spec.lowest, spec.highest)
        error = groups - (codes - zero_point) * scale
        shrunk = (error.abs() - error.abs().clamp(min=1e-8).pow(HQQ_NORM - 1) / beta).clamp(min=0) * error.sign()
        rest = groups - shrunk
        if not spec.symmetric:
            zero_point = (codes - rest / scale).mean(-1, keepdim=True).round().clamp(spec.lowest, spec.highest)
        steps = codes - zero_point
        fitted = (rest * steps).sum(-1) / steps.square().sum(-1).clamp(min=1e-12)
        grid = Grid(spec, _stored_scale(fitted, spec), zero_point.squeeze(-1))
        cost = (groups - _round_groups(groups, grid)).abs().pow(HQQ_NORM).sum(-1)
        better = cost < lowest
        lowest = torch.where(better, cost, lowest)
        kept_scale = torch.where(better, grid.scale, best.scale)
        best = Grid(spec, kept_scale, torch.where(better, grid.zero_point, best.zero_point))
        beta *= HQQ_GROWTH
    return best
