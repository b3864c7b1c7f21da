"""The sweep over columns that GPTQ and SparseGPT share: fix one column after the other, and let the columns to come
make up for its error. Pure. The rows of any number of schemes are stacked and solved in one sweep, because its time is
that of its steps, hardly of its rows; rows do not see each other but for unstructured masks.

Shapes: R rows/out, C columns/in, G groups, B columns of a block. Inside the loop the letters of the papers (arXiv
2210.17323, 2301.00774): W weights, then their final values, U upper factor of the inverse Hessian, E errors; S and Z
scales and zero points. They lie transposed there, [C, R], so that a column is contiguous.

A group's grid is fitted when the sweep reaches its first column, to weights that hold all compensation so far; a mask
likewise. Errors are applied at once to the step of columns around, when it ends to the block, when that ends to the
rest: the same values, fewer passes over memory. On CUDA a step is one Triton kernel (columns_triton.py); without
Triton, or where an n:m pattern fits no step, it is the loop of torch calls that runs on CPUs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compress.devices import runs_triton
from compress.lanes import Lane, Solved, block_width, is_static
from compress.masks import Segment, keep_pattern, num_to_prune, prune_cheapest, pruning_costs
from compress.products import matmul_precision
from compress.quantizer import SCALE_DTYPE, Grid, fit_grid

if TYPE_CHECKING:
    from compress.columns_triton import Kernel

ONE_THREAD_WEIGHTS = 1 << 20
STEPS = (32, 16, 8)
# Columns whose errors reach the rest together on CUDA: long products are nearer to the card's speed.
SPAN = 1024
# Whether errors are passed on in TF32 there: several times faster, and no loss of a layer moved by more than 0.1 %
# (docs/compression.md); the columns of a step, and everything on a CPU, are in full precision.
SWEEP_TF32 = True


def solve_columns(
    lanes: Sequence[Lane], upper: Tensor, *, order: Tensor | None = None, with_kernel: bool | None = None
) -> list[Solved]:
    """Quantize, prune or both, in one sweep for all lanes, whose block_width must be the same.

    upper [C, C] in the order of the sweep; order [C]: the column solved at each step, None = as they lie. With an
    order, or one group per row, grids are fitted to the weights before the sweep. with_kernel: whether steps are Triton
    kernels; None = on CUDA, where Triton is installed.
    """
    if with_kernel is None:
        with_kernel = runs_triton(upper.device)
    num_columns, ordered = upper.shape[0], order is not None
    (width,) = {block_width(num_columns, lane.spec, lane.pruning, lane.block_size, ordered=ordered) for lane in lanes}
    upper = upper.contiguous()
    stack = _Stack(lanes, upper, order, with_kernel)
    with matmul_precision(tf32=SWEEP_TF32), _one_thread(stack.W):
        span = max(width, SPAN // width * width) if with_kernel else width
        for start in range(0, num_columns, span):
            stack.solve_span(start, min(start + span, num_columns), width)
    return stack.finish()


class _Rows:
    """One lane's place in the stack: rows first..last of all."""

    def __init__(self, lane: Lane, first: int, ordered: bool) -> None:
        self.lane, self.first, self.last = lane, first, first + lane.weight.shape[0]
        self.static = lane.spec is not None and (lane.grid is not None or is_static(lane.spec, ordered))
        self.group_size = (lane.spec.group_size if lane.spec else None) or lane.weight.shape[1]

    @property
    def fitted_size(self) -> int | None:
        """Columns of a group whose grid is fitted during the sweep."""
        return self.group_size if self.lane.spec and not self.static else None


