"""GPTAQ (Li et al., arXiv 2504.02692): calibration against the outputs of the dense model, not those of the compressed
one on its own inputs. Pure.

Shapes: R rows/out, C columns/in, N tokens. x: inputs in the compressed model, x~: the same tokens' in the dense one.

Minimized is the sum over tokens of |Q x - W x~|^2. With D = (2/N) sum (x~ - x) x', it equals, but for a constant,
tr((Q-T) H (Q-T)') with T = W + W D H^-1. The paper brings D in column by column during the sweep, and leaves out what
it asks of the column at hand and of those before; here T is computed at once and GPTQ's sweep runs on it unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress.hessian import Factor
from compress.products import full_precision

# Share of the shift that is taken. The whole shift fits the calibration text best and other text less well; the
# official code takes a quarter, too.
SHIFT_SHARE = 0.25


class CrossSum:
    """Running sum of (x~ - x) x' over batches, fp32 (fp64 for fp64 inputs)."""

    def __init__(self, num_columns: int) -> None:
        self.num_columns, self.num_tokens = num_columns, 0
        self._sum: Tensor | None = None

    def add(self, inputs: Tensor, dense_inputs: Tensor) -> None:
        """Count inputs [N, C] of the compressed model and dense_inputs [N, C] of the same tokens."""
        wide = inputs.dtype if inputs.dtype == torch.float64 else torch.float32
        inputs, dense_inputs = inputs.to(wide), dense_inputs.to(wide)
        if self._sum is None:
            self._sum = inputs.new_zeros(self.num_columns, self.num_columns)
        with full_precision():
            self._sum.addmm_((dense_inputs - inputs).T, inputs)
        self.num_tokens += inputs.shape[0]

    def mean(self) -> Tensor:
        """D [C, C], scaled as H is; zeros without tokens."""
        if self._sum is None:
            return torch.zeros(self.num_columns, self.num_columns)
        return self._sum * (2 / self.num_tokens)


def asymmetric_target(
    weight: Tensor, cross: Tensor, factor: Factor, order: Tensor | None = None, share: float = SHIFT_SHARE
) -> Tensor:
    """What weight [R, C] should be on the compressed model's inputs: W + share * W D H^-1.

    cross: D [C, C] in the order of the columns; factor: of the damped H with rows and columns in `order`.
    """
    with full_precision():
        moved = weight @ cross
        if order is None:
            return weight + share * (moved @ factor.upper.T) @ factor.upper
        shift = (moved[:, order] @ factor.upper.T) @ factor.upper
    return weight + share * shift[:, order.argsort()]
