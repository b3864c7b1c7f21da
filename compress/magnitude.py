"""What needs no inputs: pruning by magnitude and rounding to nearest. Pure.

Shapes: R rows/out, C columns/in.
"""

from __future__ import annotations

from torch import Tensor

from compress.lanes import Solved
from compress.masks import keep_largest, keep_pattern, num_to_prune
from compress.quantizer import GridSpec, fit_grid, from_codes, to_codes
from compress.scheme import Pattern


def prune_by_magnitude(weight: Tensor, sparsity: float, pattern: Pattern | None = None) -> Solved:
    """Zero the smallest |w| of weight [R, C]: over the whole matrix, or all but n of every m inputs."""
    scores = weight.abs()
    if pattern:
        keep = keep_pattern(scores, pattern)
    else:
        keep = keep_largest(scores, num_to_prune(sparsity, weight.numel(), 0))
    return Solved(weight * keep, keep_mask=keep)


def round_to_nearest(weight: Tensor, spec: GridSpec) -> Solved:
    """Each value of weight [R, C] to the nearest of its group's grid; zeros stay zero."""
    grid = fit_grid(weight, spec)
    return Solved(from_codes(to_codes(weight, grid), grid), grid)
