"""The numbers of one benchmark, as summary.json holds them: pure functions of its answers, fractions never percents.

answers -> scores (what counts) -> intervals (by question), voting (pass@k, maj@k), lengths -> BenchmarkSummary
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from evaluate.groups import GroupScore, scores_by_group
from evaluate.intervals import accuracy_interval
from evaluate.lengths import (
    LengthBin,
    TokenStatistics,
    WithinQuestion,
    accuracy_by_length,
    loop_rate,
    think_share,
    token_statistics,
    tokens_by_outcome,
    tokens_per_correct_answer,
    within_question,
)
from evaluate.schema import Answer, Kind, Outcome
from evaluate.scores import answered, by_problem, is_correct, mean, problem_scores
from evaluate.voting import majority_at_k, pass_at_k


@dataclass(frozen=True)
class BenchmarkSummary:
    """The numbers of one benchmark. accuracy: mean over problems of the mean over their samples, with 95 % interval.

    think_tokens and answer_tokens are means per answer where the server counts thinking, else None;
    think_share is the thinking's share of the characters, None where no thinking is marked.
    pass_at_k, maj_at_k: by k = 1, 2, 4, ... and all samples; None with one sample, and for a k that some problem
    lacks the samples for.
    lenient_accuracy: by the lenient verdicts; tail_f1: F1 of all that was said after the thinking, beside f1's short
    answer. by_group: the scores of the benchmark's parts, where it has any.
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
    num_clusters: int
    pass_at_k: Mapping[int, float | None] | None
    maj_at_k: Mapping[int, float | None] | None
    loop_rate: float | None
    tokens_by_outcome: Mapping[str, TokenStatistics]
    tokens_per_correct_answer: float | None
    accuracy_by_length: Sequence[LengthBin]
    within_question: WithinQuestion | None
    lenient_accuracy: float | None
    tail_f1: float | None
    by_group: Mapping[str, GroupScore]


def summarize(answers: Sequence[Answer], kind: Kind) -> BenchmarkSummary:
    """Summarizes the answers to one benchmark; their order does not matter. Raises ValueError without any answer."""
    if not answers or len({a.benchmark for a in answers}) != 1:
        raise ValueError("answers of exactly one benchmark are needed")
    asked = answered(answers)
    problems = list(problem_scores(answers).values())
    scores, clusters = [p.score for p in problems], [p.cluster for p in problems]
    low, high = accuracy_interval(scores, len(asked) / len(scores), clusters) if scores else (None, None)
    counted = [a for a in asked if a.think_tokens is not None and a.completion_tokens is not None]
    return BenchmarkSummary(
        name=answers[0].benchmark,
        kind=kind,
        num_problems=len({a.problem_id for a in answers}),
        num_answers=len(answers),
        accuracy=mean(scores),
        accuracy_low=low,
        accuracy_high=high,
        outcomes=count_outcomes(answers),
        truncation_rate=mean([float(a.outcome is Outcome.TRUNCATED) for a in asked]),
        tokens_per_question=token_statistics(answers),
        think_tokens=mean([float(a.think_tokens or 0) for a in counted]),
        answer_tokens=mean([float((a.completion_tokens or 0) - (a.think_tokens or 0)) for a in counted]),
        think_share=think_share(answers),
        f1=mean([a.f1 for a in asked if a.f1 is not None]),
        num_clusters=len(set(clusters)),
        pass_at_k=_at_k(answers, lambda group, k: pass_at_k(len(group), sum(map(is_correct, group)), k)),
        maj_at_k=_at_k(answers, lambda group, k: majority_at_k([(a.answer, is_correct(a)) for a in group], k)),
        loop_rate=loop_rate(answers),
        tokens_by_outcome=tokens_by_outcome(answers),
        tokens_per_correct_answer=tokens_per_correct_answer(answers),
        accuracy_by_length=accuracy_by_length(answers),
        within_question=within_question(answers),
        lenient_accuracy=_lenient_accuracy(answers),
        tail_f1=mean([a.tail_f1 for a in asked if a.tail_f1 is not None]),
        by_group=scores_by_group(answers),
    )


def count_outcomes(answers: Iterable[Answer]) -> dict[str, int]:
    """How many answers ended in each outcome; every outcome is a key."""
    counts = Counter(a.outcome for a in answers)
    return {outcome.value: counts[outcome] for outcome in Outcome}


def _lenient_accuracy(answers: Sequence[Answer]) -> float | None:
    """Mean over problems of the share of samples that the lenient verdict takes for right."""
    groups = by_problem(answers).values()
    return mean([sum((a.lenient or a.outcome) is Outcome.CORRECT for a in group) / len(group) for group in groups])


def _at_k(answers: Sequence[Answer], score: Callable[[Sequence[Answer], int], float]) -> dict[int, float | None] | None:
    """Mean over problems of a score of k samples, for each k that is reported."""
    num_samples = max(Counter(a.problem_id for a in answers).values())
    if num_samples == 1:
        return None
    groups = list(by_problem(answers).values())
    fewest = min(map(len, groups), default=0)
    sizes = [*(2**i for i in range(num_samples.bit_length()) if 2**i < num_samples), num_samples]
    return {k: mean([score(group, k) for group in groups]) if k <= fewest else None for k in sizes}