class _Stack:
    """The sweep's memory: the columns of W [C, R] turn from the left into final values.

    Lanes lie in the order pruned alone, pruned and rounded, rounded alone: masks are of the first `num_masked` rows,
    grids, scale and zero_point [G, R - first_rounded], of those from `first_rounded` on.
    """

    def __init__(self, lanes: Sequence[Lane], upper: Tensor, order: Tensor | None, with_kernel: bool) -> None:
        device, num_columns = upper.device, upper.shape[0]
        self.upper, self.squared_diagonal = upper, upper.diagonal().square().unsqueeze(1)
        self.order = torch.arange(num_columns, device=device) if order is None else order
        self.place = self.order if order is None else order.argsort()
        self.lanes, self.is_ordered, self.with_kernel = lanes, order is not None, with_kernel
        placed = sorted(lanes, key=lambda lane: (lane.spec is not None, not lane.is_masked))
        self.rows: list[_Rows] = []
        for lane in placed:
            self.rows.append(_Rows(lane, self.rows[-1].last if self.rows else 0, order is not None))
        self.W = lanes[0].weight.new_empty(num_columns, self.rows[-1].last)
        for rows in self.rows:
            self._lay(rows.lane.weight, self.W[:, rows.first : rows.last])
        self.num_masked = max((rows.last for rows in self.rows if rows.lane.is_masked), default=0)
        self.first_rounded = min((rows.first for rows in self.rows if rows.lane.spec), default=self.W.shape[1])
        self.keep = torch.ones(num_columns, self.num_masked, dtype=torch.bool, device=device)
        for rows in self.rows:
            if rows.lane.keep_mask is not None:
                self._lay(rows.lane.keep_mask, self.keep[:, rows.first : rows.last])
        num_groups = max((num_columns // rows.group_size for rows in self.rows if rows.lane.spec), default=0)
        self.scale = self.W.new_ones(num_groups, self.W.shape[1] - self.first_rounded)
        self.zero_point = torch.zeros_like(self.scale)
        for rows in self.rows:
            if rows.lane.spec and rows.static:
                self._set_grid(rows, 0, rows.lane.grid or fit_grid(rows.lane.weight, rows.lane.spec))
        rounded = [(rows.lane.spec, rows.last - rows.first) for rows in self.rows if rows.lane.spec]
        self.lowest = self._per_row([(spec.lowest, count) for spec, count in rounded])
        self.highest = self._per_row([(spec.highest, count) for spec, count in rounded])
        self.centred = all(spec.symmetric for spec, _ in rounded)
        self.kernel: Kernel | None = None
        self.step = _step(lanes)
        if with_kernel:
            self._prepare_kernel()

    def _prepare_kernel(self) -> None:
        """Set the kernel for these rows and the columns that it takes at once, unless it cannot take them."""
        from compress.columns_triton import Kernel, LaneRows, step_width

        prunings = [lane.pruning for lane in self.lanes if lane.pruning]
        step = step_width(
            [rows.fitted_size for rows in self.rows if rows.fitted_size],
            [pruning.width for pruning in prunings if not pruning.pattern],
            [pruning.width for pruning in prunings if pruning.pattern],
        )
        if step is None:
            return
        lanes = []
        for rows in self.rows:
            spec, pruning = rows.lane.spec, rows.lane.pruning
            grid = (rows.group_size, spec.lowest, spec.highest) if spec else (0, 0, 0)
            pattern = (pruning and pruning.pattern) or (0, 0)
            num_steps = spec.num_steps if spec and rows.fitted_size and spec.holds_range else 0
            zero_moves = spec is not None and not spec.symmetric
            lanes.append(LaneRows(rows.first, rows.last, *grid, rows.lane.is_masked, *pattern, num_steps, zero_moves))
        self.step = step
        grids = (self.scale, self.zero_point, self._scale_dtype())
        self.kernel = Kernel(lanes, self.W, self.upper, self.order, self.keep, *grids)

    def _scale_dtype(self) -> torch.dtype:
        """What all scales are stored in."""
        (scale_dtype,) = {rows.lane.spec.scale_dtype for rows in self.rows if rows.lane.spec} or {SCALE_DTYPE}
        return scale_dtype

    def _per_row(self, values: Sequence[tuple[int, int]]) -> Tensor:
        return torch.cat([self.W.new_full((count,), value) for value, count in values] or [self.W.new_empty(0)])

    def solve_span(self, start: int, end: int, width: int) -> None:
        """Fix the columns start..end in blocks of `width`, and make the rest make up for them."""
        upper = self.upper
        E = torch.empty_like(self.W[start:end])
        for first in range(start, end, width):
            last = min(first + width, end)
            errors = E[first - start : last - start]
            self._solve_block(errors, first, last)
            _pass_on(errors, upper[first:last, last:end], self.W[last:end])
        _pass_on(E, upper[start:end, end:], self.W[end:])

    def _solve_block(self, E: Tensor, start: int, end: int) -> None:
        """Fix the columns start..end step by step and fill E, a row for each of them."""
        grids = None if self.kernel else self._start_loop(start, end)
        step = self.step or end - start
        for first in range(start, end, step):
            last = min(first + step, end)
            if self.kernel:
                self._choose_masks(first)
                self._fit_grids(first)
                self.kernel.fix(first, last, E, start)
            elif grids:
                self._fix_by_loop(first, last, E, start, *grids)
            if last < end:
                _pass_on(E[first - start : last - start], self.upper[first:last, last:end], self.W[last:end])

    def _start_loop(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """S and Z [B, R - first_rounded] of a block, where they are known."""
        S = torch.empty_like(self.W[start:end, self.first_rounded :])
        Z = torch.empty_like(S)
        for rows in self.rows:
            if rows.static:
                self._expand_grid(S, Z, rows, start)
        return S, Z

    def _fix_by_loop(self, first: int, last: int, E: Tensor, start: int, S: Tensor, Z: Tensor) -> None:
        """Fix the columns first..last one by one; E, S and Z are of the block that starts at `start`."""
        W, upper = self.W, self.upper
        diagonal = upper[first:last, first:last].diagonal().tolist()
        for j in range(first, last):
            here = j - start
            self._choose_masks(j)
            for rows in self._fit_grids(j):
                self._expand_grid(S[here : here + rows.group_size], Z[here : here + rows.group_size], rows, j)
            q = self._final_value(W[j], S[here], Z[here], j)
            torch.sub(W[j], q, out=E[here])
            E[here] /= diagonal[j - first]
            W[j] = q
            W[j + 1 : last].addr_(upper[j, j + 1 : last], E[here], alpha=-1)

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

    def _place(self, rows: _Rows) -> slice:
        """Where a lane's grids lie."""
        return slice(rows.first - self.first_rounded, rows.last - self.first_rounded)

    def _set_grid(self, rows: _Rows, group: int, grid: Grid) -> None:
        """Note the grid of the groups from `group` on."""
        groups = slice(group, group + grid.scale.shape[1])
        self.scale[groups, self._place(rows)] = grid.scale.T
        self.zero_point[groups, self._place(rows)] = grid.zero_point.T

    def _expand_grid(self, S: Tensor, Z: Tensor, rows: _Rows, column: int) -> None:
        """Fill S and Z [B, R - first_rounded] for the columns from `column` on, as far as they are a lane's."""
        groups, place = self.order[column : column + S.shape[0]] // rows.group_size, self._place(rows)
        S[:, place], Z[:, place] = self.scale[groups, place], self.zero_point[groups, place]

    def _fit_grids(self, column: int) -> list[_Rows]:
        """Fit the grids of the groups that start here; whose they are."""
        starting = [rows for rows in self.rows if rows.fitted_size and column % rows.fitted_size == 0]
        if self.kernel:
            self.kernel.fit(column)
        for rows in starting:
            assert rows.lane.spec is not None
            if self.kernel and rows.lane.spec.holds_range:
                continue
            grid = fit_grid(self.W[column : column + rows.group_size, rows.first : rows.last].T, rows.lane.spec)
            self._set_grid(rows, column // rows.group_size, grid)
        return starting

    def _choose_masks(self, column: int) -> None:
        """Set the masks of the columns that start here, from what pruning each weight would cost: w^2 / U[j, j]^2. The
        kernel chooses patterns itself.
        """
        segments: dict[int, list[Segment]] = {}
        for rows in self.rows:
            pruning = rows.lane.pruning
            if pruning is None or column % pruning.width or (pruning.pattern and self.kernel):
                continue
            end = min(column + pruning.width, len(self.W))
            if pruning.pattern:
                mine = slice(column, end), slice(rows.first, rows.last)
                scores = pruning_costs(self.W[mine], self.squared_diagonal[column:end])
                self.keep[mine] = keep_pattern(scores, pruning.pattern).T
                continue
            first = rows.first
            for num_rows in pruning.row_counts:
                num_pruned = num_to_prune(pruning.sparsity, num_rows * end, num_rows * column)
                segments.setdefault(end, []).append(Segment(first, first + num_rows, num_pruned))
                first += num_rows
        for end, parts in segments.items():
            with_kernel = self.kernel is not None
            prune_cheapest(self.W, self.squared_diagonal, self.keep, column, end, parts, with_kernel=with_kernel)

    def finish(self) -> list[Solved]:
        found = {id(rows.lane): self._solved(rows) for rows in self.rows}
        return [found[id(lane)] for lane in self.lanes]

    def _lay(self, matrix: Tensor, columns: Tensor) -> None:
        """Fill columns [C, R], in the order of the sweep, with a matrix [R, C]."""
        if self.with_kernel:
            from compress.layout_triton import to_columns

            to_columns(matrix, self.place, columns)
        else:
            columns.copy_(matrix.T[self.order] if self.is_ordered else matrix.T)

    def _taken(self, columns: Tensor, rows: _Rows) -> Tensor:
        """One lane's rows [R, C] of [C, R], columns where they came from."""
        mine = columns[:, rows.first : rows.last]
        if self.with_kernel:
            from compress.layout_triton import to_rows

            return to_rows(mine, self.place)
        return (mine[self.place] if self.is_ordered else mine).T.contiguous()

    def _solved(self, rows: _Rows) -> Solved:
        weight = self._taken(self.W, rows)
        keep = self._taken(self.keep, rows) if rows.lane.is_masked else None
        spec = rows.lane.spec
        if spec is None:
            return Solved(weight, keep_mask=keep)
        groups = slice(0, weight.shape[1] // rows.group_size)
        scale, zero_point = (part[groups, self._place(rows)].T.contiguous() for part in (self.scale, self.zero_point))
        grid = Grid(spec, scale, zero_point)
        return Solved(weight, grid, keep)


def _pass_on(errors: Tensor, upper: Tensor, columns: Tensor) -> None:
    """Make columns [D, R] make up for the errors [B, R] of columns before them; upper [B, D]."""
    if len(columns):
        columns.addmm_(upper.T, errors, alpha=-1)


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
