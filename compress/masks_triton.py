# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""The cheapest weights of every matrix of a stack, all at once on CUDA: exactly as many as asked, ties to the earliest
weight, as masks.keep_largest has it, without a sort.

Shapes: R stacked rows, B columns of a mask, S segments (rows that share a threshold). W and keep lie transposed.

Costs are not negative, so the bits of fp32 order as they do. Four passes count a byte each of those whose higher bytes
are the threshold's, as far as it is known; one more writes the masks. Where only some of the weights that equal the
threshold go, a pass between counts them tile by tile, so that each knows how many come before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from compress.columns_triton import divide
from compress.devices import send

SUB = 32
# Rows of a program: more of them from so many rows of a stack on.
ROWS, MORE_ROWS, MANY, NUM_WARPS = 64, 128, 1 << 17, 4
LEVELS, BINS = 4, 256


def prune_by_counting(
    W: Tensor, squared_diagonal: Tensor, keep: Tensor, segments: Sequence[tuple[int, int, int]]
) -> None:
    """masks.prune_cheapest for W [B, R] fp32 and segments (first row, last row, number to prune).

    W and keep [B, P] have a column's values side by side; squared_diagonal holds one value a column.
    """
    assert W.dtype == torch.float32 and W.stride(1) == 1 and keep.stride(1) == 1
    num_rows = sum(last_row - first_row for first_row, last_row, _ in segments)
    rows = ROWS if num_rows < MANY else MORE_ROWS
    tiles = _tiles(tuple((first_row, last_row) for first_row, last_row, _ in segments), rows, W.device)
    wanted = _wanted(tuple(num_pruned for *_, num_pruned in segments), W.device)
    counts = torch.zeros(len(segments), LEVELS, BINS, dtype=torch.int32, device=W.device)
    ties = torch.empty(len(tiles), dtype=torch.int32, device=W.device)
    of_weights = (W, squared_diagonal, tiles, wanted, counts)
    sizes = (W.shape[0], W.stride(0))
    settings = {"ROWS": rows, "SUB": SUB, "BINS": BINS, "num_warps": NUM_WARPS}
    grid = (len(tiles),)
    for level in range(LEVELS):
        _count[grid](*of_weights, *sizes, LEVEL=level, **settings)
    _count_ties[grid](*of_weights, ties, *sizes, **settings)
    _mark[grid](*of_weights, ties, keep.view(torch.int8), *sizes, keep.stride(0), **settings)


# A sweep asks for the same tables at each of its steps.
@lru_cache(maxsize=32)
def _tiles(segments: Sequence[tuple[int, int]], rows: int, device: torch.device) -> Tensor:
    """What each program reads, [programs, 4]: its rows, their segment, the first program of that."""
    table: list[list[int]] = []
    for number, (first_row, last_row) in enumerate(segments):
        start = len(table)
        table += [[row, min(row + rows, last_row), number, start] for row in range(first_row, last_row, rows)]
    return send(torch.tensor(table, dtype=torch.int32), device)


@lru_cache(maxsize=32)
def _wanted(nums_pruned: Sequence[int], device: torch.device) -> Tensor:
    return send(torch.tensor(nums_pruned, dtype=torch.int32), device)


@triton.jit
def _count(
    W,
    diagonal,
    tiles,
    wanted,
    counts,
    num_columns,
    stride,
    LEVEL: tl.constexpr,
    ROWS: tl.constexpr,
    SUB: tl.constexpr,
    BINS: tl.constexpr,
):
    rows, inside, segment = _tile(tiles, ROWS)
    mine = counts + segment * 4 * BINS
    threshold, _ = _descend(mine, tl.load(wanted + segment), LEVEL, BINS)
    found = tl.zeros([BINS], tl.int32)
    for first in range(0, num_columns, SUB):
        bits, real = _cost_bits(W, diagonal, first, rows, inside, num_columns, stride, SUB)
        if LEVEL > 0:
            real = real & ((bits >> (32 - 8 * LEVEL)) == threshold)
        digit = (bits >> (24 - 8 * LEVEL)) & (BINS - 1)
        found += tl.histogram(tl.reshape(digit, [SUB * ROWS]), BINS, mask=tl.reshape(real, [SUB * ROWS]))
    tl.atomic_add(mine + LEVEL * BINS + tl.arange(0, BINS), found, mask=found > 0)


