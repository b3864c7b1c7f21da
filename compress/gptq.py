"""GPTQ (Frantar et al., arXiv 2210.17323): rounding with compensation of the columns to come. Pure.

Shapes: R rows/out, C columns/in.
"""

from __future__ import annotations

from torch import Tensor

from compress.columns import solve_columns
from compress.hessian import Factor
from compress.lanes import Lane, Solved
from compress.quantizer import GridSpec


def solve_gptq(
    weight: Tensor, factor: Factor, spec: GridSpec, *, block_size: int = 128, order: Tensor | None = None
) -> Solved:
    """Round weight [R, C] to the grid of `spec`. factor: of H with rows and columns in `order` (None: as they lie)."""
    lane = Lane(factor.without_dead(weight, order), spec, block_size=block_size)
    return solve_columns([lane], factor.upper, order=order)[0]
