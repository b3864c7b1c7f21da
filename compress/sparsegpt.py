"""SparseGPT (Frantar and Alistarh, arXiv 2301.00774): pruning with compensation of the columns to come, and rounding
of the kept weights in the same sweep. Pure.

Shapes: R rows/out, C columns/in.
"""

from __future__ import annotations

from torch import Tensor

from compress.columns import solve_columns
from compress.hessian import Factor
from compress.lanes import Lane, Pruning, Solved
from compress.quantizer import GridSpec


def solve_sparsegpt(
    weight: Tensor,
    factor: Factor,
    pruning: Pruning,
    *,
    spec: GridSpec | None = None,
    block_size: int = 128,
    order: Tensor | None = None,
) -> Solved:
    """Prune weight [R, C]; with `spec`, round what is kept. factor: of H with rows and columns in `order`."""
    lane = Lane(factor.without_dead(weight, order), spec, pruning, block_size)
    return solve_columns([lane], factor.upper, order=order)[0]
