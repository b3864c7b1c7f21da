"""Which weights to keep, from a score per weight. Pure; exact counts, ties go to the earliest weight.

Shapes: R rows/out, C columns/in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from compress.scheme import Pattern


class Segment(NamedTuple):
    """Rows first..last of a stack, of whose weights num_pruned are pruned, the cheapest ones of all rows together."""

    first: int
    last: int
    num_pruned: int


def prune_cheapest(
    W: Tensor,
    squared_diagonal: Tensor,
    keep: Tensor,
    first: int,
    last: int,
    segments: Sequence[Segment],
    *,
    with_kernel: bool,
) -> None:
    """Set the columns first..last of keep [C, P], bool, at the rows of segments: False for the weights that cost least,
    see pruning_costs.

    W [C, R]: transposed weights, P of whose rows have masks. with_kernel: by Triton kernels, which know fp32 alone.
    """
    if with_kernel and W.dtype == torch.float32:
        from compress.masks_triton import prune_by_counting

        prune_by_counting(W, squared_diagonal, keep, first, last, segments)
        return
    for part in segments:
        costs = pruning_costs(W[first:last, part.first : part.last], squared_diagonal[first:last])
        keep[first:last, part.first : part.last] = keep_largest(costs, part.num_pruned).T


def pruning_costs(W: Tensor, squared_diagonal: Tensor) -> Tensor:
    """w^2 / U[j, j]^2 [R, B] of transposed weights W [B, R]; squared_diagonal [B, 1]: U[j, j]^2."""
    return (W.square() / squared_diagonal).T


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
