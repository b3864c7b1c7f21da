# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Products of fp32 matrices on CUDA's tensor cores, to the accuracy of fp32. Each value, moved by a power of two that
its row or column shares, is the sum of two of fp16, its leading bits and most of what these leave out, which hold 22
bits together; of their four products the least is left out. Sums of a few columns are added up outside the tensor
cores, where they round to nearest: their own long sums are biased by 1e-4 in a factor, enough to make a matrix look
indefinite.

Shapes: M x K times K x N. Parts of triangular matrices that are 0 are not read, tiles that nobody wants not computed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from compress.products import Known

ROWS, COLUMNS = 128, 128
# Columns summed at a time, by the first number of the compute capability: three steps fit into its shared memory.
SUMMED, SUMMED_ELSEWHERE = {9: 64}, 32
# Tiles of neighbouring rows run together, so that they find each other's columns in the cache.
TOGETHER = 8
NUM_WARPS, NUM_STAGES = 8, 3
# Rows and columns of a tile that is split, where a row's values lie side by side and where a column's do.
SPLIT_ALONG, SPLIT_ACROSS = (8, 256), (16, 128)
# The largest value of a row is moved to below 2^15; moves are within what fp32 holds.
HIGHEST_BIT, LEAST_BIT = 14, -110


def add_product_(total: Tensor, left: Tensor, right: Tensor, known: Known, *, factor: int, keep: bool) -> None:
    """products.add_product_ for fp32 on CUDA and a total whose rows are contiguous."""
    assert total.stride(1) == 1
    summed = _summed(total.device)
    left_parts, left_unit = mine = _split(left, summed)
    right_parts, right_unit = mine if right.T.is_set_to(left) else _split(right.T, summed)
    grid = (triton.cdiv(total.shape[0], ROWS) * triton.cdiv(total.shape[1], COLUMNS),)
    _add_product[grid](
        left_parts,
        right_parts,
        left_unit,
        right_unit,
        total,
        *total.shape,
        left_parts.shape[2],
        total.stride(0),
        FACTOR=factor,
        KEEP=keep,
        KNOWN=str(known),
        ROWS=ROWS,
        COLUMNS=COLUMNS,
        SUMMED=summed,
        TOGETHER=TOGETHER,
        num_warps=NUM_WARPS,
        num_stages=NUM_STAGES,
    )


def _summed(device: torch.device) -> int:
    major = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 0
    return SUMMED.get(major, SUMMED_ELSEWHERE)


