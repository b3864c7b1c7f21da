"""Folders of answers by level of compression: `python -m evaluate collapse 0=DIR 0.3=DIR 0.5=DIR`.

folders -> checked to be comparable with the least compressed -> retention of each benchmark and of each kind -> table
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from evaluate.benchmarks import find_spec
from evaluate.collapse import CollapseRule, Levels, RetentionCurve, compare_collapse, retention_curve
from evaluate.comparability import check_comparable, read_folder
from evaluate.errors import BadInput
from evaluate.schema import Answer, Kind


@dataclass(frozen=True)
class CollapseReport:
    """Curves by benchmark, and of the mean of each kind ("reasoning", "knowledge") where there are several of it.

    knowledge_first: see CollapseComparison; None unless both kinds were asked.
    """

    rule: CollapseRule
    curves: Mapping[str, RetentionCurve]
    knowledge_first: float | None
    notes: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Returns what --json prints."""
        return asdict(self)


def report_collapse(
    folders: Mapping[float, Path], rule: CollapseRule, *, allowed: Sequence[str] = ()
) -> CollapseReport:
    """Reads the folders, level by level. Raises BadInput as `compare` does, and for fewer than two levels."""
    if len(folders) < 2:
        raise BadInput(f"{len(folders)} level is given, must be at least two: 0=DIR 0.5=DIR")
    read = {level: read_folder(folders[level]) for level in sorted(folders)}
    base, *others = read.values()
    notes = [note for other in others for note in check_comparable(base, other, allowed)]
    names = list(dict.fromkeys(answer.benchmark for answer in base.answers))
    kinds = {kind: [name for name in names if find_spec(name).kind is kind] for kind in Kind}
    groups = {name: [name] for name in names} | {k.value: members for k, members in kinds.items() if len(members) > 1}
    by_level = {level: folder.answers for level, folder in read.items()}
    try:
        curves = {name: retention_curve(_only(by_level, members), rule) for name, members in groups.items()}
        knowledge, reasoning = (_only(by_level, kinds[kind]) for kind in (Kind.KNOWLEDGE, Kind.REASONING))
        both = all(kinds.values())
        knowledge_first = compare_collapse(knowledge, reasoning, rule).knowledge_first if both else None
    except ValueError as error:
        raise BadInput(f"{base.path}: {error}") from None
    return CollapseReport(rule, curves, knowledge_first, notes)


def _only(levels: Levels, benchmarks: Sequence[str]) -> dict[float, list[Answer]]:
    return {level: [a for a in answers if a.benchmark in benchmarks] for level, answers in levels.items()}


def print_collapse(report: CollapseReport, out: TextIO, *, as_json: bool) -> None:
    """Writes the table, or one JSON object."""
    if as_json:
        print(json.dumps(report.to_json(), indent=2), file=out)
        return
    print(*(f"note: {note}" for note in report.notes), sep="\n", end="\n" * bool(report.notes), file=out)
    levels = [point.level for point in next(iter(report.curves.values())).points]
    heads = "".join(f"{f'level {level:g}':>22}" for level in levels)
    print(f"{'retention of':<20}{'n':>5}{heads}  collapse at", file=out)
    for name, curve in report.curves.items():
        cells = "".join(f"{f'{p.retention:.2f} ({p.low:.2f} - {p.high:.2f})':>22}" for p in curve.points)
        print(f"{name:<20}{curve.num_problems:>5}{cells}  {_collapse(curve, levels[-1])}", file=out)
    if report.knowledge_first is not None:
        print(f"knowledge collapses first in {report.knowledge_first:.0%} of resamples", file=out)
    print(f"collapse: retention of accuracy below {report.rule.threshold:g}; brackets: 95 % interval", file=out)


def _collapse(curve: RetentionCurve, last: float) -> str:
    ends = [f"{end:.3g}" if end is not None else f"> {last:g}" for end in (curve.collapse_low, curve.collapse_high)]
    at = f"{curve.collapse:.3g}" if curve.collapse is not None else f"> {last:g}"
    return f"{at} ({ends[0]} - {ends[1]})"