@triton.jit
def _count_ties(
    W,
    diagonal,
    tiles,
    wanted,
    counts,
    ties,
    num_columns,
    stride,
    ROWS: tl.constexpr,
    SUB: tl.constexpr,
    BINS: tl.constexpr,
):
    rows, inside, segment = _tile(tiles, ROWS)
    mine = counts + segment * 4 * BINS
    threshold, num_pruned = _descend(mine, tl.load(wanted + segment), 4, BINS)
    if tl.load(mine + 3 * BINS + threshold % BINS) > num_pruned:
        found = tl.zeros([ROWS], tl.int32)
        for first in range(0, num_columns, SUB):
            bits, real = _cost_bits(W, diagonal, first, rows, inside, num_columns, stride, SUB)
            found += tl.sum((real & (bits == threshold)).to(tl.int32), 0)
        tl.store(ties + tl.program_id(0), tl.sum(found, 0))


@triton.jit
def _mark(
    W,
    diagonal,
    tiles,
    wanted,
    counts,
    ties,
    keep,
    num_columns,
    stride,
    keep_stride,
    ROWS: tl.constexpr,
    SUB: tl.constexpr,
    BINS: tl.constexpr,
):
    rows, inside, segment = _tile(tiles, ROWS)
    mine = counts + segment * 4 * BINS
    threshold, num_pruned = _descend(mine, tl.load(wanted + segment), 4, BINS)
    before = tl.zeros([ROWS], tl.int32)  # ties in earlier tiles and rows
    if tl.load(mine + 3 * BINS + threshold % BINS) > num_pruned:
        this = tl.program_id(0)
        for tile in range(tl.load(tiles + 4 * this + 3), this):
            before += tl.load(ties + tile)
        in_row = tl.zeros([ROWS], tl.int32)
        for first in range(0, num_columns, SUB):
            bits, real = _cost_bits(W, diagonal, first, rows, inside, num_columns, stride, SUB)
            in_row += tl.sum((real & (bits == threshold)).to(tl.int32), 0)
        before += tl.cumsum(in_row, 0) - in_row
    for first in range(0, num_columns, SUB):
        bits, real = _cost_bits(W, diagonal, first, rows, inside, num_columns, stride, SUB)
        tie = (real & (bits == threshold)).to(tl.int32)
        place = before[None, :] + tl.cumsum(tie, 0) - tie
        pruned = (bits < threshold) | ((tie > 0) & (place < num_pruned))
        columns = first + tl.arange(0, SUB)
        tl.store(keep + columns[:, None] * keep_stride + rows[None, :], (~pruned).to(tl.int8), mask=real)
        before += tl.sum(tie, 0)


@triton.jit
def _tile(tiles, ROWS: tl.constexpr):
    tile = tiles + 4 * tl.program_id(0)
    rows = tl.load(tile) + tl.arange(0, ROWS)
    return rows, rows < tl.load(tile + 1), tl.load(tile + 2)


@triton.jit
def _descend(counts, rank, LEVEL: tl.constexpr, BINS: tl.constexpr):
    """The first LEVEL bytes of the rank-th smallest cost, and its rank among those that begin with them."""
    threshold = rank * 0
    digits = tl.arange(0, BINS)
    for level in tl.static_range(LEVEL):
        found = tl.load(counts + level * BINS + digits)
        digit = tl.sum((tl.cumsum(found, 0) < rank).to(tl.int32), 0)
        rank -= tl.sum(tl.where(digits < digit, found, 0), 0)
        threshold = threshold * BINS + digit
    return threshold, rank


@triton.jit
def _cost_bits(W, diagonal, first, rows, inside, num_columns, stride, SUB: tl.constexpr):
    columns = first + tl.arange(0, SUB)
    real = (columns < num_columns)[:, None] & inside[None, :]
    w = tl.load(W + columns[:, None] * stride + rows[None, :], mask=real, other=0.0)
    squared = tl.load(diagonal + columns, mask=columns < num_columns, other=1.0)
    return divide(w * w, squared[:, None] + tl.zeros_like(w)).to(tl.int32, bitcast=True), real
