"""The Hessian of a linear layer's squared output error, and its factor. The one copy in the package.

Shapes: R rows/out, C columns/in, N tokens. H [C, C] = (2 / N) * sum over tokens of x x', in fp32.
Source: GPTQ (arXiv 2210.17323), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compress.devices import Aside
from compress.errors import NumericalError
from compress.products import Known, add_product_, full_precision, matmul_precision, product

DAMPENING_STEP = 10.0
MAX_DAMPENING_FRAC = 10.0
# Slices of columns in which H is summed: 4 leave out 3/8 of the product, 8 leave out 7/16 where they are wide enough.
MIN_SLICE, WIDE_SLICE = 128, 1024
# Matrices up to this size are factored and inverted by LAPACK's routines, larger ones by halves, in products.
MAX_SOLVED = 512
EXACT_IN_TENSOR_CORES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Factor:
    """upper [C, C]: upper triangular, upper' @ upper = inverse of the damped H; row j holds what the columns after j
    must be told when column j changes. dead [C]: True where no token ever reached the column (diag(H) = 0).
    dampening_frac: the share of mean diag(H) that was needed; num_raised: how often the asked share failed. is_sound
    []: whether it is a factor at all, on the device, so that who needs it need not wait for it.
    """

    upper: Tensor
    dead: Tensor
    dampening_frac: float
    num_raised: int
    is_sound: Tensor

    def without_dead(self, weight: Tensor, order: Tensor | None = None) -> Tensor:
        """weight [R, C] with 0 in the columns that no calibration token reached; `dead` is in `order`."""
        dead = self.dead if order is None else self.dead[order.argsort()]
        return weight.masked_fill(dead, 0)


@dataclass(frozen=True)
class Feeder:
    """What makes a unit's inputs, and can take a division of them into itself: the stored weight [C] of a norm, or
    (None) the rows of the matrix before.
    """

    norm: Tensor | None


class InputStatistics:
    """What the inputs of one unit were like, shared by all schemes: hessian [C, C], and its factors, each made once for
    a damping and an order. cross [C, C]: what gptaq needs beside it (CrossSum). feeder: None where no scale can go.

    Until settle() nobody has looked at the values: the device may still be computing them, and work on what comes of
    them can be given to it already.
    """

    def __init__(self, hessian: Tensor, cross: Tensor | None = None, feeder: Feeder | None = None) -> None:
        self.hessian, self.cross, self.feeder = hessian, cross, feeder
        self.is_settled = False
        self._factors: dict[tuple[float, bool], tuple[Factor, Tensor | None]] = {}

    def factor(self, dampening_frac: float, act_order: bool) -> tuple[Factor, Tensor | None]:
        """The factor of H in the order of the sweep, and that order [C], None = as they lie. Once settled it is sound;
        raises NumericalError then.
        """
        key = (dampening_frac, act_order)
        if key not in self._factors:
            order = falling_diagonal(self.hessian) if act_order else None
            ordered = self.hessian if order is None else self.hessian[order][:, order]
            self._factors[key] = (factor if self.is_settled else attempt_factor)(ordered, dampening_frac), order
        return self._factors[key]

    def settle(self) -> None:
        """Wait for the values and look at them: factors that are not sound are made anew when asked for, with more
        damping. Raises NumericalError when H is not finite.
        """
        if not torch.isfinite(self.hessian.sum()):
            raise NumericalError("the layer's inputs are not finite on the calibration text")
        self._factors = {key: made for key, made in self._factors.items() if bool(made[0].is_sound)}
        self.is_settled = True


class HessianSum:
    """Running sum of x x' over batches: total [C, C], of which what lies left of the diagonal does not count; fp32 on
    the inputs' device, fp64 for fp64 inputs, None before the first.

    16-bit inputs on CUDA go into the product as they are: their products are exact, only the sum is in fp32.
    """

    def __init__(self, num_columns: int, num_tokens: int = 0, total: Tensor | None = None) -> None:
        self.num_columns, self.num_tokens, self.total = num_columns, num_tokens, total

    def add(self, inputs: Tensor) -> None:
        """Count inputs [N, C]. Keep N between 2048 and 16384: longer products lose accuracy, shorter ones time."""
        exact = inputs.dtype in EXACT_IN_TENSOR_CORES and inputs.is_cuda
        if not exact and inputs.dtype != torch.float64:
            inputs = inputs.float()
        if self.total is None:
            dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
            self.total = inputs.new_zeros(self.num_columns, self.num_columns, dtype=dtype)
        width = slice_width(self.num_columns)
        with full_precision():
            for start in range(0, self.num_columns, width):  # H is symmetric: what lies left of a slice is not computed
                slice_, rest = inputs[:, start : start + width].T, inputs[:, start:]
                part = self.total[start : start + width, start:]
                if exact:
                    torch.addmm(part, slice_, rest, out_dtype=torch.float32, out=part)
                else:
                    part.addmm_(slice_, rest)
        self.num_tokens += inputs.shape[0]

    def mean(self) -> Tensor:
        """H [C, C]. Raises NumericalError when there were no tokens."""
        if self.total is None or self.num_tokens == 0:
            raise NumericalError("no calibration token reached the layer")
        mean = self.total.triu()
        mean += mean.triu(1).T
        mean *= 2 / self.num_tokens
        return mean


def factor(hessian: Tensor, dampening_frac: float) -> Factor:
    """Damp H [C, C] and factor its inverse.

    Dead columns get a diagonal of 1. A Cholesky that fails is tried again with ten times the damping.
    Raises NumericalError when even ten times the mean diagonal does not help.
    """
    frac, num_raised = dampening_frac, 0
    while frac <= MAX_DAMPENING_FRAC:
        found = attempt_factor(hessian, frac, num_raised)
        if bool(found.is_sound):
            return found
        frac, num_raised = frac * DAMPENING_STEP, num_raised + 1
    raise NumericalError(f"the Hessian cannot be factored, even with {MAX_DAMPENING_FRAC:g} x its mean diagonal added")


def attempt_factor(hessian: Tensor, dampening_frac: float, num_raised: int = 0) -> Factor:
    """One attempt of factor(), which does not wait to see whether it is sound."""
    upper, is_sound = _invert_to_upper(damp(hessian, dampening_frac))
    return Factor(upper, hessian.diagonal() == 0, dampening_frac, num_raised, is_sound)


def damp(hessian: Tensor, dampening_frac: float) -> Tensor:
    """H [C, C] with a share of its mean diagonal added to the diagonal, and 1 where a column is dead."""
    damped = hessian.clone(memory_format=torch.contiguous_format)
    diagonal = damped.diagonal()
    diagonal += (diagonal == 0).to(hessian.dtype) + dampening_frac * diagonal.mean()
    return damped


def falling_diagonal(hessian: Tensor) -> Tensor:
    """The order of act_order, [C]: largest inputs first, while there are columns left to compensate."""
    return hessian.diagonal().argsort(descending=True, stable=True)


def relative_loss(weight: Tensor, changed: Tensor, hessian: Tensor) -> float:
    """tr((W-Q) H (W-Q)') / tr(W H W') for W = weight [R, C], Q = changed [R, C]; 0 when both vanish."""
    lost, whole = float(output_energy(weight - changed, hessian)), float(output_energy(weight, hessian))
    return lost / whole if whole > 0 else lost


def output_energy(weight: Tensor, hessian: Tensor) -> Tensor:
    """tr(W H W') of weight [R, C]: the squared outputs, a sum over slices of the symmetric H; fp64, on their device. On
    CUDA its products are of TF32, which rounds off less than a thousandth of the sum.
    """
    width = slice_width(hessian.shape[0])
    energy = torch.zeros((), dtype=torch.float64, device=weight.device)
    with matmul_precision(tf32=True):
        for start in range(0, hessian.shape[0], width):
            end = start + width
            mine = weight[:, start:end]
            product = mine @ hessian[start:end, start:end]
            product.addmm_(weight[:, end:], hessian[end:, start:end], alpha=2)  # what lies right of it, twice
            energy += (product * mine).sum(dtype=torch.float64)
    return energy


def slice_width(num_columns: int) -> int:
    """Columns of a slice of a symmetric [C, C]."""
    return max(MIN_SLICE, -(-num_columns // (8 if num_columns >= 8 * WIDE_SLICE else 4)))


def _invert_to_upper(damped: Tensor) -> tuple[Tensor, Tensor]:
    """U with U' U = inverse of `damped`, in its memory; and whether that went well, []."""
    failures: list[Tensor] = []
    _invert_to_upper_(damped, failures)
    return damped, (torch.stack(failures) == 0).all() & torch.isfinite(damped.sum())


def _invert_to_upper_(matrix: Tensor, failures: list[Tensor]) -> None:
    """Turn H = [[A, B], [B', D]], what lies left of whose diagonal does not count, into U with U' U = inverse(H): U_D
    of D, U_A of the Schur complement A - (B U_D') (B U_D')', and -U_A (B U_D') U_D in between. Nearly all is products.
    """
    size = matrix.shape[0]
    if size <= MAX_SOLVED:
        lower, failure = torch.linalg.cholesky_ex(matrix.flip(0, 1))  # flipped, U is the inverse of the factor
        identity = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
        matrix.copy_(torch.linalg.solve_triangular(lower, identity, upper=False).flip(0, 1))
        failures.append(failure)
        return
    half = size // 2
    first, last, between = matrix[:half, :half], matrix[half:, half:], matrix[:half, half:]
    _invert_to_upper_(last, failures)
    told = product(between, last.T, Known.LOWER_RIGHT)
    add_product_(first, told, told.T, Known.UPPER_RESULT, factor=-1)
    on_to_last = Aside(
        lambda: product(told, last, Known.UPPER_RIGHT), matrix.device
    )  # fills up the waits of what follows
    _invert_to_upper_(first, failures)
    add_product_(between, first, on_to_last.result(), Known.UPPER_LEFT, factor=-1, keep=False)
    matrix[half:, :half] = 0
