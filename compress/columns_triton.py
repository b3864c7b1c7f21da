# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""The sweep over columns on CUDA: one Triton kernel fixes a step of columns for all rows of a stack at once. A loop of
torch calls over the columns does the same on any device, but on a GPU it waits for launches, not for arithmetic.

Shapes: R stacked rows, C columns/in, G groups, B columns of a step. W and E lie transposed, [B, R], as in columns.py.

A program takes ROWS rows of one lane, SUB columns at a time, in registers: it first subtracts what the errors of the
step's earlier columns ask of them, then fixes them one by one. A column is picked out of the registers by a sum over
them with all others at 0; U is 0 left of its diagonal, so columns that are fixed are not disturbed. Arithmetic is that
of the torch loop: IEEE division, halves rounded to even. Masks of n:m patterns are chosen here, when a pattern's first
column is reached; unstructured masks and grids between kernels, by the code that the torch loop uses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from compress.devices import send

ROWS, SUB = 32, 32
# What a program knows of its rows: the fields of LaneRows.
TILE = 10
# Earlier columns whose errors are on their way from memory at the same time; SUB is a multiple of it.
AT_ONCE = 8
MAX_STEP = 128
# Added and taken away again, it rounds halves to even: 1.5 * 2^(bits of the fraction). Codes are far below it.
ROUNDING = {torch.float32: 1.5 * 2.0**23, torch.float64: 1.5 * 2.0**52}
SCALE_DTYPES = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}


@dataclass(frozen=True)
class LaneRows:
    """Rows first..last of a stack and what happens to them. group_size: 0 = not rounded. masked: zeros at 0 of `keep`;
    of a pattern num_kept of pattern_width columns, 0 = `keep` is given. num_steps: a scale's steps in the range of its
    group, where the kernel fits grids that hold that range; 0 = grids are given. zero_moves: for asymmetric ones.
    """

    first: int
    last: int
    group_size: int
    lowest: int
    highest: int
    masked: bool
    num_kept: int
    pattern_width: int
    num_steps: int = 0
    zero_moves: bool = False


def step_width(group_sizes: Sequence[int], mask_widths: Sequence[int], pattern_widths: Sequence[int]) -> int | None:
    """Columns of a step, so that grids and unstructured masks begin only where a step does; None where a pattern would
    not lie within SUB columns of a step: the kernel cannot take such a stack.
    """
    step = math.gcd(MAX_STEP, *group_sizes, *mask_widths)
    return step if all(SUB % width == 0 and step % width == 0 for width in pattern_widths) else None


