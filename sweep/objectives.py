"""From results to the rows of the table: scores, what they differ from the baseline, which of them are on the front.

Everything here is a pure function of the results. accuracy and tokens_per_question are means over the reasoning
benchmarks, each counting once; recall-like benchmarks stand apart, as the study (arXiv 2504.02010) reports them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import fsum, sqrt

from evaluate.benchmarks import BENCHMARKS
from evaluate.cost import usd_per_1k_questions
from evaluate.metrics import BenchmarkSummary, summarize
from evaluate.paired import SIGNIFICANCE, holm, mean_difference
from evaluate.schema import Answer, Kind
from sweep.config import StudyConfig
from sweep.pareto import pareto_front
from sweep.results import CheckpointFacts, TrialResult, load_result
from sweep.space import TrialConfig

UNDECIDED_WIDTH = 0.05  # an interval wider than this that holds 0 has not shown that two models are equal


class TrialState(StrEnum):
    """How a trial stands."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"


class Verdict(StrEnum):
    """A trial's accuracy against its baseline's, by the interval of their paired difference."""

    BETTER = "better"
    EQUAL = "equal"
    WORSE = "worse"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Difference:
    """Mean over benchmarks of paired differences in accuracy, with 95 % interval. Fractions.

    p_value: of the exact paired test; adjusted_p: Holm's over all trials of the table, None outside one.
    """

    value: float
    low: float
    high: float
    flips_to_correct: int
    flips_to_wrong: int
    num_problems: int
    p_value: float
    adjusted_p: float | None = None

    @property
    def verdict(self) -> Verdict:
        is_resolved = self.adjusted_p is None or self.adjusted_p <= SIGNIFICANCE
        if self.low > 0 and is_resolved:
            return Verdict.BETTER
        if self.high < 0 and is_resolved:
            return Verdict.WORSE
        return Verdict.EQUAL if self.high - self.low <= UNDECIDED_WIDTH else Verdict.UNDECIDED


@dataclass(frozen=True)
class Row:
    """One complete trial as the table shows it. Fractions, tokens, USD, GB."""

    trial: TrialConfig
    checkpoint: CheckpointFacts
    benchmarks: tuple[BenchmarkSummary, ...]
    accuracy: float | None
    accuracy_half_width: float | None
    recovery: float | None
    difference: Difference | None
    tokens_per_question: float | None
    truncation_rate: float
    tokens_per_s: float | None
    usd_per_1k_questions: float | None
    on_front: bool = False

    @property
    def metrics(self) -> dict[str, float]:
        """Every objective that has a value, by the name that the YAML and MLflow use."""
        values: dict[str, float | None] = {
            "accuracy": self.accuracy,
            "recovery": self.recovery,
            "tokens_per_question": self.tokens_per_question,
            "usd_per_1k_questions": self.usd_per_1k_questions,
            "effective_bits": self.checkpoint.effective_bits,
            "checkpoint_gb": self.checkpoint.checkpoint_gb,
        }
        for summary in self.benchmarks:
            values[f"accuracy.{summary.name}"] = summary.accuracy
            values[f"tokens_per_question.{summary.name}"] = summary.tokens_per_question.mean
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Table:
    """All complete trials in the plan's order; noise: {model: its baseline's second run minus its first}."""

    rows: tuple[Row, ...]
    noise: Mapping[str, Difference]


def make_table(study: StudyConfig, results: Sequence[TrialResult]) -> Table:
    """The table of a study from the results that there are."""
    bases = {result.config.model.name: result for result in results if result.config.scheme is None}
    rows = _adjust([make_row(study, result, bases.get(result.config.model.name)) for result in results])
    front = _front(study, rows)
    return Table(
        rows=tuple(_with_front(row, index in front) for index, row in enumerate(rows)),
        noise={name: noise for name, base in bases.items() if (noise := noise_floor(base)) is not None},
    )


def trial_metrics(study: StudyConfig, result: TrialResult) -> dict[str, float]:
    """The objectives of one trial, as a search algorithm is told them; recovery needs its baseline in the stores."""
    base = load_result(study, TrialConfig(result.config.model, None))
    return make_row(study, result, base).metrics


