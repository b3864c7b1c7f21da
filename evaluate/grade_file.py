"""Grades a file of completions: one JSON object a line in, one a line out, in order."""

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from evaluate.benchmarks import BenchmarkSpec, find_spec
from evaluate.errors import BadInput, nearest
from evaluate.grading import GRADER_VERSION, AnswerType, grade, invalid_reference
from evaluate.json_files import parse_json, read_text
from evaluate.schema import Grade
from evaluate.symbolic import map_in_pool

_NEEDED = ("completion", "finish_reason", "reference")
_KEYS = frozenset({*_NEEDED, "options", "conclusion"})


def grade_file(benchmark: str, path: Path, out: TextIO, *, closing_count: bool) -> int:
    """Writes one grade a line, and a count at the end if asked for; returns the exit code 0.

    The whole file is read before the first grade is written. Raises BadInput naming file, line and key.
    """
    spec = find_spec(benchmark)
    grades = map_in_pool(partial(_grade, spec), _read(path, spec))
    for verdict in grades:
        print(json.dumps(_to_json(spec, verdict)), file=out)
    if closing_count:
        counts = Counter(g.outcome.value for g in grades)
        print(f"{len(grades)} graded: {', '.join(f'{n} {outcome}' for outcome, n in counts.most_common())}", file=out)
    return 0


def _grade(spec: BenchmarkSpec, record: dict[str, Any]) -> Grade:
    given, options, conclusion = record["completion"], record.get("options"), record.get("conclusion")
    return grade(spec.answer_type, given, record["finish_reason"], record["reference"], options, conclusion)


def _to_json(spec: BenchmarkSpec, verdict: Grade) -> dict[str, Any]:
    line: dict[str, Any] = {"outcome": verdict.outcome.value, "answer": verdict.answer, "rule": verdict.rule}
    if spec.answer_type is AnswerType.SPAN:
        line |= {"f1": verdict.f1, "tail_f1": verdict.tail_f1}
    lenient = (verdict.lenient or verdict.outcome).value
    line |= {"lenient": lenient, "lenient_rule": verdict.lenient_rule or verdict.rule}
    return {**line, "grader": GRADER_VERSION}


def _read(path: Path, spec: BenchmarkSpec) -> list[dict[str, Any]]:
    lines = read_text(path).rstrip("\r\n").split("\n")
    if lines == [""]:
        raise BadInput(f"{path}: is empty, must hold one JSON object a line")
    return [_parse(f"{path}: line {i}", line, spec) for i, line in enumerate(lines, start=1)]


def _parse(where: str, line: str, spec: BenchmarkSpec) -> dict[str, Any]:
    try:
        record = parse_json(line, unique_keys=True)
    except ValueError as error:
        raise BadInput(f"{where}: no valid JSON ({error}); mend or drop the line") from None
    if not isinstance(record, dict):
        raise BadInput(f"{where}: is {line.strip()[:40]}, must be an object")
    for key in _NEEDED:
        if key not in record:
            raise BadInput(f"{where}: key {key!r} is missing{nearest(key, record)}")
    for key in record.keys() - _KEYS:  # others may stand there, such as an id
        if (near := nearest(key, _KEYS)) and near == nearest(key, _KEYS - record.keys()):
            raise BadInput(f"{where}: key {key!r} is unknown{near}")
    for key in ("completion", "finish_reason", "options", "conclusion"):
        if not isinstance(record.get(key), str | None):
            raise BadInput(f"{where}: key {key!r} is {json.dumps(record[key])[:40]}, must be a text or null")
    _check_reference(where, record, spec)
    return record


def _check_reference(where: str, record: dict[str, Any], spec: BenchmarkSpec) -> None:
    reference = record["reference"]
    accepted = [reference] if isinstance(reference, str) else reference
    if not isinstance(accepted, list) or not accepted or not all(isinstance(r, str) for r in accepted):
        must = "a text or a list of at least one text"
        raise BadInput(f"{where}: key 'reference' is {json.dumps(reference)[:40]}, must be {must}")
    for text in accepted:
        if must_be := invalid_reference(spec.answer_type, text, record.get("options")):
            raise BadInput(f"{where}: key 'reference' is {json.dumps(text)[:40]}, must be {must_be}")
