from dataclasses import replace

import pytest

from evaluate.intervals import wilson_interval
from evaluate.metrics import count_outcomes, summarize
from evaluate.schema import Kind, Outcome
from tests.evaluate.made_answers import ANSWER, answers_of


def test_summary_counts_faults_beside_the_score() -> None:
    outcomes = [Outcome.CORRECT, Outcome.CORRECT, Outcome.TRUNCATED, Outcome.NO_ANSWER, Outcome.ERROR]
    answers = [replace(ANSWER, problem_id=str(i), outcome=o) for i, o in enumerate(outcomes)]
    summary = summarize(answers, Kind.REASONING)
    assert summary.accuracy == 0.5
    assert (summary.accuracy_low, summary.accuracy_high) == pytest.approx(wilson_interval(0.5, 4))
    assert summary.truncation_rate == 0.25
    assert summary.outcomes == {"correct": 2, "incorrect": 0, "no_answer": 1, "truncated": 1, "error": 1}
    assert (summary.num_problems, summary.num_answers, summary.num_clusters) == (5, 5, 4)
    assert (summary.think_tokens, summary.answer_tokens, summary.f1) == (None, None, None)
    assert summary.tokens_by_outcome["correct"].mean == 10
    assert summary.tokens_per_correct_answer == 20


def test_thinking_counted_by_the_server_is_split_off() -> None:
    answers = [replace(ANSWER, think_tokens=8), replace(ANSWER, problem_id="1", think_tokens=4)]
    summary = summarize(answers, Kind.REASONING)
    assert (summary.think_tokens, summary.answer_tokens) == (6, 4)


def test_accuracy_averages_samples_within_a_problem_first() -> None:
    answers = answers_of([1, 0]) + answers_of([1], sample=1) + answers_of([0], sample=2)
    assert summarize(answers, Kind.REASONING).accuracy == pytest.approx((2 / 3 + 0) / 2)


def test_questions_of_one_story_widen_the_interval() -> None:
    answers = answers_of([1] * 20 + [0] * 20)
    alone = summarize(answers, Kind.REASONING)
    stories = summarize([replace(a, cluster=str(int(a.problem_id) // 5)) for a in answers], Kind.REASONING)
    assert (alone.num_clusters, stories.num_clusters) == (40, 8)
    assert stories.accuracy == alone.accuracy == 0.5
    assert (stories.accuracy_low, stories.accuracy_high) == pytest.approx(wilson_interval(0.5, 8))


def test_pass_and_majority_stand_by_k_where_there_are_samples() -> None:
    answers = [
        replace(a, answer="x" if a.outcome is Outcome.CORRECT else f"y{a.sample}")
        for s in range(3)
        for a in answers_of([1, int(s == 0)], sample=s)
    ]
    summary = summarize(answers, Kind.REASONING)
    assert summary.pass_at_k == pytest.approx({1: 2 / 3, 2: (1 + 2 / 3) / 2, 3: 1})
    assert summary.maj_at_k == pytest.approx({1: 2 / 3, 2: (1 + 1 / 3) / 2, 3: (1 + 1 / 3) / 2})
    single = summarize(answers_of([1, 0]), Kind.REASONING)
    assert (single.pass_at_k, single.maj_at_k, single.within_question) == (None, None, None)


def test_a_failed_request_takes_its_k_away() -> None:
    answers = answers_of([1, 0]) + answers_of([1, None], sample=1)
    assert summarize(answers, Kind.REASONING).pass_at_k == {1: 0.5, 2: None}


def test_only_errors_give_no_accuracy() -> None:
    summary = summarize(answers_of([None, None]), Kind.KNOWLEDGE)
    assert (summary.accuracy, summary.accuracy_low, summary.tokens_per_question.mean) == (None, None, None)
    assert (summary.loop_rate, summary.tokens_per_correct_answer, summary.accuracy_by_length) == (None, None, [])
    assert summary.outcomes["error"] == 2


def test_summary_is_of_one_benchmark() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        summarize([ANSWER, replace(ANSWER, benchmark="recall")], Kind.REASONING)
    with pytest.raises(ValueError, match="exactly one"):
        summarize([], Kind.REASONING)


def test_order_of_completion_does_not_matter() -> None:
    answers = [replace(a, completion_tokens=i * i) for i, a in enumerate(answers_of([1, 0, 1, 1, 0, 1, 0]))]
    answers += [replace(a, completion_tokens=i) for i, a in enumerate(answers_of([0, 0, 1, 0, 1, 1, 0], sample=1))]
    assert summarize(answers, Kind.REASONING) == summarize(answers[::-1], Kind.REASONING)


def test_outcomes_are_all_counted() -> None:
    assert set(count_outcomes([])) == {outcome.value for outcome in Outcome}
