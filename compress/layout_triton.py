# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Matrices into the transposed, reordered memory of a sweep and back on CUDA. torch's copies of such matrices read or
write scattered values there.

Shapes: R rows/out, C columns/in.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE, NUM_WARPS = 64, 8


def to_columns(matrix: Tensor, place: Tensor, columns: Tensor) -> None:
    """columns[place[c], r] = matrix[r, c] for matrix [R, C], columns [C, R], place [C]."""
    _move(matrix.contiguous(), place, columns, back=False)


def to_rows(columns: Tensor, place: Tensor) -> Tensor:
    """The matrix [R, C] of which to_columns makes columns [C, R]."""
    matrix = columns.new_empty(columns.shape[1], columns.shape[0])
    _move(matrix, place, columns, back=True)
    return matrix


def _move(matrix: Tensor, place: Tensor, columns: Tensor, *, back: bool) -> None:
    if matrix.dtype == torch.bool:
        matrix, columns = matrix.view(torch.int8), columns.view(torch.int8)
    assert matrix.dtype == columns.dtype and columns.stride(1) == 1
    num_rows, num_columns = matrix.shape
    _move_tile[(triton.cdiv(num_rows, TILE), triton.cdiv(num_columns, TILE))](
        matrix, columns, place, num_rows, num_columns, columns.stride(0), BACK=back, TILE=TILE, num_warps=NUM_WARPS
    )


@triton.jit
def _move_tile(matrix, columns, place, num_rows, num_columns, stride, BACK: tl.constexpr, TILE: tl.constexpr):
    r, c = tl.program_id(0) * TILE + tl.arange(0, TILE), tl.program_id(1) * TILE + tl.arange(0, TILE)
    there = tl.load(place + c, mask=c < num_columns, other=0)
    in_matrix = matrix + r.to(tl.int64)[:, None] * num_columns + c[None, :]
    in_columns = columns + there.to(tl.int64)[:, None] * stride + r[None, :]
    real = (r < num_rows)[:, None] & (c < num_columns)[None, :]
    real_there = (c < num_columns)[:, None] & (r < num_rows)[None, :]
    if BACK:
        tl.store(in_matrix, tl.trans(tl.load(in_columns, mask=real_there)), mask=real)
    else:
        tl.store(in_columns, tl.trans(tl.load(in_matrix, mask=real)), mask=real_there)
