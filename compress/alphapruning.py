"""AlphaPruning (Lu et al., arXiv 2410.10912): layers whose spectra have heavier tails are better trained, and pruned
less. Pure, from the weights alone.

Shapes: R rows/out, C columns/in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.products import full_precision

# Layers differ by up to this much from the mean, as a share of it; the paper's search ends between 0.1 and 0.3.
SPREAD = 0.2
HIGHEST_SPARSITY = 0.98


def tail_exponent(weight: Tensor) -> float:
    """Hill's estimate of the exponent a in p(e) ~ e^-a over the upper half of the eigenvalues e of W W', W = [R, C].

    Smaller = heavier tail. Source: the paper's section 3; the median as the tail's start as in its code.
    """
    smaller = weight if weight.shape[0] <= weight.shape[1] else weight.T
    with full_precision():
        eigenvalues = torch.linalg.eigvalsh(smaller.double() @ smaller.double().T).clamp(min=1e-30)
    tail = eigenvalues[eigenvalues.numel() // 2 :].log()
    excess = float((tail - tail[0]).sum())
    return 1 + len(tail) / max(excess, 1e-12)


def layer_sparsities(
    exponents: Sequence[float], sizes: Sequence[int], sparsity: float, spread: float = SPREAD
) -> list[float]:
    """One sparsity a layer, linear in its exponent, so that their mean over weights is `sparsity`.

    exponents: of each layer (mean over its matrices); sizes: its weights. The spread is halved until no layer's
    sparsity passes 0.98 (or `sparsity`, where that is higher).
    """
    low, high = min(exponents), max(exponents)
    limit = max(HIGHEST_SPARSITY, sparsity)
    while True:
        ranks = [(value - low) / (high - low) if high > low else 0.5 for value in exponents]
        ratios = [1 + spread * (2 * rank - 1) for rank in ranks]
        mean = sum(ratio * size for ratio, size in zip(ratios, sizes, strict=True)) / sum(sizes)
        chosen = [sparsity * ratio / mean for ratio in ratios]
        if max(chosen) <= limit or spread < 1e-6:
            return [min(value, limit) for value in chosen]
        spread /= 2