def _split(matrix: Tensor, summed: int) -> tuple[Tensor, Tensor]:
    """The two parts [2, R, K] of a matrix [R, K], fp16, K filled up with zeros to a multiple of `summed`; and the unit
    [R] of each row's parts, fp32.
    """
    num_rows, num_summed = matrix.shape
    filled = -(-num_summed // summed) * summed
    parts = torch.empty(2, num_rows, filled, dtype=torch.float16, device=matrix.device)
    unit = torch.empty(num_rows, dtype=torch.float32, device=matrix.device)
    rows, width = SPLIT_ALONG if matrix.stride(1) == 1 else SPLIT_ACROSS
    _split_rows[(triton.cdiv(num_rows, rows),)](
        matrix,
        parts,
        unit,
        *matrix.shape,
        *matrix.stride(),
        filled,
        HIGHEST_BIT=HIGHEST_BIT,
        LEAST_BIT=LEAST_BIT,
        ROWS=rows,
        WIDTH=width,
    )
    return parts, unit


@triton.jit
def _add_product(
    left,
    right,
    left_unit,
    right_unit,
    total,
    num_rows,
    num_columns,
    num_summed,
    total_stride,
    FACTOR: tl.constexpr,
    KEEP: tl.constexpr,
    KNOWN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUMMED: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    tiles_down, tiles_across = tl.cdiv(num_rows, ROWS), tl.cdiv(num_columns, COLUMNS)
    band = tl.program_id(0) // (TOGETHER * tiles_across)
    within = tl.program_id(0) % (TOGETHER * tiles_across)
    height = min(tiles_down - band * TOGETHER, TOGETHER)
    first_row, first_column = (band * TOGETHER + within % height) * ROWS, (within // height) * COLUMNS
    if KNOWN == "upper result" and first_column + COLUMNS <= first_row:
        return
    start, end = 0, num_summed
    if KNOWN == "upper left":
        start = first_row // SUMMED * SUMMED
    if KNOWN == "lower right":
        start = first_column // SUMMED * SUMMED
    if KNOWN == "upper right":
        end = min(num_summed, first_column + COLUMNS)
    rows, columns = first_row + tl.arange(0, ROWS), first_column + tl.arange(0, COLUMNS)
    summed = start + tl.arange(0, SUMMED)
    some_rows, some_columns = (rows < num_rows)[:, None], (columns < num_columns)[None, :]
    mine = left + rows.to(tl.int64)[:, None] * num_summed + summed[None, :]
    theirs = right + summed[:, None] + columns.to(tl.int64)[None, :] * num_summed
    mine_rest = mine + tl.cast(num_rows, tl.int64) * num_summed
    theirs_rest = theirs + tl.cast(num_columns, tl.int64) * num_summed
    result = tl.zeros([ROWS, COLUMNS], tl.float32)
    for _ in range(start, end, SUMMED):
        a, b = tl.load(mine, mask=some_rows, other=0.0), tl.load(theirs, mask=some_columns, other=0.0)
        part = tl.dot(tl.load(mine_rest, mask=some_rows, other=0.0), b)
        part = tl.dot(a, tl.load(theirs_rest, mask=some_columns, other=0.0), part)
        result += tl.dot(a, b, part)
        mine += SUMMED
        theirs += SUMMED
        mine_rest += SUMMED
        theirs_rest += SUMMED
    result *= tl.load(left_unit + rows, mask=rows < num_rows, other=0.0)[:, None]
    result *= FACTOR * tl.load(right_unit + columns, mask=columns < num_columns, other=0.0)[None, :]
    place = total + rows.to(tl.int64)[:, None] * total_stride + columns[None, :]
    if KEEP:
        result += tl.load(place, mask=some_rows & some_columns, other=0.0)
    tl.store(place, result, mask=some_rows & some_columns)


@triton.jit
def _split_rows(
    matrix,
    parts,
    unit,
    num_rows,
    num_summed,
    row_stride,
    stride,
    filled,
    HIGHEST_BIT: tl.constexpr,
    LEAST_BIT: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    some_rows = (rows < num_rows)[:, None]
    largest = tl.zeros([ROWS, WIDTH], tl.float32)
    for first in range(0, num_summed, WIDTH):
        summed = first + tl.arange(0, WIDTH)
        place = matrix + rows[:, None] * row_stride + summed.to(tl.int64)[None, :] * stride
        largest = tl.maximum(
            largest, tl.abs(tl.load(place, mask=some_rows & (summed < num_summed)[None, :], other=0.0))
        )
    bit = tl.maximum((tl.max(largest, 1).to(tl.int32, bitcast=True) >> 23) - 127, LEAST_BIT)
    tl.store(unit + rows, ((127 + bit - HIGHEST_BIT) << 23).to(tl.float32, bitcast=True), mask=rows < num_rows)
    move = ((127 + HIGHEST_BIT - bit) << 23).to(tl.float32, bitcast=True)[:, None]
    for first in range(0, filled, WIDTH):
        summed = first + tl.arange(0, WIDTH)
        place = matrix + rows[:, None] * row_stride + summed.to(tl.int64)[None, :] * stride
        values = move * tl.load(place, mask=some_rows & (summed < num_summed)[None, :], other=0.0)
        lead = values.to(tl.float16)
        place = parts + rows[:, None] * filled + summed[None, :]
        wanted = some_rows & (summed < filled)[None, :]
        tl.store(place, lead, mask=wanted)
        tl.store(
            place + tl.cast(num_rows, tl.int64) * filled, (values - lead.to(tl.float32)).to(tl.float16), mask=wanted
        )
