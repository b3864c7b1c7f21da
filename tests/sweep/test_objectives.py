"""From answers to scores, verdicts and the front."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress.scheme import Method, Scheme
from evaluate.schema import Answer, Outcome
from sweep.config import ModelConfig, StudyConfig
from sweep.objectives import (
    Difference,
    Row,
    Table,
    Verdict,
    compare,
    make_row,
    make_table,
    noise_floor,
    trial_metrics,
)
from sweep.results import CheckpointFacts, Evaluation, TrialResult, load_result
from sweep.space import TrialConfig
from tests.sweep.studies import NUM_PROBLEMS, find, knows, make_study, store_checkpoint, store_trial

MODEL = ModelConfig(path=Path("/models/alpha"))
FACTS = CheckpointFacts(Path("/c"), "f" * 64, "dequantized", 1000, 4.0, 0.5, 2.0, "computed", 0)
STUDY = make_study(models=[{"path": "/models/alpha"}])


def answers(benchmark: str, scores: Sequence[bool], *, tokens: int = 100, outcome: str = "incorrect") -> list[Answer]:
    """One answer a question, in order; `outcome` is that of those which are not right."""
    return [
        Answer(
            benchmark=benchmark,
            problem_id=str(index),
            sample=0,
            completion="x",
            reasoning=None,
            finish_reason="stop",
            outcome=Outcome.CORRECT if right else Outcome(outcome),
            answer="x",
            rule="r",
            completion_tokens=tokens,
            think_tokens=None,
            prompt_tokens=5,
            error=None,
            seed=index,
            latency_s=0.1,
        )
        for index, right in enumerate(scores)
    ]


def first(number: int, of: int) -> list[bool]:
    return [index < number for index in range(of)]


def result(
    scheme: Scheme | None, *runs: Sequence[Answer], bits: float = 4.0, tokens_per_s: float | None = None
) -> TrialResult:
    evaluations = tuple(Evaluation(i, Path("/a"), tuple(run), tokens_per_s) for i, run in enumerate(runs))
    return TrialResult(TrialConfig(MODEL, scheme), replace(FACTS, effective_bits=bits), evaluations)


def rtn(num_bits: int, *runs: Sequence[Answer], bits: float = 4.0, **more: Any) -> TrialResult:
    return result(Scheme(Method.RTN, num_bits=num_bits), *runs, bits=bits, **more)


def front(table: Table) -> list[str]:
    return [row.trial.name for row in table.rows if row.on_front]


def row_of(table: Table, name: str) -> Row:
    return next(row for row in table.rows if row.trial.name == f"alpha/{name}")


def test_accuracy_and_tokens_are_means_over_reasoning_benchmarks_each_counting_once() -> None:
    run = [
        *answers("temporal", first(4, 40), tokens=10),
        *answers("arithmetic", first(9, 10), tokens=30),
        *answers("recall", first(0, 10), tokens=1000),
    ]
    row = make_row(STUDY, rtn(4, run), None)
    assert row.accuracy == pytest.approx((0.1 + 0.9) / 2)
    assert row.tokens_per_question == pytest.approx(20)
    assert row.metrics["accuracy.recall"] == 0
    assert row.metrics["accuracy.temporal"] == pytest.approx(0.1)
    assert row.metrics["tokens_per_question.recall"] == 1000
    assert row.metrics["effective_bits"] == 4.0
    assert "recovery" not in row.metrics


def test_a_study_of_knowledge_alone_is_scored_by_it() -> None:
    row = make_row(STUDY, rtn(4, answers("recall", first(3, 10))), None)
    assert row.accuracy == pytest.approx(0.3)


def test_recovery_is_the_share_of_the_baselines_accuracy_over_both_seeds() -> None:
    base = result(None, answers("temporal", first(6, 10)), answers("temporal", first(10, 10)))
    row = make_row(STUDY, rtn(4, answers("temporal", first(4, 10))), base)
    assert row.recovery == pytest.approx(0.4 / 0.8)
    assert make_row(STUDY, base, base).recovery == pytest.approx(1)
    broken = result(None, answers("temporal", first(0, 10)))
    assert make_row(STUDY, rtn(4, answers("temporal", first(4, 10))), broken).recovery is None


def test_recall_does_not_enter_recovery_or_the_difference() -> None:
    base = result(None, [*answers("temporal", first(8, 10)), *answers("recall", first(10, 10))])
    row = make_row(STUDY, rtn(4, [*answers("temporal", first(8, 10)), *answers("recall", first(0, 10))]), base)
    assert row.recovery == pytest.approx(1)
    assert row.difference is not None
    assert (row.difference.value, row.difference.num_problems) == (0, 10)


def test_the_difference_is_paired_by_question() -> None:
    base = answers("temporal", [True] * 50 + [False] * 50)
    same = compare(answers("temporal", [True] * 50 + [False] * 50), base)
    swapped = compare(answers("temporal", [False] * 50 + [True] * 50), base)
    assert same is not None
    assert swapped is not None
    assert (same.value, swapped.value) == (0, 0)
    assert (same.flips_to_correct, same.flips_to_wrong) == (0, 0)
    assert (swapped.flips_to_correct, swapped.flips_to_wrong) == (50, 50)
    assert same.high - same.low < (swapped.high - swapped.low) / 4
    backwards = compare(list(reversed(answers("temporal", [False] * 50 + [True] * 50))), base)
    assert backwards == swapped


def test_a_difference_is_the_mean_over_benchmarks() -> None:
    base = [*answers("temporal", first(10, 10)), *answers("arithmetic", first(100, 100))]
    found = compare([*answers("temporal", first(5, 10)), *answers("arithmetic", first(100, 100))], base)
    assert found is not None
    assert found.value == pytest.approx(-0.25)
    assert found.low < found.value < found.high
    assert found.num_problems == 110
    alone = compare(answers("temporal", first(5, 10)), base)
    assert alone is not None
    assert alone.value == pytest.approx(-0.5)
    assert found.high - found.low < alone.high - alone.low
    assert compare(answers("logic", first(1, 2)), base) is None


def test_seeds_of_a_question_are_one_question() -> None:
    once, twice = answers("temporal", first(5, 10)), answers("temporal", first(10, 10))
    found = compare(once, [*once, *twice])
    assert found is not None
    assert found.num_problems == 10
    assert found.value == pytest.approx(0.5 - 0.75)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.001, 0.2, Verdict.BETTER),
        (-0.2, -0.001, Verdict.WORSE),
        (-0.02, 0.03, Verdict.EQUAL),
        (0.0, 0.01, Verdict.EQUAL),
        (-0.01, 0.0, Verdict.EQUAL),
        (-0.02, 0.031, Verdict.UNDECIDED),
        (-0.5, 0.5, Verdict.UNDECIDED),
    ],
)
def test_the_verdict_is_read_off_the_interval(low: float, high: float, verdict: Verdict) -> None:
    assert Difference((low + high) / 2, low, high, 0, 0, 100, p_value=0.5).verdict is verdict


def test_a_table_of_many_trials_calls_less_of_them_worse() -> None:
    """Seven flips, all for the worse: p = 1/64 alone, and no finding among six trials alike."""
    base = result(None, answers("temporal", first(90, 100)))
    trials = [rtn(bits, answers("temporal", first(83, 100))) for bits in (2, 3, 4, 5, 6, 8)]
    one, six = make_table(STUDY, [base, trials[0]]), make_table(STUDY, [base, *trials])
    found = [row_of(table, trials[0].config.name.partition("/")[2]).difference for table in (one, six)]
    assert [d and d.p_value for d in found] == pytest.approx([1 / 64, 1 / 64])
    assert [d and d.adjusted_p for d in found] == pytest.approx([1 / 64, 6 / 64])
    assert [d and d.verdict for d in found] == [Verdict.WORSE, Verdict.UNDECIDED]


def test_few_questions_that_agree_are_undecided_and_many_equal() -> None:
    few = compare(answers("temporal", first(9, 10)), answers("temporal", first(9, 10)))
    many = compare(answers("temporal", first(900, 1000)), answers("temporal", first(900, 1000)))
    worse = compare(answers("temporal", first(600, 1000)), answers("temporal", first(900, 1000)))
    better = compare(answers("temporal", first(900, 1000)), answers("temporal", first(600, 1000)))
    verdicts = [found.verdict for found in (few, many, worse, better) if found is not None]
    assert verdicts == [Verdict.UNDECIDED, Verdict.EQUAL, Verdict.WORSE, Verdict.BETTER]


def test_a_broken_model_that_says_little_stays_off_the_front() -> None:
    base = result(None, answers("temporal", first(80, 100), tokens=100), bits=16)
    good = rtn(4, answers("temporal", first(70, 100), tokens=100), bits=4)
    broken = rtn(2, answers("temporal", first(39, 100), tokens=1), bits=2)
    edge = rtn(3, answers("temporal", first(40, 100), tokens=50), bits=3)
    table = make_table(STUDY, [base, good, broken, edge])
    assert front(table) == ["alpha/baseline", "alpha/rtn-w4-channel-sym", "alpha/rtn-w3-channel-sym"]
    low = make_study(models=[{"path": "/models/alpha"}], min_recovery=0.48)
    assert "alpha/rtn-w2-channel-sym" in front(make_table(low, [base, good, broken, edge]))


def test_the_front_of_a_table_is_of_the_studys_objectives() -> None:
    base = result(None, answers("temporal", first(80, 100), tokens=100), bits=16)
    four = rtn(4, answers("temporal", first(80, 100), tokens=100), bits=4)
    worse = rtn(8, answers("temporal", first(79, 100), tokens=100), bits=8)
    assert front(make_table(STUDY, [base, four, worse])) == ["alpha/rtn-w4-channel-sym"]
    alone = make_study(models=[{"path": "/models/alpha"}], objectives={"accuracy": "max"})
    assert front(make_table(alone, [base, four, worse])) == ["alpha/baseline", "alpha/rtn-w4-channel-sym"]


def test_without_its_baseline_a_compressed_model_is_on_no_front() -> None:
    table = make_table(STUDY, [rtn(4, answers("temporal", first(8, 10)))])
    assert front(table) == []
    assert table.noise == {}


def test_the_noise_floor_is_the_baseline_against_itself() -> None:
    base = result(None, answers("temporal", first(6, 10)), answers("temporal", first(8, 10)))
    floor = make_table(STUDY, [base]).noise["alpha"]
    assert floor.value == pytest.approx(0.2)
    assert (floor.flips_to_correct, floor.flips_to_wrong) == (2, 0)
    greedy = result(None, answers("temporal", first(6, 10)))
    assert noise_floor(greedy) is None
    assert make_table(STUDY, [greedy]).noise == {}


def test_a_baseline_has_no_difference_to_itself() -> None:
    base = result(None, answers("temporal", first(6, 10)), answers("temporal", first(8, 10)))
    four = rtn(4, answers("temporal", first(6, 10)))
    table = make_table(STUDY, [base, four])
    assert row_of(table, "baseline").difference is None
    assert row_of(table, "rtn-w4-channel-sym").difference is not None


def test_dollars_are_tokens_at_the_speed_of_a_full_queue() -> None:
    priced = make_study(
        models=[{"path": "/models/alpha"}],
        usd_per_hour=3.6,
        usd_per_hour_date="2026-11-01",
        objectives={"accuracy": "max", "usd_per_1k_questions": "min"},
    )
    run = answers("temporal", first(5, 10), tokens=200)
    row = make_row(priced, rtn(4, run, tokens_per_s=1000), None)
    assert row.usd_per_1k_questions == pytest.approx(1000 * 200 / 1000 * 3.6 / 3600)
    assert row.metrics["usd_per_1k_questions"] == row.usd_per_1k_questions
    unmeasured = make_row(priced, rtn(4, run), None)
    assert unmeasured.usd_per_1k_questions is None
    assert make_row(STUDY, rtn(4, run, tokens_per_s=1000), None).usd_per_1k_questions is None
    base = result(None, run)
    assert front(make_table(priced, [base, rtn(4, run, tokens_per_s=1000)])) == ["alpha/rtn-w4-channel-sym"]


def test_truncated_and_missing_answers_are_wrong_and_counted() -> None:
    run = [
        *answers("temporal", first(5, 10), outcome="truncated"),
        *answers("arithmetic", first(8, 10), outcome="no_answer"),
    ]
    row = make_row(STUDY, rtn(4, run), None)
    assert row.accuracy == pytest.approx(0.65)
    assert row.truncation_rate == pytest.approx(0.25)
    outcomes = {summary.name: summary.outcomes for summary in row.benchmarks}
    assert outcomes["temporal"] == {"correct": 5, "incorrect": 0, "no_answer": 0, "truncated": 5, "error": 0}
    assert outcomes["arithmetic"]["no_answer"] == 2


def test_the_table_is_a_function_of_the_results_alone() -> None:
    base = result(None, answers("temporal", first(8, 10)), answers("temporal", first(7, 10)))
    trials = [rtn(bits, answers("temporal", first(bits, 10)), bits=bits) for bits in (8, 4, 3)]
    tables = [make_table(STUDY, [base, *order]) for order in itertools.permutations(trials)]
    assert all(set(front(table)) == set(front(tables[0])) for table in tables)
    rows = [{row.trial.name: row for row in table.rows} for table in tables]
    assert all(found == rows[0] for found in rows)


@pytest.mark.usefixtures("stored")
def test_a_search_is_told_of_the_stored_results() -> None:
    study: StudyConfig = make_study(objectives={"recovery": "max", "effective_bits": "min"})
    trial = store_trial(study, "alpha/rtn-w4-g64-sym", knows(4))
    assert "recovery" not in trial_metrics(study, trial)
    base = store_trial(study, "alpha/baseline", knows(8))
    metrics = trial_metrics(study, trial)
    assert metrics["recovery"] == pytest.approx(0.5)
    assert metrics["accuracy"] == pytest.approx(4 / NUM_PROBLEMS)
    assert metrics["effective_bits"] == trial.checkpoint.effective_bits
    again = find(study, "alpha/rtn-w4-g64-sym")
    store_checkpoint(study, again)
    assert load_result(study, again) == trial
    assert front(make_table(study, [base, trial])) == ["alpha/baseline", "alpha/rtn-w4-g64-sym"]
