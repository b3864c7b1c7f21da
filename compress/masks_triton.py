# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""The cheapest weights of every matrix of a stack, all at once on CUDA: exactly as many as asked, ties to the earliest
weight, as masks.keep_largest has it, without a sort.

Shapes: R stacked rows, B columns of a mask, S segments (rows that share a threshold). W and keep lie transposed.

Costs are not negative, so the bits of fp32 order as they do. Four passes count a byte each of those whose higher bytes
are the threshold's, as far as it is known. Where only some of the weights that equal the threshold go, a fifth counts
them tile by tile, so that each knows how many come before it. The last writes the masks. Where a card runs all programs
at the same time, the passes are one launch, whose programs wait for each other after each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from compress.columns_triton import divide
from compress.devices import send

# Rows of a tile, and columns of it at a time, where all passes are one launch and where each is one.
ROWS, SUB, MORE_ROWS, FEWER_COLUMNS = 32, 128, 128, 32
LEVELS, BINS = 4, 256
PASSES = LEVELS + 2
# Programs that a multiprocessor runs at the same time, of so many warps with so many registers a thread.
TOGETHER, NUM_WARPS, MAX_REGISTERS = 4, 8, 64


def prune_by_counting(
    W: Tensor, squared_diagonal: Tensor, keep: Tensor, first: int, last: int, segments: Sequence[tuple[int, int, int]]
) -> None:
    """masks.prune_cheapest for W [C, R] fp32 and segments (first row, last row, number to prune).

    W and keep [C, P] have a column's values side by side; squared_diagonal holds one value a column.
    """
    assert W.dtype == torch.float32 and W.stride(1) == 1 and keep.stride(1) == 1
    device, num_segments = W.device, len(segments)
    first_rows, last_rows, nums_pruned = zip(*segments, strict=True)
    tiles = _tiles(first_rows, last_rows, ROWS, device)
    in_one = last - first <= SUB and len(tiles) <= _at_once(device)
    if not in_one:
        tiles = _tiles(first_rows, last_rows, MORE_ROWS, device)
    num_passes = PASSES if in_one else 1
    counts = torch.zeros(num_segments * LEVELS * BINS + 1, dtype=torch.int32, device=device)
    state = torch.empty(len(tiles), 3, dtype=torch.int32, device=device)
    for first_pass in range(0, PASSES, num_passes):
        _prune[(len(tiles),)](
            W,
            squared_diagonal,
            tiles,
            _wanted(nums_pruned, device),
            counts,
            state,
            keep,
            num_segments,
            first,
            last,
            *(W.stride(0), keep.stride(0)),
            FIRST=first_pass,
            LAST=first_pass + num_passes,
            ROWS=ROWS if in_one else MORE_ROWS,
            SUB=SUB if in_one else FEWER_COLUMNS,
            BINS=BINS,
            num_warps=NUM_WARPS,
            maxnreg=MAX_REGISTERS,
            launch_cooperative_grid=in_one,
        )


@cache
def _at_once(device: torch.device) -> int:
    """Programs that can wait for each other; none in Triton's interpreter, where they run one after the other."""
    return TOGETHER * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 0


# A sweep asks for the same tables at each of its steps.
@lru_cache(maxsize=32)
def _tiles(first_rows: Sequence[int], last_rows: Sequence[int], rows: int, device: torch.device) -> Tensor:
    """What each program reads, [programs, 4]: its rows, their segment, the first program of that."""
    table: list[list[int]] = []
    for segment, (first_row, last_row) in enumerate(zip(first_rows, last_rows, strict=True)):
        start = len(table)
        table += [[row, min(row + rows, last_row), segment, start] for row in range(first_row, last_row, rows)]
    return send(torch.tensor(table, dtype=torch.int32), device)


@lru_cache(maxsize=32)
def _wanted(nums_pruned: Sequence[int], device: torch.device) -> Tensor:
    return send(torch.tensor(nums_pruned, dtype=torch.int32), device)