class Kernel:
    """The kernel for the rows of one stack.

    order [C]: the column solved at each step. scale, zero_point [G, Q]: grids of the stack's last Q rows; they may be
    filled later, each before its group is reached. keep [C, P]: masks of the first P rows, in `order`. scale_dtype:
    what the scales of fit() are rounded to.
    """

    def __init__(
        self,
        lanes: Sequence[LaneRows],
        order: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        keep: Tensor,
        scale_dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self._tiles = send(torch.cat([_tiles_of(lane) for lane in lanes]), order.device)
        self._widest = max(lane.pattern_width for lane in lanes)
        self._fitted_sizes = {lane.group_size for lane in lanes if lane.num_steps}
        self._scale_dtype = SCALE_DTYPES[scale_dtype]
        self._order, self._scale, self._zero_point, self._keep = order, scale, zero_point, keep.view(torch.int8)

    def fit(self, W: Tensor, column: int) -> None:
        """Set the grids of the groups that begin at `column`, for lanes with num_steps.

        W [B, R]: the stack's columns from there on, to the ends of these groups at least.
        """
        if all(column % size for size in self._fitted_sizes):
            return
        num_rounded = self._scale.shape[1]
        _fit_groups[(self._tiles.shape[0],)](
            W,
            self._scale,
            self._zero_point,
            self._tiles,
            column,
            W.shape[1],
            num_rounded,
            W.shape[1] - num_rounded,
            SCALE=self._scale_dtype,
            ROUNDING=ROUNDING[W.dtype],
            ROWS=ROWS,
            SUB=SUB,
            TILE=TILE,
            num_warps=1,
        )

    def fix(self, W: Tensor, E: Tensor, U: Tensor, column: int) -> None:
        """Turn W [B, R], the stack's columns from `column` on, into final values, and fill E [B, R] with their errors.

        U [B, B]: the diagonal block of the inverse Hessian's upper factor, a row's values side by side.
        """
        num_rounded, num_masked = self._scale.shape[1], self._keep.shape[1]
        assert W.stride() == E.stride() == (W.shape[1], 1) and U.stride(1) == 1
        _fix_columns[(self._tiles.shape[0],)](
            W,
            E,
            U,
            self._order[column:],
            self._scale,
            self._zero_point,
            self._keep[column:],
            self._tiles,
            W.shape[0],
            W.shape[1],
            U.stride(0),
            num_rounded,
            num_masked,
            W.shape[1] - num_rounded,
            WIDEST=self._widest,
            ROUNDING=ROUNDING[W.dtype],
            ROWS=ROWS,
            SUB=SUB,
            AT_ONCE=AT_ONCE,
            TILE=TILE,
            num_warps=1,
        )


def _tiles_of(lane: LaneRows) -> Tensor:
    """What each program of a lane reads, [programs, TILE]."""
    first = torch.arange(lane.first, lane.last, ROWS, dtype=torch.int32)
    same = astuple(lane)[2:]
    ends = torch.stack([first, (first + ROWS).clamp(max=lane.last)], 1)
    return torch.cat([ends, torch.tensor(same, dtype=torch.int32).expand(len(first), -1)], 1)


@triton.jit
def _fix_columns(
    W,
    E,
    U,
    order,
    scale,
    zero_point,
    keep,
    tiles,
    num_columns,
    num_rows,
    U_stride,
    num_rounded,
    num_masked,
    first_rounded,
    WIDEST: tl.constexpr,
    ROUNDING: tl.constexpr,
    ROWS: tl.constexpr,
    SUB: tl.constexpr,
    AT_ONCE: tl.constexpr,
    TILE: tl.constexpr,
):
    tile = tiles + TILE * tl.program_id(0)
    group_size, lowest, highest = tl.load(tile + 2), tl.load(tile + 3), tl.load(tile + 4)
    masked, num_kept, pattern_width = tl.load(tile + 5), tl.load(tile + 6), tl.load(tile + 7)
    rows = tl.load(tile) + tl.arange(0, ROWS)
    inside = rows < tl.load(tile + 1)
    for first in range(0, num_columns, SUB):
        columns = first + tl.arange(0, SUB)
        real = columns < num_columns
        w = tl.load(W + columns[:, None] * num_rows + rows[None, :], mask=real[:, None] & inside[None, :], other=0.0)
        for start in range(0, first, AT_ONCE):
            for i in tl.static_range(AT_ONCE):
                e = tl.load(E + (start + i) * num_rows + rows, mask=inside, other=0.0)
                w -= tl.load(U + (start + i) * U_stride + columns, mask=real, other=0.0)[:, None] * e[None, :]
        pattern = tl.zeros([ROWS], tl.int32)
        last = min(first + SUB, num_columns)
        s, z = _grid(scale, zero_point, order, first, group_size, num_rounded, rows - first_rounded, inside)
        u, diagonal = _factor_row(U, U_stride, columns, real, first)
        for j in range(first, last):
            following = min(j + 1, last - 1)  # is read while this column is fixed
            next_s, next_z = _grid(
                scale, zero_point, order, following, group_size, num_rounded, rows - first_rounded, inside
            )
            next_u, next_diagonal = _factor_row(U, U_stride, columns, real, following)
            value = tl.sum(tl.where((columns == j)[:, None], w, 0.0), 0)
            q = value
            if group_size > 0:
                code = divide(value, s) + z
                code = tl.where(code < lowest, lowest.to(w.dtype), code)  # so that NaN stays NaN
                code = tl.where(code > highest, highest.to(w.dtype), code)
                q = ((code + ROUNDING) - ROUNDING - z) * s
            if masked > 0:
                kept = keep + j * num_masked + rows
                if WIDEST > 0 and pattern_width > 0:
                    if j % pattern_width == 0:
                        pattern = _choose_pattern(w, U, U_stride, j - first, first, num_kept, pattern_width, WIDEST)
                    chosen = (pattern >> (j % pattern_width)) & 1
                    tl.store(kept, chosen.to(tl.int8), mask=inside)
                else:
                    chosen = tl.load(kept, mask=inside, other=1).to(tl.int32)
                q = tl.where(chosen != 0, q, 0.0)
            e = divide(value - q, diagonal)
            tl.store(W + j * num_rows + rows, q, mask=inside)
            tl.store(E + j * num_rows + rows, e, mask=inside)
            w -= u[:, None] * e[None, :]
            s, z, u, diagonal = next_s, next_z, next_u, next_diagonal
        tl.debug_barrier()  # the next columns read these errors


@triton.jit
def _fit_groups(
    W,
    scale,
    zero_point,
    tiles,
    column,
    num_rows,
    num_rounded,
    first_rounded,
    SCALE: tl.constexpr,
    ROUNDING: tl.constexpr,
    ROWS: tl.constexpr,
    SUB: tl.constexpr,
    TILE: tl.constexpr,
):
    tile = tiles + TILE * tl.program_id(0)
    group_size, lowest, highest = tl.load(tile + 2), tl.load(tile + 3), tl.load(tile + 4)
    num_steps, zero_moves = tl.load(tile + 8), tl.load(tile + 9)
    if (num_steps > 0) & (column % tl.maximum(group_size, 1) == 0):
        rows = tl.load(tile) + tl.arange(0, ROWS)
        inside = rows < tl.load(tile + 1)
        low = tl.zeros([ROWS], W.dtype.element_ty)
        high = low
        for first in range(0, group_size, SUB):
            columns = first + tl.arange(0, SUB)
            real = (columns < group_size)[:, None] & inside[None, :]
            w = tl.load(W + columns[:, None] * num_rows + rows[None, :], mask=real, other=0.0)
            low = tl.minimum(low, tl.min(w, 0))
            high = tl.maximum(high, tl.max(w, 0))
        largest = tl.maximum(high, -low)
        low = tl.where(zero_moves > 0, low, -largest)
        high = tl.where(zero_moves > 0, high, largest)
        s = divide(high - low, num_steps.to(low.dtype) + tl.zeros_like(low))
        s = _stored(s.to(tl.float32), SCALE).to(low.dtype)
        s = tl.where(s > 0, s, 1.0)
        z = ((lowest - divide(low, s)) + ROUNDING) - ROUNDING
        z = tl.minimum(tl.maximum(z, lowest.to(low.dtype)), highest.to(low.dtype))
        place = (column // group_size) * num_rounded + rows - first_rounded
        tl.store(scale + place, s, mask=inside)
        tl.store(zero_point + place, tl.where(zero_moves > 0, z, 0.0), mask=inside)


@triton.jit
def _stored(value, dtype: tl.constexpr):
    """value as dtype holds it, halves to even: bf16 by its bits, because Triton's interpreter cuts them off."""
    if dtype == tl.bfloat16:
        bits = value.to(tl.int32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        stored = (bits & -65536).to(tl.float32, bitcast=True)
    else:
        stored = value.to(dtype).to(tl.float32)
    return stored


@triton.jit
def _grid(scale, zero_point, order, column, group_size, num_rounded, place, inside):
    """Scale and zero point of each row at a column; 1 and 0 where nothing is rounded."""
    wanted = inside & (group_size > 0)
    place += (tl.load(order + column) // tl.maximum(group_size, 1)) * num_rounded
    return tl.load(scale + place, mask=wanted, other=1.0), tl.load(zero_point + place, mask=wanted, other=0.0)


@triton.jit
def _factor_row(U, U_stride, columns, real, row):
    """What each column must be told of a row's error, and the row's diagonal."""
    return tl.load(U + row * U_stride + columns, mask=real, other=0.0), tl.load(U + row * (U_stride + 1))


@triton.jit
def divide(a, b):
    """Rounded to nearest: the plain division of fp32 is not."""
    if a.dtype == tl.float32:
        return tl.div_rn(a, b)
    return a / b


@triton.jit
def _choose_pattern(w, U, U_stride, place, first, num_kept, pattern_width, WIDEST: tl.constexpr):
    """Bit k of each row: whether column `place` + k of w is kept, one of the num_kept dearest of its pattern; of equal
    ones the first. It looks at the WIDEST columns in which the pattern lies.
    """
    SUB: tl.constexpr = w.shape[0]
    ROWS: tl.constexpr = w.shape[1]
    parts = tl.arange(0, SUB // WIDEST)[:, None, None]
    near = tl.reshape(w, [SUB // WIDEST, WIDEST, ROWS])
    near = tl.sum(tl.where(parts == place // WIDEST, near, 0.0), 0)
    k = tl.arange(0, WIDEST)
    start = place % WIDEST
    here = (k >= start) & (k < start + pattern_width)
    diagonal = tl.load(U + (first + place - start + k) * (U_stride + 1), mask=here, other=1.0)
    costs = divide(near * near, (diagonal * diagonal)[:, None] + tl.zeros_like(near))
    mine, others = costs[:, None, :], costs[None, :, :]
    earlier = (k[None, :] < k[:, None])[:, :, None]
    dearer = here[None, :, None] & ((others > mine) | ((others == mine) & earlier))
    kept = here[:, None] & (tl.sum(dearer.to(tl.int32), 1) < num_kept)
    return tl.sum(kept.to(tl.int32) << (k - start)[:, None], 0)
