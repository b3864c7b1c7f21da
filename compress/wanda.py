"""Wanda (Sun et al., arXiv 2306.11695): pruning by |w| times the norm of its input, nothing compensated. Pure.

Shapes: R rows/out, C columns/in. The norms come from diag(H), which is proportional to their squares.
"""

from __future__ import annotations

from torch import Tensor

from compress.lanes import Solved
from compress.masks import keep_largest_by_row, keep_pattern, num_to_prune
from compress.scheme import Pattern


def wanda_mask(weight: Tensor, hessian: Tensor, sparsity: float, pattern: Pattern | None = None) -> Tensor:
    """Mask (True = kept) of weight [R, C]: every output keeps its own share, or n of every m inputs."""
    scores = weight.abs() * hessian.diagonal().clamp(min=0).sqrt()
    if pattern:
        return keep_pattern(scores, pattern)
    return keep_largest_by_row(scores, num_to_prune(sparsity, weight.shape[1], 0))


def prune_by_wanda(weight: Tensor, hessian: Tensor, sparsity: float, pattern: Pattern | None = None) -> Solved:
    """Zero the weights of weight [R, C] that wanda_mask leaves out; hessian [C, C]."""
    keep = wanda_mask(weight, hessian, sparsity, pattern)
    return Solved(weight * keep, keep_mask=keep)
