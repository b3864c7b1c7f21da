"""Intervals of means over questions: pure functions over values, fractions never percents.

The question is the unit: samples of one question are no independent trials, nor are questions of one cluster (the
conclusions of a FOLIO story share their premises).
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from math import fsum, sqrt
from statistics import NormalDist

Z95 = NormalDist().inv_cdf(0.975)


def wilson_interval(proportion: float, num_trials: float, z: float = Z95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927); `num_trials` may be an effective, broken number > 0."""
    centre = (proportion + z * z / (2 * num_trials)) / (1 + z * z / num_trials)
    half = z * sqrt(proportion * (1 - proportion) / num_trials + z * z / (4 * num_trials**2)) / (1 + z * z / num_trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def accuracy_interval(
    scores: Sequence[float], num_samples: float = 1, clusters: Sequence[Hashable] | None = None
) -> tuple[float, float]:
    """95 % interval of the mean of per-question scores in [0, 1].

    num_samples: mean number of samples a question. clusters: of each question, None where each stands alone.
    One sample of independent questions: Wilson's interval. Else Wilson's with an effective number of trials
    p (1-p) / var(mean), the variance taken between clusters, and narrowed by the degrees of freedom (Korn and
    Graubard 1998; Dean and Pagano 2015, "Evaluating confidence interval methods for binomial proportions in
    clustered surveys"); never fewer than if each cluster gave one answer, never more than all answers.
    """
    n = len(scores)
    mean = fsum(scores) / n
    clusters = range(n) if clusters is None else clusters
    sizes = cluster_sums([1.0] * n, clusters)
    if num_samples <= 1 and len(sizes) == n:
        return wilson_interval(mean, n)
    fewest = n * n / fsum(size * size for size in sizes)
    spread, variance = mean * (1 - mean), variance_of_mean(scores, clusters)
    if spread == 0 or len(sizes) == 1:
        effective = fewest
    elif variance == 0:
        effective = n * num_samples
    else:
        effective = spread / variance * (Z95 / t95(len(sizes) - 1)) ** 2
    return wilson_interval(mean, min(max(effective, fewest), n * num_samples))


def cluster_sums(values: Sequence[float], clusters: Sequence[Hashable]) -> list[float]:
    """Sum of the values of each cluster, clusters in the order of their first value."""
    groups: defaultdict[Hashable, list[float]] = defaultdict(list)
    for value, cluster in zip(values, clusters, strict=True):
        groups[cluster].append(value)
    return [fsum(group) for group in groups.values()]


def variance_of_mean(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Variance of the mean of the values, from the spread between independent clusters; 0 for a single cluster."""
    n = len(values)
    mean = fsum(values) / n
    residuals = cluster_sums([v - mean for v in values], clusters)
    k = len(residuals)
    return k / (k - 1) * fsum(r * r for r in residuals) / n**2 if k > 1 else 0.0


def t95(degrees: int) -> float:
    """Upper 97.5 % point of Student's t: its expansion at the normal's (Fisher and Cornish 1960), 1e-3 from 6 on."""
    v, z = float(max(degrees, 1)), Z95
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + fsum(term / v ** (i + 1) for i, term in enumerate(terms))
