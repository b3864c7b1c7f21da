from dataclasses import replace

import pytest

from evaluate.groups import scores_by_group
from evaluate.intervals import accuracy_interval
from evaluate.metrics import summarize
from evaluate.schema import Kind, Outcome
from tests.evaluate.made_answers import answers_of


def test_each_group_has_its_own_score_and_interval() -> None:
    names = ["2 hops", "3 hops", "2 hops", "3 hops", "2 hops", None]
    answers = [replace(a, group=n, f1=0.5) for a, n in zip(answers_of([1, 0, 1, 1, None, 1]), names, strict=True)]
    groups = scores_by_group(answers)
    assert {name: (g.num_problems, g.accuracy, g.f1) for name, g in groups.items()} == {
        "2 hops": (2, 1.0, 0.5),
        "3 hops": (2, 0.5, 0.5),
    }
    low, high = accuracy_interval([0.0, 1.0], 1, ["1", "3"])
    assert (groups["3 hops"].accuracy_low, groups["3 hops"].accuracy_high) == (low, high)


def test_the_summary_holds_groups_lenient_accuracy_and_the_tails_f1() -> None:
    first, second, third = answers_of([1, 0, 0])
    second = replace(second, lenient=Outcome.CORRECT, group="level 5", tail_f1=0.25)
    summary = summarize([first, second, third], Kind.REASONING)
    assert summary.lenient_accuracy == pytest.approx(2 / 3)
    assert (summary.tail_f1, list(summary.by_group)) == (0.25, ["level 5"])
