"""Scores of the parts of a benchmark: MuSiQue by the number of hops, MATH by level. Pure functions of the answers."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from evaluate.intervals import accuracy_interval
from evaluate.schema import Answer
from evaluate.scores import answered, mean, problem_scores


@dataclass(frozen=True)
class GroupScore:
    """Accuracy of the problems of one group, with 95 % interval; f1 where the benchmark has one."""

    num_problems: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    f1: float | None


def scores_by_group(answers: Sequence[Answer]) -> dict[str, GroupScore]:
    """The score of each group by name; empty for a benchmark whose problems have none, or nothing was answered."""
    groups: defaultdict[str, list[Answer]] = defaultdict(list)
    for answer in answered(answers):
        if answer.group is not None:
            groups[answer.group].append(answer)
    return {name: _score(groups[name]) for name in sorted(groups)}


def _score(answers: Sequence[Answer]) -> GroupScore:
    problems = list(problem_scores(answers).values())
    scores = [p.score for p in problems]
    low, high = accuracy_interval(scores, len(answers) / len(scores), [p.cluster for p in problems])
    f1 = mean([a.f1 for a in answers if a.f1 is not None])
    return GroupScore(len(problems), sum(scores) / len(scores), low, high, f1)
