# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""The sweep over columns on CUDA: one Triton kernel fixes a step of columns for all rows of a stack at once. A loop of
torch calls over the columns does the same on any device, but on a GPU it waits for launches, not for arithmetic.

Shapes: R stacked rows, C columns/in, G groups. W and E lie transposed, a row for each column, as in columns.py.

A program takes ROWS rows of one lane, SUB columns at a time, in registers: it first subtracts what the errors of the
step's earlier columns ask of them, then fixes them one by one, while what the next AHEAD of them need is on its way. A
column is picked out of the registers by a sum over them with all others at 0; U is 0 left of its diagonal, so columns
that are fixed are not disturbed. Arithmetic is that of the torch loop: IEEE division, halves rounded to even. Masks of
n:m patterns are chosen here, when a pattern's first column is reached, unstructured masks and grids between kernels.
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

# Rows of a program, columns it holds at a time, and columns of which is read, while as many are fixed, what they need:
# for stacks of up to so many rows. Few rows are bound by the latency of a column, many by what there is to do.
SHAPES = ((8192, (8, 16, 4)), (32768, (16, 16, 4)), (131072, (32, 32, 4)), (math.inf, (32, 32, 2)))
SUB = 32  # the most columns held
# What a program knows of its rows: the fields of LaneRows, and which table of groups is theirs.
TILE = 11
# Earlier columns whose errors are on their way from memory at the same time; columns held are a multiple of it.
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

    W [C, R]: its columns in the order of the sweep, U [C, C] the upper factor, a row's values side by side. order [C]:
    which column each is. keep [C, P]: masks of the first P rows, in `order`. scale, zero_point [G, Q]: grids of the
    last Q rows; they may be filled later, each before its group is reached. scale_dtype: what the scales of fit() are
    rounded to.
    """

    def __init__(
        self,
        lanes: Sequence[LaneRows],
        W: Tensor,
        U: Tensor,
        order: Tensor,
        keep: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        scale_dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        assert W.stride(1) == U.stride(1) == 1
        patterns = {lane.pattern_width for lane in lanes if lane.pattern_width}
        self._rows, self._sub, ahead = _shape(W.shape[1], patterns)
        self._ahead = math.gcd(ahead, *patterns)  # so that they begin only where as many columns do
        sizes = sorted({lane.group_size for lane in lanes})
        tiles = [_tiles_of(lane, self._rows, sizes.index(lane.group_size)) for lane in lanes]
        self._tiles = send(torch.cat(tiles), order.device)
        self._groups = torch.stack([(order // max(size, 1)).int() for size in sizes])
        self._widest = max(patterns, default=0)
        self._fitted_sizes = {lane.group_size for lane in lanes if lane.num_steps}
        self._scale_dtype = SCALE_DTYPES[scale_dtype]
        self._W, self._U = W, U
        self._scale, self._zero_point, self._keep = scale, zero_point, keep.view(torch.int8)

    def fit(self, column: int) -> None:
        """Set the grids of the groups that begin at `column`, for lanes with num_steps."""
        if all(column % size for size in self._fitted_sizes):
            return
        num_rows, num_rounded = self._W.shape[1], self._scale.shape[1]
        _fit_groups[(len(self._tiles),)](
            self._W,
            self._scale,
            self._zero_point,
            self._tiles,
            column,
            num_rows,
            num_rounded,
            num_rows - num_rounded,
            SCALE=self._scale_dtype,
            ROUNDING=ROUNDING[self._W.dtype],
            ROWS=self._rows,
            SUB=self._sub,
            TILE=TILE,
            num_warps=1,
        )

    def fix(self, first: int, last: int, E: Tensor, start: int) -> None:
        """Turn the columns first..last of W into final values, and fill E with their errors, a row for each column from
        `start` on.
        """
        num_rows, num_rounded = self._W.shape[1], self._scale.shape[1]
        assert E.stride() == (num_rows, 1)
        _fix_columns[(len(self._tiles),)](
            self._W,
            E,
            self._U,
            self._groups,
            self._scale,
            self._zero_point,
            self._keep,
            self._tiles,
            first,
            last,
            start,
            num_rows,
            self._U.stride(0),
            self._groups.stride(0),
            num_rounded,
            self._keep.shape[1],
            num_rows - num_rounded,
            WIDEST=self._widest,
            ROUNDING=ROUNDING[self._W.dtype],
            ROWS=self._rows,
            SUB=self._sub,
            AT_ONCE=AT_ONCE,
            AHEAD=self._ahead,
            TILE=TILE,
            num_warps=1,
        )


def _shape(num_rows: int, patterns: set[int]) -> tuple[int, int, int]:
    """The first of SHAPES for so many rows that holds whole patterns."""
    return next(
        shape for most, shape in SHAPES if num_rows <= most and all(shape[1] % width == 0 for width in patterns)
    )


def _tiles_of(lane: LaneRows, rows: int, table: int) -> Tensor:
    """What each program of a lane reads, [programs, TILE]; table: of the groups in which its columns lie."""
    first = torch.arange(lane.first, lane.last, rows, dtype=torch.int32)
    same = (*astuple(lane)[2:], table)
    ends = torch.stack([first, (first + rows).clamp(max=lane.last)], 1)
    return torch.cat([ends, torch.tensor(same, dtype=torch.int32).expand(len(first), -1)], 1)


@triton.jit
def _fix_columns(
    W,
    E,
    U,
    groups,
    scale,
    zero_point,
    keep,
    tiles,
    begin,
    end,
    errors_begin,
    num_rows,
    U_stride,
    groups_stride,
    num_rounded,
    num_masked,
    first_rounded,
    WIDEST: tl.constexpr,
    ROUNDING: tl.constexpr,
    ROWS: tl.constexpr,
    SUB: tl.constexpr,
    AT_ONCE: tl.constexpr,
    AHEAD: tl.constexpr,
    TILE: tl.constexpr,
):
    tile = tiles + TILE * tl.program_id(0)
    group_size, lowest, highest = tl.load(tile + 2), tl.load(tile + 3), tl.load(tile + 4)
    masked, num_kept, pattern_width = tl.load(tile + 5), tl.load(tile + 6), tl.load(tile + 7)
    rows = tl.load(tile) + tl.arange(0, ROWS)
    inside = rows < tl.load(tile + 1)
    is_given, is_rounded = (inside & (masked > 0) & (pattern_width == 0))[None, :], inside & (group_size > 0)
    groups += tl.load(tile + 10) * groups_stride + begin
    W += tl.cast(begin, tl.int64) * num_rows
    E += tl.cast(begin - errors_begin, tl.int64) * num_rows
    U += tl.cast(begin, tl.int64) * (U_stride + 1)
    keep += tl.cast(begin, tl.int64) * num_masked
    num_columns = end - begin
    for first in range(0, num_columns, SUB):
        columns = first + tl.arange(0, SUB)
        real = columns < num_columns
        w = tl.load(W + columns[:, None] * num_rows + rows[None, :], mask=real[:, None] & inside[None, :], other=0.0)
        for start in range(0, first, AT_ONCE):
            for i in tl.static_range(AT_ONCE):
                e = tl.load(E + (start + i) * num_rows + rows, mask=inside, other=0.0)
                w -= tl.load(U + (start + i) * U_stride + columns, mask=real, other=0.0)[:, None] * e[None, :]
        given = tl.load(keep + columns[:, None] * num_masked + rows[None, :], mask=real[:, None] & is_given, other=1)
        pattern = tl.where(pattern_width > 0, 0, tl.sum(given.to(tl.int32) << tl.arange(0, SUB)[:, None], 0))
        last = min(first + SUB, num_columns)
        factor = (U, U_stride, columns)
        grids = (groups, scale, zero_point, num_rounded, rows - first_rounded, is_rounded)
        ahead = _read(factor, grids, first, last, AHEAD)
        for start in range(first, last, AHEAD):
            now, ahead = ahead, _read(factor, grids, start + AHEAD, last, AHEAD)
            if WIDEST > 0 and (pattern_width > 0 and (start - first) % tl.maximum(pattern_width, 1) == 0):
                pattern |= _choose_pattern(w, factor, start, num_kept, pattern_width, WIDEST) << (start - first)
            for i in tl.static_range(AHEAD):
                j = start + i
                u, diagonal, s, z = now[i]
                value = tl.sum(tl.where((columns == j)[:, None], w, 0.0), 0)
                q = value
                if group_size > 0:
                    code = divide(value, s) + z
                    code = tl.where(code < lowest, lowest.to(w.dtype), code)  # so that NaN stays NaN
                    code = tl.where(code > highest, highest.to(w.dtype), code)
                    q = ((code + ROUNDING) - ROUNDING - z) * s
                q = tl.where(((pattern >> (j - first)) & 1) != 0, q, 0.0)
                e = divide(value - q, diagonal)
                mine, real_rows = j * num_rows + rows, inside & (j < last)
                tl.store(W + mine, q, mask=real_rows)
                tl.store(E + mine, e, mask=real_rows)
                w -= u[:, None] * e[None, :]
        if WIDEST > 0 and pattern_width > 0:
            kept = ((pattern[None, :] >> tl.arange(0, SUB)[:, None]) & 1).to(tl.int8)
            tl.store(keep + columns[:, None] * num_masked + rows[None, :], kept, mask=real[:, None] & inside[None, :])
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
        W += tl.cast(column, tl.int64) * num_rows
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
def _read(factor, grids, first, last, AHEAD: tl.constexpr):
    """Of each of AHEAD columns from `first` on, what the columns must be told of its error, its diagonal, and the scale
    and zero point of each row, 1 and 0 where nothing is rounded.
    """
    U, U_stride, columns = factor
    groups, scale, zero_point, num_rounded, place, is_rounded = grids
    found = ()
    for i in tl.static_range(AHEAD):
        j = min(first + i, last - 1)
        u = tl.load(U + j * U_stride + columns, mask=columns < last, other=0.0)
        mine = tl.load(groups + j) * num_rounded + place
        s = tl.load(scale + mine, mask=is_rounded, other=1.0)
        z = tl.load(zero_point + mine, mask=is_rounded, other=0.0)
        found += ((u, tl.load(U + j * (U_stride + 1)), s, z),)  # type: ignore[assignment]
    return found


@triton.jit
def divide(a, b):
    """Rounded to nearest: the plain division of fp32 is not."""
    if a.dtype == tl.float32:
        return tl.div_rn(a, b)
    return a / b


@triton.jit
def _choose_pattern(w, factor, first, num_kept, pattern_width, WIDEST: tl.constexpr):
    """Bit k of each row: whether column `first` + k of w is kept, one of the num_kept dearest of the pattern_width from
    there on; of equal ones the first. WIDEST: the most columns of a pattern.
    """
    pattern = tl.zeros([w.shape[1]], tl.int32)
    for k in tl.static_range(WIDEST):
        mine = _cost(w, factor, first + k, k < pattern_width)
        dearer = tl.zeros([w.shape[1]], tl.int32)
        for other in tl.static_range(WIDEST):
            theirs = _cost(w, factor, first + other, other < pattern_width)
            comes_first = (theirs >= mine) if other < k else (theirs > mine)
            dearer += (comes_first & (other < pattern_width)).to(tl.int32)
        pattern |= ((dearer < num_kept) & (k < pattern_width)).to(tl.int32) << k
    return pattern


@triton.jit
def _cost(w, factor, column, real):
    """What pruning a column of w would cost each row."""
    U, U_stride, columns = factor
    value = tl.sum(tl.where((columns == column)[:, None], w, 0.0), 0)
    diagonal = tl.load(U + column * (U_stride + 1), mask=real, other=1.0)
    return divide(value * value, diagonal * diagonal + tl.zeros_like(value))
