import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from evaluate.lengths import (
    LengthBin,
    accuracy_by_length,
    ends_in_loop,
    loop_rate,
    percentile,
    think_share,
    token_statistics,
    tokens_by_outcome,
    tokens_per_correct_answer,
    tokens_ratio,
    within_question,
)
from evaluate.schema import Answer, Outcome
from tests.evaluate.made_answers import ANSWER, answers_of

PROSE = "First we add the two sides, then we take the square root, and so the number of ways is found to be twelve. "


def answers_with(tokens: Sequence[int | None], right: Sequence[bool], problem: str | None = None) -> list[Answer]:
    """One answer a problem, or one sample each of `problem`."""
    return [
        replace(
            ANSWER,
            problem_id=problem or str(i),
            sample=i if problem else 0,
            completion_tokens=count,
            outcome=Outcome.CORRECT if is_right else Outcome.INCORRECT,
        )
        for i, (count, is_right) in enumerate(zip(tokens, right, strict=True))
    ]


@pytest.mark.parametrize("fraction", [0, 0.5, 0.9, 0.99, 1])
def test_percentiles_interpolate_as_numpy_does(fraction: float) -> None:
    values = [3.0, 1.0, 4.0, 1.0, 5.0]
    assert percentile(values, fraction) == pytest.approx(np.quantile(values, fraction))


def test_token_statistics_leave_errors_and_missing_counts_out() -> None:
    answers = answers_with([10, 20, 90, None], [True] * 4)
    stats = token_statistics([*answers, replace(ANSWER, outcome=Outcome.ERROR, completion_tokens=10**6)])
    assert (stats.mean, stats.median, stats.p90, stats.p99) == pytest.approx((40, 20, 76, 88.6))
    assert token_statistics([replace(ANSWER, completion_tokens=None)]).mean is None


def test_tokens_by_outcome_has_no_length_of_a_failed_request() -> None:
    answers = answers_with([10, 30, 5], [True, True, False])
    found = tokens_by_outcome([*answers, replace(ANSWER, outcome=Outcome.ERROR)])
    assert set(found) == {"correct", "incorrect", "no_answer", "truncated"}
    assert (found["correct"].mean, found["incorrect"].mean, found["truncated"].mean) == (20, 5, None)


def test_a_right_answer_costs_the_wrong_ones_too() -> None:
    assert tokens_per_correct_answer(answers_with([10, 30, 20], [True, False, True])) == 30
    assert tokens_per_correct_answer(answers_with([10], [False])) is None
    assert tokens_per_correct_answer(answers_with([10, None], [True, True])) is None


def test_thinking_share_is_of_characters_or_unknown() -> None:
    marked = replace(ANSWER, completion="<think>12345</think>123")  # 12 characters before the last </think>, 23 in all
    split = replace(ANSWER, completion="12345", reasoning="123456789012345")
    unmarked = replace(ANSWER, completion="True")
    assert think_share([marked]) == pytest.approx(12 / 23)
    assert think_share([split, unmarked]) == pytest.approx(15 / 20)
    assert think_share([unmarked]) is None


@pytest.mark.parametrize(
    "text",
    [
        PROSE + "Wait, let me check this again. " * 12,
        PROSE + "Wait, let me check this again. " * 12 + "Wait, let me ch",  # cut inside the piece
        PROSE + "0" * 300,
        "\n".join([PROSE * 2 + "Hence."] * 4),  # a paragraph again and again
        PROSE + "so it is 4,\n" * 20 + "\n\n",
    ],
)
def test_a_repeated_tail_is_a_loop(text: str) -> None:
    assert ends_in_loop(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        PROSE,
        PROSE + "no no no no no",  # too short to tell
        PROSE * 2,  # said twice
        PROSE * 3 + "The answer is 12.",  # found its way out
        "".join(f"Case {i}: the sum is {i * i}. " for i in range(100)),  # counts up
    ],
)
def test_what_goes_on_is_no_loop(text: str) -> None:
    assert not ends_in_loop(text)


def test_loop_rate_reads_the_thinking_where_nothing_followed() -> None:
    looping = replace(ANSWER, completion=None, reasoning="again and " * 50, outcome=Outcome.TRUNCATED)
    failed = replace(ANSWER, completion=None, outcome=Outcome.ERROR)
    assert loop_rate([ANSWER, looping, failed]) == 0.5
    assert loop_rate([failed]) is None


def test_length_bins_are_quarters_and_keep_equal_lengths_together() -> None:
    answers = answers_with([1, 2, 3, 4, 5, 6, 7, 8], [True, True, True, False, True, False, False, False])
    assert accuracy_by_length(answers) == [
        LengthBin(1, 2, 2, 1.0),
        LengthBin(3, 4, 2, 0.5),
        LengthBin(5, 6, 2, 0.5),
        LengthBin(7, 8, 2, 0.0),
    ]
    assert accuracy_by_length(answers_with([5] * 8, [True, False] * 4)) == [LengthBin(5, 5, 8, 0.5)]
    assert accuracy_by_length(answers_with([None], [True])) == []


def test_difficulty_does_not_pass_for_length() -> None:
    """Hard questions are long and wrong, yet within each question the longer sample is no worse."""
    easy = answers_with([10, 20, 20, 10], [True, True, False, True], problem="easy")
    hard = answers_with([100, 200, 100, 200], [False, False, True, False], problem="hard")
    lengths = accuracy_by_length(easy + hard)
    assert lengths[0].accuracy > lengths[-1].accuracy
    found = within_question(easy + hard)
    assert found is not None and found.num_questions == 2
    # easy: wrong 20 against 10, 20, 10: 1, 1/2, 1; hard: 100, 200, 200 against right 100: 1/2, 1, 1
    assert found.wrong_is_longer == pytest.approx(2.5 / 3)
    assert found.low is not None and found.high is not None
    assert found.low <= found.wrong_is_longer <= found.high


def test_within_question_needs_right_and_wrong_samples() -> None:
    assert within_question(answers_with([1, 2], [True, True], problem="a")) is None
    alone = within_question(answers_with([1, 2], [True, False], problem="a"))
    assert alone is not None and (alone.wrong_is_longer, alone.low, alone.num_questions) == (1, None, 1)


def test_tokens_ratio_is_of_sums_and_paired() -> None:
    rng = random.Random(7)
    covered = 0
    for _ in range(200):
        lengths = [rng.lognormvariate(6, 1) for _ in range(50)]
        a, b = (
            [
                replace(x, completion_tokens=round(length * factor * rng.lognormvariate(0, 0.3)))
                for x, length in zip(answers_of([1] * 50), lengths, strict=True)
            ]
            for factor in (1.3, 1.0)
        )
        found = tokens_ratio(a, b)
        assert found is not None and found.num_problems == 50
        covered += found.low <= 1.3 <= found.high
    assert 0.9 <= covered / 200 <= 0.98
    assert tokens_ratio(a, [replace(x, completion_tokens=None) for x in b]) is None
    assert tokens_ratio(a[:1], b) is None
    assert tokens_ratio([replace(x, cluster="one story") for x in a], b) is None
