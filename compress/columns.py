"""The sweep over columns that GPTQ and SparseGPT share: fix one column after the other, and let the columns to come
make up for its error. Pure. The rows of any number of schemes are stacked and solved in one sweep, because its time is
that of its steps, hardly of its rows; rows do not see each other but for unstructured masks.

Shapes: R rows/out, C columns/in, G groups, B columns of a block. Inside the loop the letters of the papers (arXiv
2210.17323, 2301.00774): W weights, then their final values, U upper factor of the inverse Hessian, E errors; S and Z
scales and zero points. They lie transposed there, [C, R], so that a column is contiguous.

A group's grid is fitted when the sweep reaches its first column, to weights that hold all compensation so far; a mask
likewise. Errors are applied at once to the STEP of columns around, when it ends to the block, when that ends to the
rest: the same values, fewer passes over memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.hessian import full_precision
from compress.masks import keep_largest, keep_pattern, num_to_prune
from compress.quantizer import Grid, GridSpec, concatenate, fit_grid, to_codes
from compress.scheme import Pattern

ONE_THREAD_WEIGHTS = 1 << 20
STEPS = (32, 16, 8)


@dataclass(frozen=True)
class Pruning:
    """Share of zeros, or pattern (n, m). mask_block: columns whose unstructured mask is chosen together.
    row_counts: rows of each stacked matrix; each keeps its own share.
    """

    sparsity: float
    pattern: Pattern | None
    mask_block: int
    row_counts: tuple[int, ...]

    @property
    def width(self) -> int:
        """Columns whose mask is chosen together."""
        return self.pattern[1] if self.pattern else self.mask_block


@dataclass(frozen=True)
class Lane:
    """One scheme's rows of a stack: weight [R, C] in original column order, what it is rounded to, how it is pruned.
    block_size: columns after which errors are passed on to all that remain. grid: as fitted before, instead of by the
    sweep. keep_mask [R, C]: as chosen before, instead of by `pruning`.
    """

    weight: Tensor
    spec: GridSpec | None = None
    pruning: Pruning | None = None
    block_size: int = 128
    grid: Grid | None = None
    keep_mask: Tensor | None = None

    @property
    def is_masked(self) -> bool:
        """Whether the lane ends with zeros."""
        return self.pruning is not None or self.keep_mask is not None


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


def block_width(
    num_columns: int, spec: GridSpec | None, pruning: Pruning | None, block_size: int, *, ordered: bool
) -> int:
    """The widest block of about block_size columns that cuts no group and no mask."""
    unit = 1
    if spec and not _is_static(spec, ordered):
        unit = spec.group_size or 1
    if pruning:
        unit = math.lcm(unit, pruning.width)
    return min(num_columns, max(unit, block_size // unit * unit))


def solve_columns(lanes: Sequence[Lane], upper: Tensor, *, order: Tensor | None = None) -> list[Solved]:
    """Quantize, prune or both, in one sweep for all lanes, whose block_width must be the same.

    upper [C, C] in the order of the sweep; order [C]: the column solved at each step, None = as they lie. With an
    order, or one group per row, grids are fitted to the weights before the sweep.
    """
    num_columns, ordered = upper.shape[0], order is not None
    (width,) = {block_width(num_columns, lane.spec, lane.pruning, lane.block_size, ordered=ordered) for lane in lanes}
    stack = _Stack(lanes, order, num_columns)
    with full_precision(), _one_thread(stack.W):
        for start in range(0, num_columns, width):
            stack.solve_block(upper, start, min(start + width, num_columns))
    return stack.finish()


class _Rows:
    """One lane's place in the stack: rows first..last of all, grids as far as they are fitted."""

    def __init__(self, lane: Lane, first: int, static: bool) -> None:
        self.lane, self.first, self.last = lane, first, first + lane.weight.shape[0]
        self.static = static
        self.grids = [lane.grid or fit_grid(lane.weight, lane.spec)] if lane.spec and static else []
        self.group_size = (lane.spec.group_size if lane.spec else None) or lane.weight.shape[1]


