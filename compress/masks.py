"""Which weights to keep, from a score per weight. Pure; exact counts, ties go to the earliest weight.

Shapes: R rows/out, C columns/in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress.scheme import Pattern


def keep_largest(scores: Tensor, num_pruned: int) -> Tensor:
    """Mask (True = kept) of scores [R, C] without the `num_pruned` smallest ones."""
    if num_pruned <= 0:
        return torch.ones_like(scores, dtype=torch.bool)
    flat = scores.flatten()
    # On CUDA kthvalue is the work of one of the many processors.
    threshold = flat.sort().values[num_pruned - 1] if flat.is_cuda else flat.kthvalue(num_pruned).values
    pruned, tied = flat < threshold, flat == threshold
    tied &= tied.cumsum(0) <= num_pruned - pruned.sum()
    return ~(pruned | tied).reshape(scores.shape)


def keep_largest_by_row(scores: Tensor, num_pruned: int) -> Tensor:
    """Mask (True = kept) of scores [R, C] without the `num_pruned` smallest of every row."""
    order = scores.argsort(dim=-1, stable=True)[:, :num_pruned]
    return torch.ones_like(scores, dtype=torch.bool).scatter_(-1, order, False)


def keep_pattern(scores: Tensor, pattern: Pattern) -> Tensor:
    """Mask (True = kept) of scores [R, C] with the n largest of every m consecutive columns, pattern = (n, m)."""
    num_kept, width = pattern
    groups = scores.reshape(scores.shape[0], -1, width)
    order = groups.argsort(dim=-1, descending=True, stable=True)[..., :num_kept]
    keep = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order, True)
    return keep.reshape(scores.shape)


def num_to_prune(sparsity: float, num_seen: int, num_before: int) -> int:
    """How many of the weights num_before..num_seen to prune, so that rounding never adds up over blocks."""
    return round(sparsity * num_seen) - round(sparsity * num_before)
