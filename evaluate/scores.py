"""What counts: the score of each problem, from the answers to it.

A request that failed (outcome error) is no answer: it enters no accuracy, length or difference. A truncated
completion and one without an answer are wrong answers. A problem's score is the mean over its samples and seeds.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum

from evaluate.schema import Answer, Outcome

ProblemKey = tuple[str, str]  # benchmark, problem_id


@dataclass(frozen=True)
class ProblemScore:
    """Mean score of one problem in [0, 1]; problems of one `cluster` share their premises, most stand alone."""

    score: float
    num_samples: int
    cluster: tuple[str, str]


def answered(answers: Iterable[Answer]) -> list[Answer]:
    """The answers whose request did not fail."""
    return [a for a in answers if not a.has_failed()]


def is_correct(answer: Answer) -> bool:
    """Whether the answer scores; everything else that was answered scores nothing."""
    return answer.outcome is Outcome.CORRECT


def by_problem(answers: Iterable[Answer]) -> dict[ProblemKey, list[Answer]]:
    """Groups what was answered, in the order of the problems' keys and of the samples."""
    groups: defaultdict[ProblemKey, list[Answer]] = defaultdict(list)
    for answer in answered(answers):
        groups[answer.benchmark, answer.problem_id].append(answer)
    return {key: sorted(groups[key], key=lambda a: (a.sample, a.seed)) for key in sorted(groups)}


def problem_scores(answers: Iterable[Answer]) -> dict[ProblemKey, ProblemScore]:
    """Score of each problem that was answered at least once."""
    return {
        key: ProblemScore(
            score=fsum(is_correct(a) for a in group) / len(group),
            num_samples=len(group),
            cluster=(key[0], group[0].cluster or key[1]),
        )
        for key, group in by_problem(answers).items()
    }


def mean(values: Sequence[float]) -> float | None:
    """The mean, None of nothing."""
    return fsum(values) / len(values) if values else None
