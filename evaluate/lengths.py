"""How long a model writes, and whether length goes with being wrong: pure functions over answers.

Completion tokens count the thinking. Across questions a long answer mostly marks a hard question; between samples
of one question the difficulty is the same: `within_question` compares those.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, floor, fsum, sqrt

from evaluate.answers import thinking_of
from evaluate.intervals import t95, variance_of_mean
from evaluate.schema import Answer, Outcome
from evaluate.scores import answered, by_problem, is_correct, mean, problem_scores

NUM_LENGTH_BINS = 4
MIN_LOOP_REPEATS, MIN_LOOP_CHARS = 3, 200
_LOOP_WINDOW = 20_000  # characters of the tail that are looked at


@dataclass(frozen=True)
class TokenStatistics:
    """Completion tokens per answer, thinking included; None where no answer came with a count."""

    mean: float | None
    median: float | None
    p90: float | None
    p99: float | None


@dataclass(frozen=True)
class LengthBin:
    """Answers of one quarter of all lengths: shortest and longest in tokens, how many, and how many are right."""

    shortest: int
    longest: int
    num_answers: int
    accuracy: float


@dataclass(frozen=True)
class WithinQuestion:
    """Of pairs of one right and one wrong sample of the same question, the share in which the wrong one is longer.

    Each question with both kinds counts once, equal lengths count half; 0.5: length says nothing. 95 % interval
    over questions, None for a single one.
    """

    wrong_is_longer: float
    low: float | None
    high: float | None
    num_questions: int


def percentile(values: Sequence[float], fraction: float) -> float:
    """Linearly interpolated percentile of a non-empty sequence (numpy's default)."""
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    low = floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def token_statistics(answers: Iterable[Answer]) -> TokenStatistics:
    """Mean, median, 90th and 99th percentile of completion tokens over the answers that carry a count."""
    counts = [float(a.completion_tokens) for a in answered(answers) if a.completion_tokens is not None]
    if not counts:
        return TokenStatistics(None, None, None, None)
    return TokenStatistics(mean(counts), *(percentile(counts, fraction) for fraction in (0.5, 0.9, 0.99)))


def tokens_by_outcome(answers: Sequence[Answer]) -> dict[str, TokenStatistics]:
    """Token statistics of each outcome; a failed request has no length, its outcome is no key."""
    outcomes = [outcome for outcome in Outcome if outcome is not Outcome.ERROR]
    return {o.value: token_statistics([a for a in answers if a.outcome is o]) for o in outcomes}


def tokens_per_correct_answer(answers: Iterable[Answer]) -> float | None:
    """All completion tokens over the number of right answers; None where none is right or a count is missing."""
    asked = answered(answers)
    counts = [a.completion_tokens for a in asked if a.completion_tokens is not None]
    num_correct = sum(is_correct(a) for a in asked)
    return sum(counts) / num_correct if num_correct and len(counts) == len(asked) else None


def think_share(answers: Iterable[Answer]) -> float | None:
    """Characters of thinking over all characters, among the answers whose thinking is marked; None if none is."""
    thinking = total = 0
    for answer in answered(answers):
        completion = answer.completion or ""
        if answer.reasoning:
            thinking, total = thinking + len(answer.reasoning), total + len(answer.reasoning) + len(completion)
        elif (thought := thinking_of(completion)) is not None:
            thinking, total = thinking + len(thought), total + len(completion)
    return thinking / total if total else None


def loop_rate(answers: Iterable[Answer]) -> float | None:
    """Share of answers that end in a loop, see `ends_in_loop`."""
    return mean([float(ends_in_loop(a.completion or a.reasoning or "")) for a in answered(answers)])


def ends_in_loop(text: str) -> bool:
    """Whether a text ends by repeating one piece at least 3 times over at least 200 characters.

    The repetition must be exact and last to the end, where it may break off inside the piece. Loops that count up,
    that vary, or that the model found its way out of are not seen: the rate is a lower bound.
    """
    tail = text.rstrip()[-_LOOP_WINDOW:]
    probe = tail[-MIN_LOOP_CHARS // MIN_LOOP_REPEATS :]
    start = len(tail) - len(probe)
    found = start
    while (found := tail.rfind(probe, 0, found + len(probe) - 1)) >= 0:
        period = start - found
        length = max(MIN_LOOP_REPEATS * period, MIN_LOOP_CHARS)
        if length > len(tail):
            return False
        if tail[-length:-period] == tail[-length + period :]:
            return True
    return False


def accuracy_by_length(answers: Iterable[Answer]) -> list[LengthBin]:
    """Accuracy in each quarter of the answers by completion tokens, shortest first; fewer where there are few."""
    counted = sorted((a.completion_tokens, is_correct(a)) for a in answered(answers) if a.completion_tokens is not None)
    lengths = [length for length, _ in counted]
    ends = [round((i + 1) * len(lengths) / NUM_LENGTH_BINS) for i in range(NUM_LENGTH_BINS)]
    edges = sorted(
        {0, *(bisect_right(lengths, lengths[end - 1]) for end in ends if end)}
    )  # equal lengths stay together
    bins = [counted[low:high] for low, high in pairwise(edges)]
    return [LengthBin(b[0][0], b[-1][0], len(b), sum(right for _, right in b) / len(b)) for b in bins]


def within_question(answers: Iterable[Answer]) -> WithinQuestion | None:
    """Whether the longer sample of a question is the wrong one; None without a question that has both kinds."""
    shares = [share for group in by_problem(answers).values() if (share := _wrong_is_longer(group)) is not None]
    if not shares:
        return None
    n, centre = len(shares), fsum(shares) / len(shares)
    if n == 1:
        return WithinQuestion(centre, None, None, 1)
    half = t95(n - 1) * sqrt(fsum((s - centre) ** 2 for s in shares) / (n - 1) / n)
    return WithinQuestion(centre, max(0.0, centre - half), min(1.0, centre + half), n)


def _wrong_is_longer(group: Sequence[Answer]) -> float | None:
    """Over all pairs of a right and a wrong sample; None where one kind is missing."""
    lengths: Mapping[bool, list[int]] = {True: [], False: []}
    for answer in group:
        if answer.completion_tokens is not None:
            lengths[is_correct(answer)].append(answer.completion_tokens)
    pairs = [(right, wrong) for right in lengths[True] for wrong in lengths[False]]
    return fsum((w > r) + (w == r) / 2 for r, w in pairs) / len(pairs) if pairs else None


@dataclass(frozen=True)
class TokensRatio:
    """Mean completion tokens of a over those of b, on the problems that both answered, with 95 % interval."""

    ratio: float
    low: float
    high: float
    num_problems: int


def tokens_ratio(a: Sequence[Answer], b: Sequence[Answer]) -> TokensRatio | None:
    """Paired ratio of lengths; None where fewer than two problems (or stories) have token counts on both sides.

    A ratio of sums, which is what is paid for; its interval on the log scale from the residuals a - ratio * b,
    by cluster (the ratio estimator of survey sampling, Cochran 1977). A truncated answer counts as long as it got.
    """
    tokens_a, tokens_b = _mean_tokens(a), _mean_tokens(b)
    shared = sorted(tokens_a.keys() & tokens_b.keys())
    total_a, total_b = fsum(tokens_a[key] for key in shared), fsum(tokens_b[key] for key in shared)
    scores = problem_scores(a)
    clusters = [scores[key].cluster for key in shared]
    if len(set(clusters)) < 2 or total_a <= 0 or total_b <= 0:
        return None
    ratio = total_a / total_b
    residuals = [tokens_a[key] - ratio * tokens_b[key] for key in shared]
    error = sqrt(variance_of_mean(residuals, clusters)) / (total_a / len(shared))
    factor = exp(t95(len(set(clusters)) - 1) * error)
    return TokensRatio(ratio, ratio / factor, ratio * factor, len(shared))


def _mean_tokens(answers: Sequence[Answer]) -> dict[tuple[str, str], float]:
    """Mean completion tokens of each problem, over its answers that carry a count."""
    counted = [a for a in answered(answers) if a.completion_tokens is not None]
    return {
        key: fsum(a.completion_tokens or 0 for a in group) / len(group) for key, group in by_problem(counted).items()
    }