class _Stack:
    """The sweep's memory: the columns of W [C, R] turn from the left into final values.

    Lanes lie in the order pruned alone, pruned and rounded, rounded alone: masks are of the first `num_masked` rows,
    grids of those from `first_rounded` on.
    """

    def __init__(self, lanes: Sequence[Lane], order: Tensor | None, num_columns: int) -> None:
        device = lanes[0].weight.device
        self.order = torch.arange(num_columns, device=device) if order is None else order
        self.lanes = lanes
        placed = sorted(lanes, key=lambda lane: (lane.spec is not None, not lane.is_masked))
        self.rows: list[_Rows] = []
        for lane in placed:
            first = self.rows[-1].last if self.rows else 0
            static = lane.spec is not None and (lane.grid is not None or _is_static(lane.spec, order is not None))
            self.rows.append(_Rows(lane, first, static))
        self.W = torch.cat([lane.weight for lane in placed]).T[self.order].contiguous()
        self.num_masked = max((rows.last for rows in self.rows if rows.lane.is_masked), default=0)
        self.first_rounded = min((rows.first for rows in self.rows if rows.lane.spec), default=self.W.shape[1])
        self.keep = torch.ones(num_columns, self.num_masked, dtype=torch.bool, device=device)
        for rows in self.rows:
            if rows.lane.keep_mask is not None:
                self.keep[:, rows.first : rows.last] = rows.lane.keep_mask.T[self.order]
        rounded = [(rows.lane.spec, rows.last - rows.first) for rows in self.rows if rows.lane.spec]
        self.lowest = self._per_row([(spec.lowest, count) for spec, count in rounded])
        self.highest = self._per_row([(spec.highest, count) for spec, count in rounded])
        self.centred = all(spec.symmetric for spec, _ in rounded)
        self.step = _step(lanes)

    def _per_row(self, values: Sequence[tuple[int, int]]) -> Tensor:
        counts = torch.tensor([count for _, count in values], dtype=torch.int64)
        numbers = torch.tensor([value for value, _ in values], dtype=self.W.dtype)
        return numbers.repeat_interleave(counts).to(self.W.device)

    def solve_block(self, upper: Tensor, start: int, end: int) -> None:
        W, U = self.W[start:end], upper[start:end, start:end]
        E = torch.empty_like(W)
        S = torch.empty_like(W[:, self.first_rounded :])
        Z = torch.zeros_like(S)
        self._expand_static_grids(S, Z, start, end)
        diagonal = U.diagonal().tolist()
        squared_diagonal = U.diagonal().square().unsqueeze(1)
        step = self.step or end - start
        for first in range(0, end - start, step):
            last = min(first + step, end - start)
            for j in range(first, last):
                self._choose_masks(W[j:], squared_diagonal[j:], start + j)
                self._fit_grids(W[j:], S[j:], Z[j:], start + j)
                q = self._final_value(W[j], S[j], Z[j], start + j)
                torch.sub(W[j], q, out=E[j])
                E[j] /= diagonal[j]
                W[j] = q
                W[j + 1 : last].addr_(U[j, j + 1 : last], E[j], alpha=-1)
            W[last:].addmm_(U[first:last, last:].T, E[first:last], alpha=-1)
        self.W[end:].addmm_(upper[start:end, end:].T, E, alpha=-1)

    def _final_value(self, w: Tensor, scale: Tensor, zero_point: Tensor, column: int) -> Tensor:
        q = w.clone()
        rounded = q[self.first_rounded :]
        if rounded.numel():
            rounded /= scale
            if not self.centred:
                rounded += zero_point
            torch.minimum(torch.maximum(rounded.round_(), self.lowest, out=rounded), self.highest, out=rounded)
            if not self.centred:
                rounded -= zero_point
            rounded *= scale
        if self.num_masked:
            q[: self.num_masked] *= self.keep[column]
        return q

    def _expand_static_grids(self, S: Tensor, Z: Tensor, start: int, end: int) -> None:
        for rows in self.rows:
            if rows.static:
                groups = self.order[start:end] // rows.group_size
                place = slice(rows.first - self.first_rounded, rows.last - self.first_rounded)
                S[:, place] = rows.grids[0].scale[:, groups].T
                Z[:, place] = rows.grids[0].zero_point[:, groups].T

    def _fit_grids(self, W: Tensor, S: Tensor, Z: Tensor, column: int) -> None:
        """Fit the grids of the groups that start here."""
        for rows in self.rows:
            if rows.lane.spec is None or rows.static or column % rows.group_size:
                continue
            grid = fit_grid(W[: rows.group_size, rows.first : rows.last].T, rows.lane.spec)
            rows.grids.append(grid)
            place = slice(rows.first - self.first_rounded, rows.last - self.first_rounded)
            S[: rows.group_size, place], Z[: rows.group_size, place] = grid.scale.T, grid.zero_point.T

    def _choose_masks(self, W: Tensor, squared_diagonal: Tensor, column: int) -> None:
        """Set the masks of the columns that start here, from what pruning each weight would cost: w^2 / U[j, j]^2."""
        for rows in self.rows:
            pruning = rows.lane.pruning
            if pruning is None or column % pruning.width:
                continue
            end = min(column + pruning.width, self.keep.shape[0])
            mine = W[: end - column, rows.first : rows.last]
            scores = (mine.square() / squared_diagonal[: end - column]).T
            keep = self.keep[column:end, rows.first : rows.last]
            if pruning.pattern:
                keep.copy_(keep_pattern(scores, pruning.pattern).T)
                continue
            first = 0
            for num_rows in pruning.row_counts:
                last = first + num_rows
                num_pruned = num_to_prune(pruning.sparsity, num_rows * end, num_rows * column)
                keep[:, first:last] = keep_largest(scores[first:last], num_pruned).T
                first = last

    def finish(self) -> list[Solved]:
        back = torch.argsort(self.order)
        found = {id(rows.lane): self._solved(rows, back) for rows in self.rows}
        return [found[id(lane)] for lane in self.lanes]

    def _solved(self, rows: _Rows, back: Tensor) -> Solved:
        weight = self.W[:, rows.first : rows.last][back].T.contiguous()
        keep = self.keep[:, rows.first : rows.last][back].T.contiguous() if rows.lane.is_masked else None
        if not rows.grids:
            return Solved(weight, keep_mask=keep)
        grid = concatenate(rows.grids)
        return Solved(weight, grid, to_codes(weight, grid), keep)


def _is_static(spec: GridSpec, ordered: bool) -> bool:
    """Whether grids are fitted before the sweep."""
    return ordered or spec.group_size is None


def _step(lanes: Sequence[Lane]) -> int | None:
    """Columns of a step: a group or mask must begin where one begins, or lie inside it. None: a block is one step."""
    widths = [lane.spec.group_size for lane in lanes if lane.spec and lane.spec.group_size]
    widths += [lane.pruning.width for lane in lanes if lane.pruning]
    return next((step for step in STEPS if all(width % step == 0 or step % width == 0 for width in widths)), None)


@contextmanager
def _one_thread(stack: Tensor) -> Iterator[None]:
    """A column of a small stack is less work than waking a second thread for it."""
    threads = torch.get_num_threads()
    if stack.device.type == "cpu" and stack.numel() <= ONE_THREAD_WEIGHTS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
