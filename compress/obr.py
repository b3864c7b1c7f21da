"""OBR, Optimal Brain Restoration (Guo et al., arXiv 2509.11177): what pruning and rounding take is given back, in
closed form, to the weights that can still move. Pure.

Shapes: R rows/out, C columns/in, K kept weights of a row. Rows are independent; each has its own mask by Wanda, and so
its own system of equations over the shared Hessian:
  1. the kept weights take over the pruned ones' part: w_K + H_KK^-1 H_KP w_P, the least-squares optimum for the mask;
  2. the first half of the columns is rounded, and its error is moved to the kept weights of the second half likewise;
  3. the second half is rounded column by column with the sweep of GPTQ (as the official code does).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from compress.columns import solve_columns
from compress.hessian import Factor, damp
from compress.lanes import Lane, Solved
from compress.products import full_precision
from compress.quantizer import GridSpec, concatenate, fit_grid, from_codes, to_codes
from compress.scheme import Pattern
from compress.wanda import wanda_mask

# Values of the systems that are solved at once.
SOLVE_VALUES = 1 << 25


def restore_pruned(weight: Tensor, keep: Tensor, damped: Tensor) -> Tensor:
    """weight [R, C] with 0 where keep [R, C] is False and, elsewhere, the values that change x -> W x least.

    damped: H [C, C], positive definite.
    """
    return move_error(weight * keep, torch.where(keep, 0, weight), keep, damped)


def move_error(weight: Tensor, error: Tensor, free: Tensor, damped: Tensor) -> Tensor:
    """weight [R, C] with error [R, C], wanted minus given, made up for by the values where free [R, C] is True.

    Per row: w_F + H_FF^-1 (H e)_F, which minimizes |(e - d)|_H over changes d of the free values.
    """
    moved = weight.clone()
    counts = free.sum(1)
    with full_precision():
        pulled = error @ damped
        for count in sorted(set(counts.tolist())):
            if count == 0:
                continue
            rows = (counts == count).nonzero().squeeze(1)
            for part in rows.split(max(1, SOLVE_VALUES // count**2)):
                where = free[part].nonzero()[:, 1].reshape(len(part), count)
                systems = damped[where.unsqueeze(2), where.unsqueeze(1)]
                wanted = pulled[part].gather(1, where).unsqueeze(2)
                change = torch.cholesky_solve(wanted, torch.linalg.cholesky(systems)).squeeze(2)
                moved[part] = moved[part].scatter_add(1, where, change)
    return moved


def solve_obr(
    weight: Tensor,
    hessian: Tensor,
    factor: Factor,
    sparsity: float,
    pattern: Pattern | None = None,
    *,
    spec: GridSpec | None = None,
    block_size: int = 128,
) -> Solved:
    """Prune weight [R, C] and, with `spec`, round what is kept.

    hessian: H [C, C], for the mask and the equations; factor: of H as its columns lie, for the sweep and the damping.
    """
    keep = wanda_mask(weight, hessian, sparsity, pattern)
    damped = damp(hessian, factor.dampening_frac)
    restored = restore_pruned(factor.without_dead(weight), keep, damped)
    if spec is None:
        return Solved(restored, keep_mask=keep)
    if spec.group_size == weight.shape[1]:  # one group is the whole row
        spec = replace(spec, group_size=None)
    half = _first_half(weight.shape[1], spec)
    whole_rows = fit_grid(restored, spec) if spec.group_size is None else None
    first = whole_rows or fit_grid(restored[:, :half], spec)
    rounded = restored.clone()
    rounded[:, :half] = from_codes(to_codes(restored[:, :half], first), first)
    free = keep.clone()
    free[:, :half] = False
    moved = move_error(restored, restored - rounded, free, damped)[:, half:]
    lane = Lane(moved, spec, block_size=block_size, grid=whole_rows, keep_mask=keep[:, half:])
    (second,) = solve_columns([lane], factor.upper[half:, half:])
    assert second.grid is not None
    weight = torch.cat([rounded[:, :half], second.weight], 1)
    grid = whole_rows or concatenate([first, second.grid])
    return Solved(weight, grid, keep)


def _first_half(num_columns: int, spec: GridSpec) -> int:
    """Columns to round before the sweep: half of them, in whole groups."""
    size = spec.group_size or 1
    return num_columns // 2 // size * size
