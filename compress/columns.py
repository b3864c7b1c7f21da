"""The sweep over columns that GPTQ and SparseGPT share: fix one column after the other, and let the columns to come
make up for its error. Pure; a stack of rows is solved at once, rows do not see each other but for unstructured masks.

Shapes: R rows/out, C columns/in, G groups, B columns of a block. Inside the loop the letters of the papers (arXiv
2210.17323, 2301.00774): W weights, Q their final values, U upper factor of the inverse Hessian, E errors.
Weights lie transposed there, [C, R], so that a column is contiguous.

A group's grid is fitted when the sweep reaches its first column, to weights that hold all compensation so far; a mask
likewise. Errors inside a block are applied at once, those beyond it when the block ends: the same values, fewer passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.hessian import full_precision
from compress.masks import keep_largest, keep_pattern, num_to_prune
from compress.quantizer import Grid, GridSpec, concatenate, fit_grid, to_codes
from compress.scheme import Pattern

ONE_THREAD_WEIGHTS = 1 << 22


@dataclass(frozen=True)
class Pruning:
    """Share of zeros, or pattern (n, m). mask_block: columns whose unstructured mask is chosen together.
    row_counts: rows of each stacked matrix; each keeps its own share.
    """

    sparsity: float
    pattern: Pattern | None
    mask_block: int
    row_counts: tuple[int, ...]


@dataclass(frozen=True)
class Solved:
    """weight [R, C]: the final values. grid and codes int8 [R, C] when quantized; keep_mask bool [R, C] when pruned."""

    weight: Tensor
    grid: Grid | None = None
    codes: Tensor | None = None
    keep_mask: Tensor | None = None

    def rows(self, start: int, end: int) -> Solved:
        """One matrix of a stack."""
        grid = self.grid and Grid(self.grid.spec, self.grid.scale[start:end], self.grid.zero_point[start:end])
        codes = None if self.codes is None else self.codes[start:end]
        keep = None if self.keep_mask is None else self.keep_mask[start:end]
        return Solved(self.weight[start:end], grid, codes, keep)


def solve_columns(
    weight: Tensor,
    upper: Tensor,
    block_size: int,
    *,
    spec: GridSpec | None = None,
    pruning: Pruning | None = None,
    order: Tensor | None = None,
) -> Solved:
    """Quantize, prune or both, in one sweep.

    weight [R, C] in original column order; upper [C, C] in the order of the sweep; order [C]: the column solved at each
    step, None = as they lie. With an order, or one group per row, grids are fitted to the weights before the sweep.
    """
    num_columns = weight.shape[1]
    static = spec is not None and (order is not None or spec.group_size is None)
    grid = fit_grid(weight, spec) if spec is not None and static else None
    order = torch.arange(num_columns, device=weight.device) if order is None else order
    state = _Sweep(weight.T[order].contiguous(), order, spec, grid, pruning)
    width = _block_width(block_size, num_columns, None if static else spec, pruning)
    with full_precision(), _one_thread(weight):
        for start in range(0, num_columns, width):
            state.solve_block(upper, start, min(start + width, num_columns))
    return state.finish()


class _Sweep:
    """The sweep's memory: W [C, R] shrinks from the left into Q [C, R]."""

    def __init__(
        self, W: Tensor, order: Tensor, spec: GridSpec | None, static_grid: Grid | None, pruning: Pruning | None
    ) -> None:
        self.W, self.order, self.spec, self.pruning = W, order, spec, pruning
        self.Q = torch.empty_like(W)
        self.keep = torch.ones_like(W, dtype=torch.bool) if pruning else None
        self.grids: list[Grid] = [] if static_grid is None else [static_grid]
        self.static = static_grid is not None
        group_size = (spec.group_size if spec else None) or W.shape[0]
        self.group_of = (order // group_size).tolist()
        self.group_size = group_size

    def solve_block(self, upper: Tensor, start: int, end: int) -> None:
        W, U = self.W[start:end], upper[start:end, start:end]
        E = torch.empty_like(W)
        diagonal = U.diagonal().tolist()
        scores = U.diagonal().square().unsqueeze(1)
        for j in range(end - start):
            column = start + j
            if self.pruning:
                self._choose_mask(W[j:], scores[j:], column)
            if self.spec and not self.static and column % self.group_size == 0:
                self.grids.append(fit_grid(W[j : j + self.group_size].T, self.spec))
            q = self._final_value(W[j], column)
            self.Q[column] = q
            torch.sub(W[j], q, out=E[j])
            E[j] /= diagonal[j]
            W[j + 1 :].addr_(U[j, j + 1 :], E[j], alpha=-1)
        self.W[end:].addmm_(upper[start:end, end:].T, E, alpha=-1)

    def _final_value(self, w: Tensor, column: int) -> Tensor:
        q = w
        if self.spec:
            grid = self.grids[0] if self.static else self.grids[-1]
            group = self.group_of[column] if self.static else 0
            scale, zero_point = grid.scale[:, group], grid.zero_point[:, group]
            q = (w / scale).add_(zero_point).round_().clamp_(self.spec.lowest, self.spec.highest)
            q = q.sub_(zero_point).mul_(scale)
        return q if self.keep is None else q * self.keep[column]

    def _choose_mask(self, W: Tensor, squared_diagonal: Tensor, column: int) -> None:
        """Set the masks of the columns that start here, from what pruning each weight would cost: w^2 / U[j, j]^2."""
        pruning, keep = self.pruning, self.keep
        assert pruning is not None and keep is not None
        width = pruning.pattern[1] if pruning.pattern else pruning.mask_block
        if column % width:
            return
        end = min(column + width, keep.shape[0])
        scores = (W[: end - column].square() / squared_diagonal[: end - column]).T
        if pruning.pattern:
            keep[column:end] = keep_pattern(scores, pruning.pattern).T
            return
        first = 0
        for num_rows in pruning.row_counts:
            last = first + num_rows
            num_pruned = num_to_prune(pruning.sparsity, num_rows * end, num_rows * column)
            keep[column:end, first:last] = keep_largest(scores[first:last], num_pruned).T
            first = last

    def finish(self) -> Solved:
        back = torch.argsort(self.order)
        weight = self.Q[back].T.contiguous()
        keep = None if self.keep is None else self.keep[back].T.contiguous()
        if not self.grids:
            return Solved(weight, keep_mask=keep)
        grid = concatenate(self.grids)
        return Solved(weight, grid, to_codes(weight, grid), keep)


@contextmanager
def _one_thread(weight: Tensor) -> Iterator[None]:
    """A column of a small matrix is less work than waking a second thread for it."""
    threads = torch.get_num_threads()
    if weight.device.type == "cpu" and weight.numel() <= ONE_THREAD_WEIGHTS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _block_width(block_size: int, num_columns: int, spec: GridSpec | None, pruning: Pruning | None) -> int:
    """The widest block of about block_size columns that cuts no group and no mask."""
    unit = (spec.group_size or 1) if spec else 1
    if pruning:
        unit = math.lcm(unit, pruning.pattern[1] if pruning.pattern else pruning.mask_block)
    return min(num_columns, max(unit, block_size // unit * unit))
