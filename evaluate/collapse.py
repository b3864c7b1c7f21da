"""What compression takes first, knowledge or reasoning: retention curves and the level at which they collapse.

answers by level -> accuracy of the problems answered at every level -> retention -> crossing of the threshold
                    (each benchmark counts once)            (accuracy over the least compressed level's)

A level is any number that grows with compression: sparsity, 16 - bits. Intervals come from resampling questions, the
same ones at all levels, and stories whole (bootstrap, percentiles); where every answer is wrong there is nothing to
resample, and an interval of [0, 0] says no more than that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evaluate.intervals import cluster_sums
from evaluate.schema import Answer
from evaluate.scores import problem_scores

Array = NDArray[np.float64]
Levels = Mapping[float, Sequence[Answer]]


@dataclass(frozen=True)
class CollapseRule:
    """When a curve has collapsed: once retention falls below `threshold`, linear between levels.

    chance: accuracy of guessing by benchmark (0.25 for four options), taken off on both sides; 0 where not given, as
    the study does.
    """

    threshold: float = 0.5
    chance: Mapping[str, float] = field(default_factory=dict)
    num_resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class RetentionPoint:
    """One level: mean accuracy over benchmarks, and the share of the first level's that is left, with 95 % interval."""

    level: float
    accuracy: float
    retention: float
    low: float
    high: float


@dataclass(frozen=True)
class RetentionCurve:
    """collapse: where the curve first crosses the threshold, with 95 % interval; None beyond the last level.

    first_certain_level: the first level whose whole interval of retention lies below the threshold.
    """

    points: tuple[RetentionPoint, ...]
    collapse: float | None
    collapse_low: float | None
    collapse_high: float | None
    first_certain_level: float | None
    num_problems: int


@dataclass(frozen=True)
class CollapseComparison:
    """knowledge_first: share of resamples in which knowledge crosses at a lower level than reasoning, ties half."""

    knowledge: RetentionCurve
    reasoning: RetentionCurve
    knowledge_first: float


def retention_curve(levels: Levels, rule: CollapseRule | None = None) -> RetentionCurve:
    """The curve of all problems that were answered at every level.

    Raises ValueError for fewer than two levels, no problem in common, or a first level no better than chance.
    """
    rule = rule or CollapseRule()
    scores = _scores(levels)
    return _curve(scores, rule, _resample(scores, rule))


def compare_collapse(knowledge: Levels, reasoning: Levels, rule: CollapseRule | None = None) -> CollapseComparison:
    """Both curves, and which of the two collapses first; raises ValueError as retention_curve does."""
    rule = rule or CollapseRule()
    scores = [_scores(levels) for levels in (knowledge, reasoning)]
    resampled = [_resample(s, rule) for s in scores]
    first, second = (_crossings(s.levels, r, rule.threshold) for s, r in zip(scores, resampled, strict=True))
    num = min(len(first), len(second))
    earlier = (first[:num] < second[:num]) + (first[:num] == second[:num]) / 2
    curves = [_curve(s, rule, r) for s, r in zip(scores, resampled, strict=True)]
    return CollapseComparison(curves[0], curves[1], float(earlier.mean()))


@dataclass(frozen=True)
class _Scores:
    """The problems that were answered at every level. sums: by benchmark, [levels, clusters]; sizes: [clusters]."""

    levels: list[float]
    sums: dict[str, Array]
    sizes: dict[str, Array]

    def accuracies(self, weights: Mapping[str, Array]) -> Array:
        """Mean over benchmarks, [resamples, levels], each cluster counted weights [resamples, clusters] times."""
        parts = [weights[n] @ self.sums[n].T / (weights[n] @ self.sizes[n])[:, None] for n in self.sums]
        return np.asarray(np.mean(parts, axis=0))


def _scores(levels: Levels) -> _Scores:
    if len(levels) < 2:
        raise ValueError(f"number of levels is {len(levels)}, must be at least 2")
    names = sorted(levels)
    scores = [problem_scores(levels[name]) for name in names]
    shared = sorted(set.intersection(*map(set, scores)))
    if not shared:
        raise ValueError("no problem was answered at every level")
    sums, sizes = {}, {}
    for benchmark in dict.fromkeys(name for name, _ in shared):
        keys = [key for key in shared if key[0] == benchmark]
        clusters = [scores[0][key].cluster for key in keys]
        sums[benchmark] = np.array([cluster_sums([s[key].score for key in keys], clusters) for s in scores])
        sizes[benchmark] = np.array(cluster_sums([1.0] * len(keys), clusters))
    return _Scores(names, sums, sizes)


def _resample(scores: _Scores, rule: CollapseRule) -> Array:
    """Retention of resampled questions, [resamples, levels]; those whose first level is no better than chance go."""
    rng = np.random.default_rng(rule.seed)
    weights = {
        name: rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), rule.num_resamples).astype(float)
        for name, sizes in scores.sizes.items()
    }
    retention = _retention(scores, weights, rule)
    return retention[np.isfinite(retention).all(axis=1)]


def _retention(scores: _Scores, weights: Mapping[str, Array], rule: CollapseRule) -> Array:
    chance = np.mean([rule.chance.get(name, 0.0) for name in scores.sums])
    above = scores.accuracies(weights) - chance
    first = np.where(above[:, :1] > 0, above[:, :1], np.nan)
    return np.asarray(above / first)


def _curve(scores: _Scores, rule: CollapseRule, resampled: Array) -> RetentionCurve:
    once = {name: np.ones((1, len(sizes))) for name, sizes in scores.sizes.items()}
    accuracy, retention = scores.accuracies(once)[0], _retention(scores, once, rule)
    if not np.isfinite(retention).all():
        raise ValueError(f"level {scores.levels[0]:g}: accuracy is {accuracy[0]:g}, must be above that of guessing")
    low, high = np.quantile(resampled, (0.025, 0.975), axis=0)
    columns = zip(scores.levels, accuracy, retention[0], low, high, strict=True)
    points = tuple(RetentionPoint(*(float(value) for value in column)) for column in columns)
    crossings = _crossings(scores.levels, resampled, rule.threshold)
    ends = np.quantile(crossings, (0.025, 0.975), method="closest_observation")
    here = _crossings(scores.levels, retention, rule.threshold)
    collapse, collapse_low, collapse_high = (float(x) if np.isfinite(x) else None for x in (*here, *ends))
    return RetentionCurve(
        points=points,
        collapse=collapse,
        collapse_low=collapse_low,
        collapse_high=collapse_high,
        first_certain_level=next((p.level for p in points if p.high < rule.threshold), None),
        num_problems=int(sum(sizes.sum() for sizes in scores.sizes.values())),
    )


def _crossings(levels: Sequence[float], retention: Array, threshold: float) -> Array:
    """Where each row of retention [rows, levels] first falls below the threshold; infinity where it never does."""
    below = retention < threshold
    after = np.maximum(below.argmax(axis=1), 1)
    rows = np.arange(len(retention))
    upper, lower = retention[rows, after - 1], retention[rows, after]
    start, end = np.asarray(levels)[after - 1], np.asarray(levels)[after]
    with np.errstate(invalid="ignore", divide="ignore"):
        crossing = start + (end - start) * (upper - threshold) / (upper - lower)
    return np.where(below.any(axis=1), crossing, np.inf)
