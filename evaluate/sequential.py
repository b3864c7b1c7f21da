"""A paired comparison that may be looked at again and again, and stopped, at no cost in validity.

The differences d (candidate minus baseline, one a pair of answers, in [-1, 1]) are bet upon. Against "the mean is at
least m", a gambler who stakes a share f of what can be lost multiplies his capital by 1 + f (m - d) / (1 - m) a pair;
were it true his capital would not grow in the mean, so it ever reaches 1 / alpha with a chance of at most alpha
(Ville's inequality). The capital is the mean over a row of shares f, bet side by side: no tuning, and it depends on
the differences alone, not on their order. The m against which capital has stayed low form a confidence sequence
(Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting").

It holds for any distribution of d in two designs:
- one sample a question, questions in a random order (the shared seeded one): looked at after each question; the mean
  is over all questions of this kind.
- several samples: each pass asks every question once, looked at after each whole pass; the mean is over the questions
  of this benchmark. The questions' own differences may be as unlike as they want: the product of their factors is at
  most that of their mean (inequality of arithmetic and geometric means).
Sampling without replacement from one pass is left out on purpose: it would call the benchmark's own luck certain and
find a model worse than itself. Questions that share premises (FOLIO) are no independent questions: give the mean of a
story as one difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, log

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_SHARES = np.array([0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99])
_GRID = np.linspace(-1, 1, 1001)[1:-1]  # candidate means; bounds are rounded outwards to it


class SequentialVerdict(StrEnum):
    """What the answers so far have shown; once decided it stays."""

    WORSE = "worse"
    NOT_WORSE = "not worse by the margin"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class SequentialComparison:
    """low, high: the 1 - alpha confidence sequence of the mean difference, valid at all looks at once.

    Each verdict is wrong with a chance of at most alpha, however often one looks: worse where the mean is not below
    0, not worse where it is not above -margin (a mean between the two makes neither wrong). num_pairs: of answers
    given; num_decided: when the verdict fell; num_more: about how many more would decide at the differences seen,
    None when decided or when they point at neither.
    """

    verdict: SequentialVerdict
    low: float
    high: float
    num_pairs: int
    num_decided: int | None
    num_more: int | None


def compare_sequentially(
    differences: Sequence[float], *, pairs_per_look: int = 1, margin: float = 0.02, alpha: float = 0.05
) -> SequentialComparison:
    """Judges paired differences in the order in which their questions were asked.

    pairs_per_look: 1 for one sample a question; the number of questions where whole passes are repeated. Pairs after
    the last look are left for the next. Raises ValueError for a difference outside [-1, 1], a margin or an alpha
    outside (0, 1).
    """
    d = np.asarray(differences, dtype=np.float64)
    if not (0 < margin < 1 and 0 < alpha < 1):
        raise ValueError(f"margin is {margin} and alpha {alpha}, both must lie between 0 and 1")
    if d.size and not (np.abs(d) <= 1).all():
        raise ValueError("differences must lie in [-1, 1]")
    d = d[: d.size // pairs_per_look * pairs_per_look]
    threshold = log(1 / alpha)
    worse, not_worse = log_capital(-d, 0.0), log_capital(d, -margin)
    looks = slice(pairs_per_look - 1, None, pairs_per_look)
    verdict, num_looks = _first(worse[looks], not_worse[looks], threshold)
    needs = (_num_more(-d, 0.0, worse, threshold), _num_more(d, -margin, not_worse, threshold))
    num_more = min((n for n in needs if n is not None), default=None) if num_looks is None else None
    low, high = confidence_sequence(d, alpha)
    return SequentialComparison(
        verdict=verdict,
        low=low,
        high=high,
        num_pairs=d.size,
        num_decided=None if num_looks is None else num_looks * pairs_per_look,
        num_more=None if num_more is None else ceil(num_more / pairs_per_look) * pairs_per_look,
    )


def log_capital(x: Array, m: float) -> Array:
    """Log capital after each of the values x in [-1, 1], bet upon a mean above m > -1. Shape [n]."""
    grown = np.cumsum(np.log1p(_SHARES[:, None] * (x - m) / (1 + m)), axis=1)
    return _log_mean(grown)


def confidence_sequence(differences: Array, alpha: float = 0.05) -> tuple[float, float]:
    """Bounds of the mean after all the differences, from bets upon either side of each candidate at alpha / 2.

    They hold at every look at once; those of earlier looks may be intersected with them.
    """
    if not differences.size:
        return -1.0, 1.0
    values, counts = np.unique(differences, return_counts=True)
    threshold = log(2 / alpha)
    low = _lower_bound(values, counts, threshold)
    high = -_lower_bound(-values, counts, threshold)
    return low, high


def _lower_bound(values: Array, counts: NDArray[np.int64], threshold: float) -> float:
    """The largest candidate up to which all are rejected by bets upon a larger mean; -1 where none is."""
    candidates = _GRID[None, :, None]
    bets = np.log1p(_SHARES[:, None, None] * (values - candidates) / (1 + candidates))  # shares, candidates, values
    rejected = _log_mean((bets * counts).sum(axis=2)) >= threshold
    num_rejected = int(rejected.argmin()) if not rejected.all() else len(_GRID)
    return float(_GRID[num_rejected - 1]) if num_rejected else -1.0


def _log_mean(logs: Array) -> Array:
    """Log of the mean of the exponentials along the first axis."""
    top = logs.max(axis=0, initial=-np.inf)
    return np.asarray(top + np.log(np.exp(logs - top).mean(axis=0)))


def _first(worse: Array, not_worse: Array, threshold: float) -> tuple[SequentialVerdict, int | None]:
    """Whichever capital reaches the threshold first, and after how many looks."""
    hits = np.flatnonzero((worse >= threshold) | (not_worse >= threshold))
    if not hits.size:
        return SequentialVerdict.UNDECIDED, None
    at = int(hits[0])
    is_worse = worse[at] >= threshold
    return SequentialVerdict.WORSE if is_worse else SequentialVerdict.NOT_WORSE, at + 1


def _num_more(x: Array, m: float, capital: Array, threshold: float) -> int | None:
    """Pairs until the capital gets there, if the best share went on growing as over the values so far."""
    if not x.size:
        return None
    rate = float(np.log1p(_SHARES[:, None] * (x - m) / (1 + m)).mean(axis=1).max())
    return ceil((threshold - float(capital[-1])) / rate) if rate > 0 else None