def make_row(study: StudyConfig, result: TrialResult, base: TrialResult | None) -> Row:
    """One trial's row; what needs the baseline is None while there is none."""
    summaries = _summaries(result.answers)
    reasoning = [summary for summary in summaries if summary.kind is Kind.REASONING] or list(summaries)
    accuracy = _mean([summary.accuracy for summary in reasoning])
    base_accuracy = None
    if base is not None:
        base_summaries = [s for s in _summaries(base.answers) if s.name in {summary.name for summary in reasoning}]
        base_accuracy = _mean([summary.accuracy for summary in base_summaries])
    speed = _mean([evaluation.tokens_per_s for evaluation in result.evaluations])
    tokens = _mean([summary.tokens_per_question.mean for summary in reasoning])
    return Row(
        trial=result.config,
        checkpoint=result.checkpoint,
        benchmarks=summaries,
        accuracy=accuracy,
        accuracy_half_width=_half_width(reasoning),
        recovery=accuracy / base_accuracy if accuracy is not None and base_accuracy else None,
        difference=compare(result.answers, base.answers) if base is not None and result is not base else None,
        tokens_per_question=tokens,
        truncation_rate=_mean([summary.truncation_rate for summary in summaries]) or 0.0,
        tokens_per_s=speed,
        usd_per_1k_questions=_usd_per_1k_questions(study.usd_per_hour, tokens, speed),
    )


def compare(a: Iterable[Answer], b: Iterable[Answer]) -> Difference | None:
    """Accuracy of a minus accuracy of b: paired by problem within each reasoning benchmark, then averaged over them.

    The interval joins the benchmarks' as independent. None when they share no question.
    """
    answers_a, answers_b = _by_benchmark(a), _by_benchmark(b)
    shared = [name for name in answers_a if name in answers_b]
    names = [name for name in shared if BENCHMARKS[name].kind is Kind.REASONING] or shared
    if not names:
        return None
    found = mean_difference([(answers_a[name], answers_b[name]) for name in names])
    return Difference(
        value=found.difference,
        low=found.low,
        high=found.high,
        flips_to_correct=found.flips_to_correct,
        flips_to_wrong=found.flips_to_wrong,
        num_problems=found.num_problems,
        p_value=found.p_value,
    )


def noise_floor(base: TrialResult) -> Difference | None:
    """A baseline against itself under another seed; None where it ran once, as greedy decoding does."""
    if len(base.evaluations) < 2:
        return None
    first, second = base.evaluations[:2]
    return compare(second.answers, first.answers)


def _front(study: StudyConfig, rows: Sequence[Row]) -> set[int]:
    """Rows that none dominates, among those that have every objective and min_recovery of their baseline's accuracy."""
    able = [
        index
        for index, row in enumerate(rows)
        if set(study.objectives) <= row.metrics.keys()
        and (row.trial.scheme is None or (row.recovery is not None and row.recovery >= study.min_recovery))
    ]
    points = [{name: rows[index].metrics[name] for name in study.objectives} for index in able]
    return {able[position] for position in pareto_front(points, study.objectives)}


def _adjust(rows: Sequence[Row]) -> list[Row]:
    """With each difference's p adjusted for the number of trials that were compared with their baselines."""
    adjusted = holm({row.trial.name: row.difference.p_value for row in rows if row.difference is not None})
    return [
        replace(row, difference=replace(row.difference, adjusted_p=adjusted[row.trial.name]))
        if row.difference is not None
        else row
        for row in rows
    ]


def _with_front(row: Row, on_front: bool) -> Row:
    return replace(row, on_front=on_front)


def _summaries(answers: Iterable[Answer]) -> tuple[BenchmarkSummary, ...]:
    groups = _by_benchmark(answers)
    return tuple(summarize(group, BENCHMARKS[name].kind) for name, group in groups.items())


def _by_benchmark(answers: Iterable[Answer]) -> dict[str, list[Answer]]:
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.benchmark, []).append(answer)
    return groups


def _half_width(summaries: Sequence[BenchmarkSummary]) -> float | None:
    """Of the mean over benchmarks, each interval's half width taken as independent of the others."""
    halves = [
        (summary.accuracy_high - summary.accuracy_low) / 2
        for summary in summaries
        if summary.accuracy_low is not None and summary.accuracy_high is not None
    ]
    return sqrt(fsum(half**2 for half in halves)) / len(halves) if halves else None


def _usd_per_1k_questions(usd_per_hour: float, tokens: float | None, tokens_per_s: float | None) -> float | None:
    """Price of the tokens of 1,000 questions at the throughput of a full queue; None without a price or a measure."""
    if not usd_per_hour or tokens is None or not tokens_per_s:
        return None
    return usd_per_1k_questions(usd_per_hour, tokens, tokens_per_s)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fsum(known) / len(known) if known else None