@triton.jit
def _prune(
    W,
    diagonal,
    tiles,
    wanted,
    counts,
    state,
    keep,
    num_segments,
    first_column,
    last_column,
    stride,
    keep_stride,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    ROWS: tl.constexpr,
    SUB: tl.constexpr,
    BINS: tl.constexpr,
):
    """The passes FIRST..LAST. state [tiles, 3]: what is known of the threshold's bytes, its rank among the costs that
    begin with them, ties.
    """
    tile = tiles + 4 * tl.program_id(0)
    rows, segment = tl.load(tile) + tl.arange(0, ROWS), tl.load(tile + 2)
    levels, known = counts + segment * 4 * BINS, state + 3 * tl.program_id(0)
    weights = (W, diagonal, rows, rows < tl.load(tile + 1), last_column, stride)
    first_bits = _cost_bits(weights, first_column, SUB)  # all there are, where more than one pass is made here
    ONCE: tl.constexpr = LAST - FIRST > 1
    threshold, rank = 0, tl.load(wanted + segment)
    if FIRST > 1:
        threshold, rank = tl.load(known), tl.load(known + 1)
    for this_pass in tl.static_range(FIRST, LAST):
        if this_pass > 0 and this_pass < 5:
            threshold, rank = _next_byte(levels + (this_pass - 1) * BINS, threshold, rank, BINS)
        if this_pass < 4:
            mine = levels + this_pass * BINS
            for first in range(first_column, first_column + SUB if ONCE else last_column, SUB):
                _count(mine, first_bits if ONCE else _cost_bits(weights, first, SUB), threshold, this_pass, BINS)
        else:
            some_stay = tl.load(levels + 3 * BINS + threshold % BINS) > rank
            before = tl.zeros([ROWS], tl.int32)  # of the threshold's equals, those in earlier tiles and rows
            if some_stay:
                for first in range(first_column, first_column + SUB if ONCE else last_column, SUB):
                    bits, real = first_bits if ONCE else _cost_bits(weights, first, SUB)
                    before += tl.sum((real & (bits == threshold)).to(tl.int32), 0)
                if this_pass == 4:
                    tl.store(known + 2, tl.sum(before, 0))
                else:
                    before = tl.cumsum(before, 0) - before
                    for earlier in range(tl.load(tile + 3), tl.program_id(0)):
                        before += tl.load(state + 3 * earlier + 2)
            if this_pass == 5:
                for first in range(first_column, first_column + SUB if ONCE else last_column, SUB):
                    bits, real = first_bits if ONCE else _cost_bits(weights, first, SUB)
                    tie = (real & (bits == threshold)).to(tl.int32)
                    place = before[None, :] + tl.cumsum(tie, 0) - tie
                    pruned = (bits < threshold) | ((tie > 0) & (place < rank))
                    columns = first + tl.arange(0, SUB)
                    tl.store(keep + columns.to(tl.int64)[:, None] * keep_stride + rows[None, :], ~pruned, mask=real)
                    before += tl.sum(tie, 0)
        if this_pass + 1 < LAST:
            _wait_for_all(counts + num_segments * 4 * BINS, (this_pass + 1 - FIRST) * tl.num_programs(0))
    if LAST < 6:
        tl.debug_barrier()  # all have read what is written now
        tl.store(known, threshold)
        tl.store(known + 1, rank)


@triton.jit
def _wait_for_all(arrived, goal):
    """Until `goal` programs have come to such a place; what they wrote before is seen after it. arrived: 0 at first."""
    tl.debug_barrier()
    tl.atomic_add(arrived, 1, sem="release")
    while tl.atomic_add(arrived, 0, sem="acquire") < goal:
        pass
    tl.debug_barrier()


@triton.jit
def _next_byte(counts, threshold, rank, BINS: tl.constexpr):
    """The rank-th smallest cost's next byte, put to those known before, and its rank among the costs that begin so."""
    found = tl.load(counts + tl.arange(0, BINS))
    digit = tl.sum((tl.cumsum(found, 0) < rank).to(tl.int32), 0)
    return threshold * BINS + digit, rank - tl.sum(tl.where(tl.arange(0, BINS) < digit, found, 0), 0)


@triton.jit
def _count(counts, found, threshold, LEVEL: tl.constexpr, BINS: tl.constexpr):
    """Add up, for the costs that begin with the threshold's LEVEL bytes, how often each next byte comes."""
    bits, real = found
    if LEVEL > 0:
        real = real & ((bits >> (32 - 8 * LEVEL)) == threshold)
    digit = (bits >> (24 - 8 * LEVEL)) & (BINS - 1)
    size: tl.constexpr = bits.shape[0] * bits.shape[1]
    found = tl.histogram(tl.reshape(digit, [size]), BINS, mask=tl.reshape(real, [size]))
    tl.atomic_add(counts + tl.arange(0, BINS), found, mask=found > 0, sem="relaxed")


@triton.jit
def _cost_bits(weights, first, SUB: tl.constexpr):
    """What pruning each weight [SUB, ROWS] from column `first` on costs, as bits, and whether there is one."""
    W, diagonal, rows, inside, last_column, stride = weights
    columns = first + tl.arange(0, SUB)
    real = (columns < last_column)[:, None] & inside[None, :]
    w = tl.load(W + columns.to(tl.int64)[:, None] * stride + rows[None, :], mask=real, other=0.0)
    squared = tl.load(diagonal + columns, mask=columns < last_column, other=1.0)
    return divide(w * w, squared[:, None] + tl.zeros_like(w)).to(tl.int32, bitcast=True), real
