"""GPTQ (Frantar et al., arXiv 2210.17323): rounding with compensation of the columns to come. Pure.

Shapes: R rows/out, C columns/in.
"""

from __future__ import annotations

from torch import Tensor

from compress.columns import Solved, solve_columns
from compress.hessian import Factor
from compress.quantizer import GridSpec


def falling_diagonal(hessian: Tensor) -> Tensor:
    """The order of act_order, [C]: largest inputs first, while there are columns left to compensate."""
    return hessian.diagonal().argsort(descending=True, stable=True)


def solve_gptq(
    weight: Tensor, factor: Factor, spec: GridSpec, *, block_size: int = 128, order: Tensor | None = None
) -> Solved:
    """Round weight [R, C] to the grid of `spec`. factor: of H with rows and columns in `order` (None: as they lie)."""
    return solve_columns(zero_dead_columns(weight, factor, order), factor.upper, block_size, spec=spec, order=order)


def zero_dead_columns(weight: Tensor, factor: Factor, order: Tensor | None = None) -> Tensor:
    """weight [R, C] with 0 in the columns that no calibration token reached; factor.dead is in `order`."""
    dead = factor.dead if order is None else factor.dead[order.argsort()]
    return weight.masked_fill(dead, 0)
