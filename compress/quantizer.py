"""Grids of evenly spaced values. Pure functions over tensors.

Shapes: R rows/out, C columns/in, G groups of C/G consecutive columns that share a scale (G = 1: one per row).
A weight's nearest grid value is (code - zero_point) * scale, with code in [lowest, highest].

Codes are signed, lowest = -2^(bits-1), highest = 2^(bits-1) - 1, scale = range / (2^bits - 1), as compressed-tensors
and the GPTQ code (IST-DASLab/gptq, quant.py) have them. Symmetric: range = 2 * absmax and zero_point = 0.
Asymmetric: the range is widened to contain 0 and zero_point is a whole code. So both kinds hold 0 exactly, which
pruned weights need. Scales are rounded to the dtype they are stored in before any code or error is computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SCALE_DTYPE = torch.bfloat16


@dataclass(frozen=True)
class GridSpec:
    """How weights are rounded; group_size None = one group per row; scale_dtype: as stored in the checkpoint."""

    num_bits: int
    group_size: int | None = None
    symmetric: bool = True
    scale_dtype: torch.dtype = SCALE_DTYPE

    @property
    def lowest(self) -> int:
        return -(1 << (self.num_bits - 1))

    @property
    def highest(self) -> int:
        return (1 << (self.num_bits - 1)) - 1


@dataclass(frozen=True)
class Grid:
    """scale [R, G], exact in the spec's scale_dtype, and zero_point [R, G], whole numbers, in the weights' dtype."""

    spec: GridSpec
    scale: Tensor
    zero_point: Tensor


def fit_grid(weight: Tensor, spec: GridSpec) -> Grid:
    """Grid of weight [R, C] whose range just holds each group's smallest and largest value and 0."""
    num_rows, num_columns = weight.shape
    groups = weight.reshape(num_rows, -1, spec.group_size or num_columns)
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    if spec.symmetric:
        high = torch.maximum(high, -low)
        low = -high
    scale = (high - low) / (2**spec.num_bits - 1)
    stored = scale.to(spec.scale_dtype).to(weight.dtype)
    scale = torch.where(stored > 0, stored, torch.ones_like(stored))  # a group of zeros has any scale
    if spec.symmetric:
        return Grid(spec, scale, torch.zeros_like(scale))
    zero_point = (spec.lowest - low / scale).round().clamp(spec.lowest, spec.highest)
    return Grid(spec, scale, zero_point)


def to_codes(weight: Tensor, grid: Grid) -> Tensor:
    """Nearest codes of weight [R, C], int8 [R, C]."""
    scale, zero_point = expand(grid.scale, weight.shape[1]), expand(grid.zero_point, weight.shape[1])
    codes = (weight / scale + zero_point).round().clamp(grid.spec.lowest, grid.spec.highest)
    return codes.to(torch.int8)


def from_codes(codes: Tensor, grid: Grid) -> Tensor:
    """Grid values [R, C] of int8 codes [R, C], in the dtype of the scales."""
    scale, zero_point = expand(grid.scale, codes.shape[1]), expand(grid.zero_point, codes.shape[1])
    return (codes.to(scale.dtype) - zero_point) * scale


def expand(per_group: Tensor, num_columns: int) -> Tensor:
    """[R, G] -> [R, C], each group's value repeated over its columns."""
    return per_group.repeat_interleave(num_columns // per_group.shape[1], dim=1)


def concatenate(grids: list[Grid]) -> Grid:
    """Grids of neighbouring column groups as one, [R, G1] and [R, G2] -> [R, G1 + G2]."""
    scale = torch.cat([grid.scale for grid in grids], 1)
    return Grid(grids[0].spec, scale, torch.cat([grid.zero_point for grid in grids], 1))
