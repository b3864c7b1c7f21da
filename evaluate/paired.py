"""One set of answers against another, question by question: pure functions, fractions never percents.

Both answered the same questions, so a question counts by the difference of its two scores; the spread between
questions, the larger part of an accuracy's noise, falls out.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import comb, fsum, lcm, sqrt
from statistics import NormalDist

import numpy as np

from evaluate.intervals import Z95, cluster_sums, t95, variance_of_mean
from evaluate.schema import Answer
from evaluate.scores import problem_scores

SIGNIFICANCE = 0.05
Z80 = NormalDist().inv_cdf(0.8)
_FINEST_STEP = 240  # differences finer than 1/240 are rounded to it for the test, which stays exact for these


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of a minus accuracy of b over the problems that both answered, with 95 % interval.

    p_value: two-sided, exact: the signs of the differences are flipped, by cluster where problems share premises;
    with one sample a problem and no clusters that is McNemar's exact test. mcnemar_p: McNemar's exact test on the
    flips whatever the clusters, None with several samples. minimum_detectable: the true difference, either way,
    that a test at 5 % would find in 80 of 100 runs of this many problems, at the disagreement seen.
    """

    difference: float
    low: float
    high: float
    num_problems: int
    flips_to_correct: int  # problems on which a is better than b
    flips_to_wrong: int  # problems on which a is worse than b
    p_value: float
    mcnemar_p: float | None
    minimum_detectable: float

    @property
    def is_resolved(self) -> bool:
        """Whether the interval leaves 0 out: the two differ by more than the noise of their answers."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class MeanDifference:
    """Mean over benchmarks of their paired differences, with 95 % interval and the exact test of all of them."""

    difference: float
    low: float
    high: float
    num_problems: int
    flips_to_correct: int
    flips_to_wrong: int
    p_value: float


class Verdict(StrEnum):
    """What a difference shows about a, at a margin that is taken for no loss."""

    BETTER = "better"
    WORSE = "worse"
    EQUAL = "equal within margin"
    UNDECIDED = "undecided"


class NonInferiority(StrEnum):
    """Whether a is not worse than b by the margin or more: shown, refuted, or neither."""

    SHOWN = "yes"
    REFUTED = "no"
    OPEN = "open"


def verdict(difference: PairedDifference | MeanDifference, adjusted_p: float, margin: float) -> Verdict:
    """Better or worse by the (adjusted) test; equal when the whole interval lies within the margin; else undecided."""
    if adjusted_p <= SIGNIFICANCE and difference.difference != 0:
        return Verdict.BETTER if difference.difference > 0 else Verdict.WORSE
    return Verdict.EQUAL if -margin < difference.low and difference.high < margin else Verdict.UNDECIDED


def non_inferiority(difference: PairedDifference | MeanDifference, margin: float) -> NonInferiority:
    """Reads the 95 % interval against the margin: one-sided, either answer is wrong in at most 2.5 of 100 cases."""
    if difference.low > -margin:
        return NonInferiority.SHOWN
    return NonInferiority.REFUTED if difference.high < -margin else NonInferiority.OPEN


@dataclass(frozen=True)
class _Pairs:
    """Per-problem differences of one benchmark, and what summarize_differences wants to know of them."""

    differences: list[float]
    clusters: list[Hashable]
    num_samples: float
    scale: int

    def summarize(self) -> PairedDifference:
        return summarize_differences(self.differences, self.clusters, num_samples=self.num_samples, scale=self.scale)


def paired_difference(a: Sequence[Answer], b: Sequence[Answer]) -> PairedDifference:
    """Compares two sets of answers problem by problem: accuracy of a minus accuracy of b.

    A problem's score is averaged over its samples and seeds first. Raises ValueError when no problem was answered
    by both.
    """
    return _pair(a, b).summarize()


def mean_difference(benchmarks: Sequence[tuple[Sequence[Answer], Sequence[Answer]]]) -> MeanDifference:
    """Mean of the paired differences of several benchmarks (a, b), each counting once.

    The interval joins theirs as independent; the test flips the signs of all problems' differences, each divided by
    its benchmark's size. Raises ValueError for no benchmark, or one in which no problem was answered by both.
    """
    pairs = [_pair(a, b) for a, b in benchmarks]
    parts = [p.summarize() for p in pairs]
    if not parts:
        raise ValueError("at least one benchmark is needed")
    centre = fsum((part.low + part.high) / 2 for part in parts) / len(parts)
    half = sqrt(fsum(((part.high - part.low) / 2) ** 2 for part in parts)) / len(parts)
    smallest = min(part.num_problems for part in parts)
    weighted = [
        total * smallest / part.num_problems
        for pair, part in zip(pairs, parts, strict=True)
        for total in cluster_sums(pair.differences, pair.clusters)
    ]
    return MeanDifference(
        difference=fsum(part.difference for part in parts) / len(parts),
        low=max(-1.0, centre - half),
        high=min(1.0, centre + half),
        num_problems=sum(part.num_problems for part in parts),
        flips_to_correct=sum(part.flips_to_correct for part in parts),
        flips_to_wrong=sum(part.flips_to_wrong for part in parts),
        p_value=sign_flip_p(weighted, lcm(*(p.scale * q.num_problems for p, q in zip(pairs, parts, strict=True)))),
    )


def _pair(a: Sequence[Answer], b: Sequence[Answer]) -> _Pairs:
    scores_a, scores_b = problem_scores(a), problem_scores(b)
    shared = sorted(scores_a.keys() & scores_b.keys())
    counts = [[scores[key].num_samples for key in shared] for scores in (scores_a, scores_b)]
    return _Pairs(
        differences=[scores_a[key].score - scores_b[key].score for key in shared],
        clusters=[scores_a[key].cluster for key in shared],
        num_samples=min(fsum(c) / max(len(c), 1) for c in counts),
        scale=lcm(*set(counts[0]), *set(counts[1])),
    )


def summarize_differences(
    differences: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    num_samples: float = 1,
    scale: int = 1,
) -> PairedDifference:
    """Interval and tests of per-problem differences in [-1, 1].

    clusters: of each problem, None where each stands alone. num_samples: mean samples a problem of the side that
    has fewer. scale: differences are multiples of 1 / scale; 1 says one sample a problem on both sides.

    The interval adds one sample won and one lost to those observed (Bonett and Price 2012, "Adjusted Wald
    confidence interval for a difference of binomial proportions based on paired data"; recommended by Fagerland et
    al. 2014), so that no difference among n problems never reads as certainty; with several samples it takes
    Student's t, and clusters widen it by the spread between them. Raises ValueError without any problem.
    """
    n = len(differences)
    if not n:
        raise ValueError("no problem was answered by both")
    clusters = range(n) if clusters is None else clusters
    num_clusters = len(set(clusters))
    simple, clustered = variance_of_mean(differences, range(n)), variance_of_mean(differences, clusters)
    design_effect = max(1.0, clustered / simple) if simple > 0 else 1.0
    spread = (fsum(d * d for d in differences) + 2 / num_samples**2) / (n + 2)
    total = fsum(differences)
    centre = total / (n + 2)
    quantile = Z95 if scale == 1 and num_clusters == n else t95(num_clusters - 1)
    half = quantile * sqrt(design_effect * (spread - centre**2) / (n + 2))
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return PairedDifference(
        difference=total / n,
        low=max(-1.0, centre - half),
        high=min(1.0, centre + half),
        num_problems=n,
        flips_to_correct=wins,
        flips_to_wrong=losses,
        p_value=sign_flip_p(cluster_sums(differences, clusters), scale),
        mcnemar_p=mcnemar_p(wins, losses) if scale == 1 else None,
        minimum_detectable=minimum_detectable(spread, n / design_effect),
    )


def mcnemar_p(wins: int, losses: int) -> float:
    """Two-sided exact McNemar test: under no difference each flip is a fair coin (binomial, both tails alike)."""
    n = wins + losses
    return min(1.0, 2 * sum(comb(n, i) for i in range(min(wins, losses) + 1)) / (1 << n))


def sign_flip_p(differences: Sequence[float], scale: int = 1) -> float:
    """Two-sided exact test that independent differences are symmetric around 0, by all flips of their signs.

    The share of the 2^n sign patterns whose sum is at least as far from 0 as the one observed, counted by
    convolution (Fisher 1935; the paired permutation test). scale: differences are multiples of 1 / scale.
    """
    scale = min(scale, _FINEST_STEP)
    steps = [round(d * scale) for d in differences]
    reach = sum(map(abs, steps))
    chances = np.zeros(2 * reach + 1)
    chances[reach] = 1.0
    for step in (abs(s) for s in steps if s):
        flipped = np.zeros_like(chances)
        flipped[step:] += chances[:-step] / 2
        flipped[:-step] += chances[step:] / 2
        chances = flipped
    far = np.abs(np.arange(-reach, reach + 1)) >= abs(sum(steps))
    return min(1.0, float(chances[far].sum()))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusts a family's p values so that the chance of any false finding stays at the level (Holm 1979)."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def minimum_detectable(spread: float, num_problems: float) -> float:
    """The difference that a paired test at 5 % two-sided finds with 80 % power.

    spread: mean square of the differences, for one sample the share of problems that flip. Solves
    sqrt(n) d = z_97.5 sqrt(s) + z_80 sqrt(s - d^2) (Connor 1987) with s = max(spread, d), for no difference is
    larger than the share that flips. At most 1.
    """

    def excess(d: float) -> float:
        s = max(spread, d)
        return sqrt(num_problems) * d - Z95 * sqrt(s) - Z80 * sqrt(max(s - d * d, 0.0))

    low, high = 0.0, 1.0
    if excess(high) < 0:
        return 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) > 0 else (middle, high)
    return high
