"""Two folders of answers side by side: `python -m evaluate compare DIR_A DIR_B`.

check that they may be compared -> pair by problem -> difference, tests, margin -> Holm over the benchmarks -> verdict
                                                         mean over the reasoning benchmarks     comparability, paired
A is the baseline: every difference is B minus A, every verdict is about B.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TextIO

from evaluate.benchmarks import find_spec
from evaluate.comparability import AnswerFolder, check_comparable, read_folder
from evaluate.errors import BadInput
from evaluate.lengths import TokensRatio, tokens_ratio
from evaluate.metrics import BenchmarkSummary, summarize
from evaluate.paired import (
    MeanDifference,
    NonInferiority,
    PairedDifference,
    Verdict,
    holm,
    mean_difference,
    non_inferiority,
    paired_difference,
    verdict,
)
from evaluate.schema import Answer, Kind
from evaluate.scores import problem_scores

DEFAULT_MARGIN = 0.02


@dataclass(frozen=True)
class BenchmarkComparison:
    """One benchmark on the problems that both answered; difference: b minus a, adjusted_p: Holm over the benchmarks."""

    name: str
    kind: Kind
    a: BenchmarkSummary
    b: BenchmarkSummary
    difference: PairedDifference
    adjusted_p: float
    non_inferior: NonInferiority
    tokens_ratio: TokensRatio | None
    verdict: Verdict


@dataclass(frozen=True)
class ReasoningComparison:
    """The mean over the reasoning benchmarks, as `accuracy` in summary.json; one test, outside Holm's family."""

    benchmarks: Sequence[str]
    accuracy_a: float
    accuracy_b: float
    difference: MeanDifference
    non_inferior: NonInferiority
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """Folder b against its baseline a. notes: what differs between the two and was allowed to.

    reasoning: None where fewer than two reasoning benchmarks were compared.
    """

    a: AnswerFolder
    b: AnswerFolder
    margin: float
    notes: Sequence[str]
    benchmarks: Sequence[BenchmarkComparison]
    reasoning: ReasoningComparison | None

    def to_json(self) -> dict[str, Any]:
        """Returns what --json prints; benchmarks by name."""
        folders = {side: {"dir": str(f.path), "model": f.model} for side, f in (("a", self.a), ("b", self.b))}
        benchmarks = {c.name: asdict(c) for c in self.benchmarks}
        reasoning = asdict(self.reasoning) if self.reasoning else None
        checked = {"margin": self.margin, "notes": list(self.notes)}
        return {**folders, **checked, "benchmarks": benchmarks, "reasoning": reasoning}


def compare_folders(a: Path, b: Path, *, margin: float = DEFAULT_MARGIN, allowed: Sequence[str] = ()) -> Comparison:
    """Compares b with its baseline a. allowed: keys that may differ, see evaluate.comparability.

    Raises BadInput for a folder that holds no answers and for two that may not be compared, naming each difference.
    """
    folders = read_folder(a), read_folder(b)
    notes = check_comparable(*folders, allowed)
    pairs = _pairs(folders[0].answers, folders[1].answers)
    if not pairs:
        raise BadInput(f"{a} and {b}: no problem was answered in both")
    differences = {name: paired_difference(of_b, of_a) for name, (of_a, of_b) in pairs.items()}
    adjusted = holm({name: difference.p_value for name, difference in differences.items()})
    compared = [
        BenchmarkComparison(
            name=name,
            kind=find_spec(name).kind,
            a=summarize(of_a, find_spec(name).kind),
            b=summarize(of_b, find_spec(name).kind),
            difference=differences[name],
            adjusted_p=adjusted[name],
            non_inferior=non_inferiority(differences[name], margin),
            tokens_ratio=tokens_ratio(of_b, of_a),
            verdict=verdict(differences[name], adjusted[name], margin),
        )
        for name, (of_a, of_b) in pairs.items()
    ]
    return Comparison(*folders, margin, notes, compared, _reasoning(pairs, compared, margin))


