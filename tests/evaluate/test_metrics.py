import random
from collections.abc import Sequence
from dataclasses import replace
from math import sqrt

import pytest

from evaluate.metrics import (
    Z95,
    accuracy_interval,
    count_outcomes,
    paired_difference,
    percentile,
    summarize,
    think_share,
    token_statistics,
    wilson_interval,
)
from evaluate.schema import Answer, Kind, Outcome

ANSWER = Answer(
    benchmark="logic",
    problem_id="0",
    sample=0,
    completion="<think>abc</think>True",
    reasoning=None,
    finish_reason="stop",
    outcome=Outcome.CORRECT,
    answer="True",
    rule="bare",
    completion_tokens=10,
    think_tokens=None,
    prompt_tokens=3,
    error=None,
    seed=0,
    latency_s=0.1,
)


def answers_of(scores: Sequence[float | None], sample: int = 0) -> list[Answer]:
    """One answer a problem: 1 correct, 0 incorrect, None an error."""
    outcome = {1: Outcome.CORRECT, 0: Outcome.INCORRECT, None: Outcome.ERROR}
    return [replace(ANSWER, problem_id=str(i), sample=sample, outcome=outcome[s]) for i, s in enumerate(scores)]


@pytest.mark.parametrize(
    ("num_correct", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 30, 0.0, 0.1135), (30, 30, 0.8865, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_interval_of_tables(num_correct: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(num_correct / n, n) == pytest.approx((low, high), abs=5e-5)


def test_one_sample_a_problem_is_wilsons_interval() -> None:
    scores = [1.0] * 13 + [0.0] * 7
    assert accuracy_interval(scores, 1) == pytest.approx(wilson_interval(0.65, 20))


def test_samples_of_one_problem_are_no_independent_trials() -> None:
    copies = accuracy_interval([1.0] * 10 + [0.0] * 10, 8)  # every sample of a problem alike
    spread = accuracy_interval([0.5] * 20, 8)  # samples vary, problems do not
    assert copies == pytest.approx(wilson_interval(0.5, 20))
    assert spread == pytest.approx(wilson_interval(0.5, 160))


@pytest.mark.parametrize("accuracy", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("n", [30, 100, 250])
def test_accuracy_interval_covers_the_truth(n: int, accuracy: float) -> None:
    rng = random.Random(f"{n}/{accuracy}")
    covered = 0
    for _ in range(1000):
        low, high = accuracy_interval([float(rng.random() < accuracy) for _ in range(n)], 1)
        covered += low <= accuracy <= high
    assert 0.925 <= covered / 1000 <= 0.975


def test_percentiles_interpolate_as_numpy_does() -> None:
    values = [3.0, 1.0, 4.0, 1.0, 5.0]
    assert [percentile(values, q) for q in (0, 0.5, 0.9, 1)] == pytest.approx([1, 3, 4.6, 5])


def test_token_statistics_leave_errors_and_missing_counts_out() -> None:
    counts = [10, 20, 90, None]
    answers = [replace(ANSWER, problem_id=str(i), completion_tokens=c) for i, c in enumerate(counts)]
    stats = token_statistics([*answers, replace(ANSWER, outcome=Outcome.ERROR, completion_tokens=10**6)])
    assert (stats.mean, stats.median, stats.p90) == pytest.approx((40, 20, 76))
    assert token_statistics([replace(ANSWER, completion_tokens=None)]).mean is None


def test_thinking_share_is_of_characters_or_unknown() -> None:
    marked = replace(ANSWER, completion="<think>12345</think>123")  # 12 characters before the last </think>, 23 in all
    split = replace(ANSWER, completion="12345", reasoning="123456789012345")
    unmarked = replace(ANSWER, completion="True")
    assert think_share([marked]) == pytest.approx(12 / 23)
    assert think_share([split, unmarked]) == pytest.approx(15 / 20)
    assert think_share([unmarked]) is None


def test_summary_counts_faults_beside_the_score() -> None:
    outcomes = [Outcome.CORRECT, Outcome.CORRECT, Outcome.TRUNCATED, Outcome.NO_ANSWER, Outcome.ERROR]
    answers = [replace(ANSWER, problem_id=str(i), outcome=o) for i, o in enumerate(outcomes)]
    summary = summarize(answers, Kind.REASONING)
    assert summary.accuracy == 0.5
    assert (summary.accuracy_low, summary.accuracy_high) == pytest.approx(wilson_interval(0.5, 4))
    assert summary.truncation_rate == 0.25
    assert summary.outcomes == {"correct": 2, "incorrect": 0, "no_answer": 1, "truncated": 1, "error": 1}
    assert (summary.num_problems, summary.num_answers) == (5, 5)
    assert (summary.think_tokens, summary.answer_tokens, summary.f1) == (None, None, None)


def test_thinking_counted_by_the_server_is_split_off() -> None:
    answers = [replace(ANSWER, think_tokens=8), replace(ANSWER, problem_id="1", think_tokens=4)]
    summary = summarize(answers, Kind.REASONING)
    assert (summary.think_tokens, summary.answer_tokens) == (6, 4)


def test_accuracy_averages_samples_within_a_problem_first() -> None:
    answers = answers_of([1, 0]) + answers_of([1], sample=1) + answers_of([0], sample=2)
    assert summarize(answers, Kind.REASONING).accuracy == pytest.approx((2 / 3 + 0) / 2)


def test_only_errors_give_no_accuracy() -> None:
    summary = summarize(answers_of([None, None]), Kind.KNOWLEDGE)
    assert (summary.accuracy, summary.accuracy_low, summary.tokens_per_question.mean) == (None, None, None)
    assert summary.outcomes["error"] == 2


def test_summary_is_of_one_benchmark() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        summarize([ANSWER, replace(ANSWER, benchmark="recall")], Kind.REASONING)
    with pytest.raises(ValueError, match="exactly one"):
        summarize([], Kind.REASONING)


def test_order_of_completion_does_not_matter() -> None:
    answers = [replace(a, completion_tokens=i * i) for i, a in enumerate(answers_of([1, 0, 1, 1, 0, 1, 0]))]
    assert summarize(answers, Kind.REASONING) == summarize(answers[::-1], Kind.REASONING)


def test_paired_difference_is_bonett_and_prices() -> None:
    """12 problems won, 5 lost of 50: the textbook formula, on its own."""
    a = answers_of([1] * 12 + [0] * 5 + [1] * 33)
    b = answers_of([0] * 12 + [1] * 5 + [1] * 33)
    won, lost = (12 + 1) / 52, (5 + 1) / 52
    half = Z95 * sqrt((won + lost - (won - lost) ** 2) / 52)
    found = paired_difference(a, b)
    assert (found.difference, found.num_problems) == (pytest.approx(0.14), 50)
    assert (found.flips_to_correct, found.flips_to_wrong) == (12, 5)
    assert (found.low, found.high) == pytest.approx((won - lost - half, won - lost + half))


def test_no_flip_is_no_certainty() -> None:
    same = answers_of([1, 0] * 50)
    found = paired_difference(same, same)
    assert found.difference == 0
    assert found.low < -0.01 and found.high > 0.01
    assert not found.is_resolved


def test_pairs_are_matched_by_benchmark_and_problem_without_errors() -> None:
    a = answers_of([1, 1, 0, None])
    b = answers_of([0, None, 0, 1])
    other = [replace(x, benchmark="recall", outcome=Outcome.INCORRECT) for x in a]
    found = paired_difference(a + other, b)
    assert (found.num_problems, found.difference) == (2, 0.5)
    with pytest.raises(ValueError, match="no problem"):
        paired_difference(other, b)


def test_seeds_and_samples_are_averaged_before_pairing() -> None:
    a = answers_of([1, 1]) + answers_of([1, 0], sample=1)
    b = answers_of([0, 1])
    found = paired_difference(a, b)
    assert (found.difference, found.flips_to_correct, found.flips_to_wrong) == (0.25, 1, 1)


def test_a_model_against_itself_is_rarely_resolved() -> None:
    """Two runs that answer each question at random with the same chance: at most about one interval in twenty."""
    rng = random.Random(0)
    chances = [rng.random() for _ in range(100)]
    num_runs = 500
    resolved = 0
    for _ in range(num_runs):
        a, b = ([int(rng.random() < c) for c in chances] for _ in range(2))
        resolved += paired_difference(answers_of(a), answers_of(b)).is_resolved
    assert resolved / num_runs <= 0.07


def test_outcomes_are_all_counted() -> None:
    assert set(count_outcomes([])) == {outcome.value for outcome in Outcome}
