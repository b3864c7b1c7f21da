# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Products of fp32 matrices on CUDA's tensor cores, to the accuracy of fp32: each of their TF32 products takes the
leading bits of the values or what these leave out, and sums of a few columns are added up outside, where they round to
nearest. The tensor cores' own long sums do not: a bias of 1e-4 in a factor, enough to make a matrix look indefinite.

Shapes: M x K times K x N. Parts of triangular matrices that are 0 are not read, tiles that nobody wants not computed.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from compress.products import Known

ROWS, COLUMNS, SUMMED = 128, 128, 32
# Tiles of neighbouring rows run together, so that they find each other's columns in the cache.
TOGETHER = 8
NUM_WARPS, NUM_STAGES = 8, 4


def add_product_(total: Tensor, left: Tensor, right: Tensor, known: Known, *, factor: int, keep: bool) -> None:
    """products.add_product_ for fp32 on CUDA and a total whose rows are contiguous."""
    assert total.stride(1) == 1
    if left.stride(1) != 1:
        left = left.contiguous()
    if right.stride(0) != 1:  # the tensor cores want both with the summed index innermost
        right = right.T.contiguous().T
    grid = (triton.cdiv(total.shape[0], ROWS) * triton.cdiv(total.shape[1], COLUMNS),)
    _add_product[grid](
        left,
        right,
        total,
        *total.shape,
        left.shape[1],
        left.stride(0),
        right.stride(1),
        total.stride(0),
        FACTOR=factor,
        KEEP=keep,
        KNOWN=str(known),
        ROWS=ROWS,
        COLUMNS=COLUMNS,
        SUMMED=SUMMED,
        TOGETHER=TOGETHER,
        num_warps=NUM_WARPS,
        num_stages=NUM_STAGES,
    )


@triton.jit
def _add_product(
    left,
    right,
    total,
    num_rows,
    num_columns,
    num_summed,
    left_stride,
    right_stride,
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
    summed = tl.arange(0, SUMMED)
    mine = left + rows.to(tl.int64)[:, None] * left_stride + (start + summed)[None, :]
    theirs = right + (start + summed)[:, None] + columns.to(tl.int64)[None, :] * right_stride
    result = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(start, end, SUMMED):
        inside = first + summed < end
        a, a_rest = _split(tl.load(mine, mask=(rows < num_rows)[:, None] & inside[None, :], other=0.0))
        b, b_rest = _split(tl.load(theirs, mask=inside[:, None] & (columns < num_columns)[None, :], other=0.0))
        part = tl.dot(a_rest, b, input_precision="tf32")
        part = tl.dot(a, b_rest, part, input_precision="tf32")
        part = tl.dot(a, b, part, input_precision="tf32")
        result += part
        mine += SUMMED
        theirs += SUMMED
    place = total + rows.to(tl.int64)[:, None] * total_stride + columns[None, :]
    wanted = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
    result *= FACTOR
    if KEEP:
        result += tl.load(place, mask=wanted, other=0.0)
    tl.store(place, result, mask=wanted)


@triton.jit
def _split(values):
    """values rounded to what TF32 holds, and what that leaves of them."""
    lead = ((values.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return lead, values - lead