def _reasoning(
    pairs: Mapping[str, tuple[list[Answer], list[Answer]]], compared: Sequence[BenchmarkComparison], margin: float
) -> ReasoningComparison | None:
    rows = [c for c in compared if c.kind is Kind.REASONING]
    if len(rows) < 2:
        return None
    difference = mean_difference([(of_b, of_a) for of_a, of_b in (pairs[row.name] for row in rows)])
    return ReasoningComparison(
        benchmarks=[row.name for row in rows],
        accuracy_a=fmean(row.a.accuracy or 0.0 for row in rows),
        accuracy_b=fmean(row.b.accuracy or 0.0 for row in rows),
        difference=difference,
        non_inferior=non_inferiority(difference, margin),
        verdict=verdict(difference, difference.p_value, margin),
    )


def _pairs(a: Sequence[Answer], b: Sequence[Answer]) -> dict[str, tuple[list[Answer], list[Answer]]]:
    """By benchmark, both sides' answers to the problems that both answered."""
    shared = problem_scores(a).keys() & problem_scores(b).keys()
    of_a, of_b = ([x for x in answers if (x.benchmark, x.problem_id) in shared] for answers in (a, b))
    names = dict.fromkeys(x.benchmark for x in of_a)
    return {n: ([x for x in of_a if x.benchmark == n], [x for x in of_b if x.benchmark == n]) for n in names}


def print_comparison(comparison: Comparison, out: TextIO, *, as_json: bool) -> None:
    """Writes the table, or one JSON object."""
    if as_json:
        print(json.dumps(comparison.to_json(), indent=2), file=out)
        return
    print(f"A: {comparison.a.path}, model {comparison.a.model} (the baseline)", file=out)
    print(f"B: {comparison.b.path}, model {comparison.b.model} (compared with it)", file=out)
    print(*(f"note: {note}" for note in comparison.notes), "", sep="\n", file=out)
    head = (
        f"{'benchmark':<19}{'n':>5}{'A':>7}{'B':>7}{'B - A':>8}  {'95 % interval':<17}{'flips':>9}{'p':>7}{'Holm':>7}"
    )
    print(f"{head}{'MDD':>7}{'not worse':>11}  {'tokens B / A':<20}verdict", file=out)
    print(*map(_row, comparison.benchmarks), sep="\n", file=out)
    if comparison.reasoning:
        print(_reasoning_row(comparison.reasoning), file=out)
    print(_LEGEND.format(margin=comparison.margin), file=out)


def _row(row: BenchmarkComparison) -> str:
    d, ratio = row.difference, row.tokens_ratio
    tokens = f"{ratio.ratio:.2f} ({ratio.low:.2f} - {ratio.high:.2f})" if ratio else "-"
    return (
        f"{_difference(row.name, row.a.accuracy, row.b.accuracy, d)}{_p(row.adjusted_p):>7}"
        f"{d.minimum_detectable:>7.3f}{row.non_inferior.value:>11}  {tokens:<20}{row.verdict.value}"
    )


def _reasoning_row(row: ReasoningComparison) -> str:
    head = _difference("reasoning", row.accuracy_a, row.accuracy_b, row.difference)
    return f"{head}{'-':>7}{'-':>7}{row.non_inferior.value:>11}  {'-':<20}{row.verdict.value}"


def _difference(name: str, a: float | None, b: float | None, d: PairedDifference | MeanDifference) -> str:
    interval, flips = f"{d.low:+.3f} .. {d.high:+.3f}", f"+{d.flips_to_correct} -{d.flips_to_wrong}"
    return (
        f"{name:<19}{d.num_problems:>5}{a:>7.3f}{b:>7.3f}{d.difference:>+8.3f}"
        f"  {interval:<17}{flips:>9}{_p(d.p_value):>7}"
    )


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<.001"


_LEGEND = """
n: problems that both answered. flips: problems on which B is better (+) and worse (-). p: exact paired test; Holm: p
adjusted for the number of benchmarks. MDD: minimum detectable difference, which this many problems find in 80 of 100
runs; smaller true differences are mostly missed. not worse: whether B loses less than the margin of {margin:g} (yes:
shown, no: refuted). verdict on B: worse or better where Holm <= 0.05, equal within margin where the interval is.
reasoning: mean over the reasoning benchmarks, each counting once; one test of its own, so its p stands unadjusted."""
