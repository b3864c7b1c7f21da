"""The Hessian of a linear layer's squared output error, and its factor. The one copy in the package.

Shapes: R rows/out, C columns/in, N tokens. H [C, C] = (2 / N) * sum over tokens of x x', in fp32.
Source: GPTQ (arXiv 2210.17323), section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.errors import NumericalError

DAMPENING_STEP = 10.0
MAX_DAMPENING_FRAC = 10.0
# Slices of columns in which H is summed: 4 leave out 3/8 of the product.
NUM_SLICES = 4
MIN_SLICE = 128


@dataclass(frozen=True)
class Factor:
    """upper [C, C]: upper triangular, upper' @ upper = inverse of the damped H; row j holds what the columns after j
    must be told when column j changes. dead [C]: True where no token ever reached the column (diag(H) = 0).
    dampening_frac: the share of mean diag(H) that was needed; num_raised: how often the asked share failed.
    """

    upper: Tensor
    dead: Tensor
    dampening_frac: float
    num_raised: int


class HessianSum:
    """Running sum of x x' over batches; fp32 on the inputs' device, fp64 for fp64 inputs."""

    def __init__(self, num_columns: int) -> None:
        self.num_columns, self.num_tokens = num_columns, 0
        self._sum: Tensor | None = None

    def add(self, inputs: Tensor) -> None:
        """Count inputs [N, C]. Keep N between 2048 and 16384: longer products lose accuracy, shorter ones time."""
        inputs = inputs if inputs.dtype == torch.float64 else inputs.float()
        if self._sum is None:
            self._sum = inputs.new_zeros(self.num_columns, self.num_columns)
        width = max(MIN_SLICE, -(-self.num_columns // NUM_SLICES))
        with full_precision():
            for start in range(0, self.num_columns, width):  # H is symmetric: what lies left of a slice is not computed
                end = start + width
                self._sum[start:end, start:].addmm_(inputs[:, start:end].T, inputs[:, start:])
        self.num_tokens += inputs.shape[0]

    def mean(self) -> Tensor:
        """H [C, C]. Raises NumericalError when there were no tokens or a value is not finite."""
        if self._sum is None or self.num_tokens == 0:
            raise NumericalError("no calibration token reached the layer")
        if not torch.isfinite(self._sum.sum()):
            raise NumericalError("the layer's inputs are not finite on the calibration text")
        upper = self._sum.triu()
        return (upper + upper.triu(1).T) * (2 / self.num_tokens)


def factor(hessian: Tensor, dampening_frac: float) -> Factor:
    """Damp H [C, C] and factor its inverse.

    Dead columns get a diagonal of 1. A Cholesky that fails is tried again with ten times the damping.
    Raises NumericalError when even ten times the mean diagonal does not help.
    """
    dead = hessian.diagonal() == 0
    mean_diagonal = hessian.diagonal().mean()
    frac, num_raised = dampening_frac, 0
    while frac <= MAX_DAMPENING_FRAC:
        damped = hessian + torch.diag(dead.to(hessian.dtype) + frac * mean_diagonal)
        upper = _invert_to_upper(damped)
        if upper is not None:
            return Factor(upper, dead, frac, num_raised)
        frac, num_raised = frac * DAMPENING_STEP, num_raised + 1
    raise NumericalError(f"the Hessian cannot be factored, even with {MAX_DAMPENING_FRAC:g} x its mean diagonal added")


def relative_loss(weight: Tensor, changed: Tensor, hessian: Tensor) -> float:
    """tr((W-Q) H (W-Q)') / tr(W H W') for W = weight [R, C], Q = changed [R, C]; 0 when both vanish."""
    with full_precision():
        error = weight - changed
        lost, whole = ((error @ hessian) * error).sum(), ((weight @ hessian) * weight).sum()
    return float(lost / whole) if whole > 0 else float(lost)


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products without TF32, whatever the process has set."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _invert_to_upper(damped: Tensor) -> Tensor | None:
    """U with U' U = inverse of `damped`: Cholesky of the flipped matrix, flipped back, inverted. None if it fails.

    J L L' J = H with J the flip, so H = V V' with V = J L J upper triangular, and inverse(H) = V^-T V^-1.
    """
    lower, info = torch.linalg.cholesky_ex(damped.flip(0, 1))
    if int(info) != 0:
        return None
    identity = torch.eye(damped.shape[0], dtype=damped.dtype, device=damped.device)
    upper = torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)
    return upper if bool(torch.isfinite(upper).all()) else None
