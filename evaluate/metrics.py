"""Statistics of answers: pure functions over values, fractions never percents.

A request that failed (outcome error) is no answer: it is counted, and enters no accuracy, length or difference.
A truncated completion and one without an answer are wrong answers, counted beside the accuracy.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, fsum, sqrt
from statistics import NormalDist

from evaluate.answers import thinking_of
from evaluate.schema import Answer, Kind, Outcome

Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class TokenStatistics:
    """Completion tokens per answer, thinking included; None where no answer came with a count."""

    mean: float | None
    median: float | None
    p90: float | None


@dataclass(frozen=True)
class BenchmarkSummary:
    """The numbers of one benchmark. accuracy: mean over problems of the mean over their samples, with 95 % interval.

    think_tokens and answer_tokens are means per answer where the server counts thinking, else None;
    think_share is the thinking's share of the characters, None where no thinking is marked.
    """

    name: str
    kind: Kind
    num_problems: int
    num_answers: int
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    outcomes: Mapping[str, int]
    truncation_rate: float | None
    tokens_per_question: TokenStatistics
    think_tokens: float | None
    answer_tokens: float | None
    think_share: float | None
    f1: float | None


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of a minus accuracy of b over the problems that both answered, with 95 % interval."""

    difference: float
    low: float
    high: float
    num_problems: int
    flips_to_correct: int  # problems on which a is better than b
    flips_to_wrong: int  # problems on which a is worse than b

    @property
    def is_resolved(self) -> bool:
        """Whether the interval leaves 0 out: the two differ by more than the noise of their answers."""
        return self.low > 0 or self.high < 0


def wilson_interval(proportion: float, num_trials: float, z: float = Z95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927); `num_trials` may be an effective, broken number > 0."""
    centre = (proportion + z * z / (2 * num_trials)) / (1 + z * z / num_trials)
    half = z * sqrt(proportion * (1 - proportion) / num_trials + z * z / (4 * num_trials**2)) / (1 + z * z / num_trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def accuracy_interval(scores: Sequence[float], num_samples: float) -> tuple[float, float]:
    """95 % interval of the mean of per-problem scores in [0, 1].

    With one sample a problem this is Wilson's interval. With several, samples of one problem are no independent
    trials: the effective number of trials p (1-p) / var(mean), between problems and answers, takes their place
    (Dean and Pagano 2015, "Evaluating confidence interval methods for binomial proportions in clustered surveys").
    """
    n = len(scores)
    mean = fsum(scores) / n
    variance = fsum((s - mean) ** 2 for s in scores) / n / n
    most = n * max(num_samples, 1.0)
    spread = mean * (1 - mean)
    effective = spread / variance if variance > 0 else (most if spread > 0 else float(n))
    return wilson_interval(mean, min(max(effective, float(n)), most))


def percentile(values: Sequence[float], fraction: float) -> float:
    """Linearly interpolated percentile of a non-empty sequence (numpy's default)."""
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    low = floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def token_statistics(answers: Iterable[Answer]) -> TokenStatistics:
    """Mean, median and 90th percentile of completion tokens over the answers that carry a count."""
    counts = [float(a.completion_tokens) for a in _answered(answers) if a.completion_tokens is not None]
    if not counts:
        return TokenStatistics(None, None, None)
    return TokenStatistics(fsum(counts) / len(counts), percentile(counts, 0.5), percentile(counts, 0.9))


def think_share(answers: Iterable[Answer]) -> float | None:
    """Characters of thinking over all characters, among the answers whose thinking is marked; None if none is."""
    thinking = total = 0
    for answer in _answered(answers):
        completion = answer.completion or ""
        if answer.reasoning:
            thinking, total = thinking + len(answer.reasoning), total + len(answer.reasoning) + len(completion)
        elif (thought := thinking_of(completion)) is not None:
            thinking, total = thinking + len(thought), total + len(completion)
    return thinking / total if total else None


def summarize(answers: Sequence[Answer], kind: Kind) -> BenchmarkSummary:
    """Summarizes the answers to one benchmark; their order does not matter. Raises ValueError without any answer."""
    if not answers or len({a.benchmark for a in answers}) != 1:
        raise ValueError("answers of exactly one benchmark are needed")
    answered = list(_answered(answers))
    scores = list(_scores(answered).values())
    low, high = accuracy_interval(scores, len(answered) / len(scores)) if scores else (None, None)
    counted = [a for a in answered if a.think_tokens is not None and a.completion_tokens is not None]
    return BenchmarkSummary(
        name=answers[0].benchmark,
        kind=kind,
        num_problems=len({a.problem_id for a in answers}),
        num_answers=len(answers),
        accuracy=_mean(scores),
        accuracy_low=low,
        accuracy_high=high,
        outcomes=count_outcomes(answers),
        truncation_rate=_mean([float(a.outcome is Outcome.TRUNCATED) for a in answered]),
        tokens_per_question=token_statistics(answers),
        think_tokens=_mean([float(a.think_tokens or 0) for a in counted]),
        answer_tokens=_mean([float((a.completion_tokens or 0) - (a.think_tokens or 0)) for a in counted]),
        think_share=think_share(answers),
        f1=_mean([a.f1 for a in answered if a.f1 is not None]),
    )


def count_outcomes(answers: Iterable[Answer]) -> dict[str, int]:
    """How many answers ended in each outcome; every outcome is a key."""
    counts = Counter(a.outcome for a in answers)
    return {outcome.value: counts[outcome] for outcome in Outcome}


def paired_difference(a: Sequence[Answer], b: Sequence[Answer]) -> PairedDifference:
    """Compares two sets of answers problem by problem: accuracy of a minus accuracy of b.

    A problem's score is averaged over its samples and seeds first. The interval adds one problem won and one lost
    to those observed (Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data"; recommended by Fagerland et al. 2014), so that no difference among n
    problems never reads as certainty. Raises ValueError when no problem was answered by both.
    """
    scores_a, scores_b = _scores(_answered(a)), _scores(_answered(b))
    differences = [scores_a[key] - scores_b[key] for key in sorted(scores_a.keys() & scores_b.keys())]
    if not differences:
        raise ValueError("no problem was answered by both")
    n = len(differences)
    total = fsum(differences)
    centre = total / (n + 2)
    variance = ((fsum(d * d for d in differences) + 2) / (n + 2) - centre**2) / (n + 2)
    half = Z95 * sqrt(variance)
    return PairedDifference(
        difference=total / n,
        low=max(-1.0, centre - half),
        high=min(1.0, centre + half),
        num_problems=n,
        flips_to_correct=sum(d > 0 for d in differences),
        flips_to_wrong=sum(d < 0 for d in differences),
    )


def _answered(answers: Iterable[Answer]) -> Iterable[Answer]:
    return (a for a in answers if a.outcome is not Outcome.ERROR)


def _scores(answered: Iterable[Answer]) -> dict[tuple[str, str], float]:
    """Mean score of each (benchmark, problem)."""
    by_problem: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for answer in answered:
        by_problem[answer.benchmark, answer.problem_id].append(float(answer.outcome is Outcome.CORRECT))
    return {key: fsum(scores) / len(scores) for key, scores in by_problem.items()}


def _mean(values: Sequence[float]) -> float | None:
    return fsum(values) / len(values) if values else None
