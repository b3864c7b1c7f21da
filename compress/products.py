"""Products with triangular matrices, which leave out most of what is 0 or not wanted. Pure; fp32 and fp64.

Shapes: M x K times K x N.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum

import torch
from torch import Tensor

from compress.devices import runs_triton

# Triangles up to this size are multiplied whole.
MAX_WHOLE = 2048
# Results of fp32 from this many values on are worth a kernel of their own on CUDA.
MIN_KERNEL = 1 << 20
TF32_SINCE = (8, 0)  # compute capability


class Known(StrEnum):
    """Which factor is 0 on one side of its diagonal, or that only the upper triangle of the result is wanted."""

    UPPER_LEFT = "upper left"
    UPPER_RIGHT = "upper right"
    LOWER_RIGHT = "lower right"
    UPPER_RESULT = "upper result"


def product(left: Tensor, right: Tensor, known: Known, *, factor: int = 1) -> Tensor:
    """factor * left @ right, [M, N]."""
    total = left.new_empty(left.shape[0], right.shape[1])
    add_product_(total, left, right, known, factor=factor, keep=False)
    return total


def add_product_(
    total: Tensor, left: Tensor, right: Tensor, known: Known, *, factor: int = 1, keep: bool = True
) -> None:
    """total [M, N] = factor * left @ right, and what it was where `keep`; what is not wanted of it may become anything.

    On CUDA large ones of fp32 are a Triton kernel (products_triton.py), where that is installed: as exact, faster.
    """
    if total.dtype == torch.float32 and total.numel() >= MIN_KERNEL and _has_kernel(total.device):
        from compress.products_triton import add_product_ as add_by_kernel_

        add_by_kernel_(total, left, right, known, factor=factor, keep=keep)
        return
    with full_precision():
        for part, mine, theirs, kept in _parts(total, left, right, known, keep):
            part.addmm_(mine, theirs, beta=int(kept), alpha=factor)


def _has_kernel(device: torch.device) -> bool:
    return runs_triton(device) and torch.cuda.get_device_capability(device) >= TF32_SINCE


def _parts(
    total: Tensor, left: Tensor, right: Tensor, known: Known, keep: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor, bool]]:
    """Products that make up the whole: what each is added to, its factors, and whether what was there stays."""
    size = left.shape[0] if known in (Known.UPPER_LEFT, Known.UPPER_RESULT) else right.shape[1]
    half = size // 2
    if size <= MAX_WHOLE:
        yield total, left, right, keep
        return
    match known:
        case Known.UPPER_LEFT:
            yield from _parts(total[:half], left[:half, :half], right[:half], known, keep)
            yield total[:half], left[:half, half:], right[half:], True
            yield from _parts(total[half:], left[half:, half:], right[half:], known, keep)
        case Known.UPPER_RIGHT:
            yield from _parts(total[:, :half], left[:, :half], right[:half, :half], known, keep)
            yield from _parts(total[:, half:], left[:, half:], right[half:, half:], known, keep)
            yield total[:, half:], left[:, :half], right[:half, half:], True
        case Known.LOWER_RIGHT:
            yield from _parts(total[:, :half], left[:, :half], right[:half, :half], known, keep)
            yield total[:, :half], left[:, half:], right[half:, :half], True
            yield from _parts(total[:, half:], left[:, half:], right[half:, half:], known, keep)
        case Known.UPPER_RESULT:
            yield from _parts(total[:half, :half], left[:half], right[:, :half], known, keep)
            yield total[:half, half:], left[:half], right[:, half:], keep
            yield from _parts(total[half:, half:], left[half:], right[:, half:], known, keep)


def full_precision() -> AbstractContextManager[None]:
    """Matrix products without TF32, whatever the process has set."""
    return matmul_precision(tf32=False)


@contextmanager
def matmul_precision(*, tf32: bool) -> Iterator[None]:
    """Matrix products of fp32 on CUDA with or without TF32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
