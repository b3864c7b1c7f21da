"""Grades the stored answers of a folder anew, without a model: completions stay as they are, verdicts are replaced.

References come from where the run took them, by spec.json: the same file (its checksum is compared), the hub's cache
or the generator. answers.jsonl, spec.json and summary.json are replaced when all three are written, each in one step,
and the folder's next run goes on from there.
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluate.benchmarks import Benchmark, find_spec, load_benchmark
from evaluate.errors import BadInput
from evaluate.grading import GRADER_VERSION
from evaluate.runner import graded, summarize_answers
from evaluate.schema import Answer, Problem
from evaluate.store import ANSWERS, SPEC, has_torn_line, in_order, locked, read_answers, read_spec, write_folder
from evaluate.symbolic import map_in_pool

_MOST_GENERATED = 1_000_000


@dataclass(frozen=True)
class Regrading:
    """What became of a folder. changes: how many answers went from one outcome to another, "incorrect -> correct"."""

    num_answers: int
    from_versions: tuple[str, ...]
    to_version: str
    changes: Mapping[str, int]

    def __str__(self) -> str:
        """One line for people."""
        versions = ", ".join(self.from_versions) or "none"
        changed = "; ".join(f"{n} {what}" for what, n in self.changes.items())
        num_changed = sum(self.changes.values())
        head = f"{self.num_answers} answers, grader version {versions} -> {self.to_version}: "
        return head + f"{num_changed} verdicts changed" + (f" ({changed})" if changed else "")


def regrade(folder: Path, files: Mapping[str, Path]) -> Regrading:
    """Grades a folder's answers by this version's graders.

    files: by benchmark, where its file stands now, if elsewhere than at the run.
    Raises BadInput: no folder of answers, a file that is missing or holds other problems; nothing is then touched.
    """
    if not (folder / ANSWERS).is_file():
        raise BadInput(f"{folder}: holds no {ANSWERS}; give the --output folder of a run")
    with locked(folder):
        spec, answers = _read_spec(folder), read_answers(folder)
        if not answers:
            raise BadInput(f"{folder / ANSWERS}: holds no answer; run `python -m evaluate run` into this folder first")
        names = list(dict.fromkeys(a.benchmark for a in in_order(answers, spec)))
        benchmarks = {name: _load(folder, name, spec, answers, files.get(name)) for name in names}
        problems = {name: {p.problem_id: p for p in b.problems} for name, b in benchmarks.items()}

        def grade(answer: Answer) -> Answer:
            problem: Problem = problems[answer.benchmark][answer.problem_id]
            return graded(answer, benchmarks[answer.benchmark], problem)

        anew = map_in_pool(grade, answers)
        for name in names:
            spec["benchmarks"][name]["grader"] = GRADER_VERSION
        summary = summarize_answers(spec["model"], list(benchmarks.values()), anew)
        write_folder(folder, anew, spec, summary.to_json())
    pairs = zip(answers, anew, strict=True)
    moves = Counter(f"{old.outcome} -> {new.outcome}" for old, new in pairs if old.outcome is not new.outcome)
    versions = tuple(sorted({a.grader for a in answers}))
    return Regrading(len(answers), versions, GRADER_VERSION, dict(moves.most_common()))


def _read_spec(folder: Path) -> dict[str, Any]:
    spec = read_spec(folder) if (folder / SPEC).is_file() else {}
    sources = [b.get("source") for b in spec.get("benchmarks", {}).values()]
    if sources and isinstance(spec.get("model"), str) and all(isinstance(source, str) for source in sources):
        return spec
    raise BadInput(f"{folder / SPEC}: is no spec of a run; restore the file")


def _load(folder: Path, name: str, spec: Mapping[str, Any], answers: Sequence[Answer], file: Path | None) -> Benchmark:
    """The benchmark whose problems the answers were given to. Raises BadInput where they are not found."""
    if name not in spec["benchmarks"]:
        raise BadInput(f"{folder / SPEC}: names no benchmark {name!r}, to which {ANSWERS} holds answers; restore it")
    stored = str(spec["benchmarks"][name]["source"])
    wanted = {a.problem_id for a in answers if a.benchmark == name}
    if find_spec(name).generated:
        benchmark = _generate(name, wanted, stored)
    else:
        place, _, digest = stored.rpartition(" sha256:")
        path = file or (None if place.startswith("hub:") else Path(place))
        way_out = f"give the file that was asked from: --benchmark {name}=FILE"
        if path is not None and not path.is_file():
            raise BadInput(f"{path}: no such file, {name} was asked from it; {way_out}")
        benchmark = load_benchmark(name, file=path)
        if benchmark.source.rpartition(" sha256:")[2][:16] != digest[:16]:
            raise BadInput(f"{path or place}: is not the file that was asked from (sha256:{digest[:16]}); {way_out}")
    missing = wanted - {p.problem_id for p in benchmark.problems}
    if missing:
        raise BadInput(f"{folder / ANSWERS}: {name} problem {min(missing)!r} is not in {benchmark.source}")
    return benchmark


def _generate(name: str, wanted: set[str], stored: str) -> Benchmark:
    """So many generated problems that the wanted ones are among them: a longer list begins with a shorter one."""
    num_problems = len(wanted)
    while True:
        benchmark = load_benchmark(name, num_problems=num_problems)
        if benchmark.source != stored:
            raise BadInput(f"{name}: was asked from {stored}, this is {benchmark.source}; ask again in another folder")
        if wanted <= {p.problem_id for p in benchmark.problems} or num_problems > _MOST_GENERATED:
            return benchmark
        num_problems *= 2


def regrade_folder(folder: Path, arguments: Sequence[str], *, as_json: bool) -> str:
    """Grades a folder anew for the command line; arguments: NAME=FILE. Returns the line to print. Raises BadInput."""
    files = {}
    for argument in arguments:
        name, has_file, file = argument.partition("=")
        if not has_file or not file:
            raise BadInput(f"--benchmark {argument}: must be NAME=FILE")
        files[find_spec(name).name] = Path(file)
    is_torn = (folder / ANSWERS).is_file() and has_torn_line(folder)
    done = regrade(folder, files)
    if is_torn:
        print(f"{folder / ANSWERS}: 1 torn line, the last, was dropped; `run` asks for it again", file=sys.stderr)
    return json.dumps(done.__dict__) if as_json else f"{folder}: {done}"
