"""A folder of answers that survives a kill: one flushed line per finished answer, and what they were asked with.

answers.jsonl   one line per (benchmark, problem, sample), in the order of completion; never rewritten but to cut a
                torn last line or to drop errors and empty replies before they are asked again
spec.json       model, prompting, sampling, settings, benchmarks: another one is refused, naming the difference
summary.json    the numbers, a pure function of the two
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_type_hints

from evaluate.errors import BadInput
from evaluate.json_files import parse_json, read_text
from evaluate.schema import Answer, Outcome

ANSWERS, SPEC, SUMMARY = "answers.jsonl", "spec.json", "summary.json"
Place = tuple[str, str, int]  # benchmark, problem_id, sample

_WAY_OUT = "restore the file or use another folder"
_FIELDS = tuple(f.name for f in fields(Answer))
_NEEDED = tuple(f.name for f in fields(Answer) if f.default is MISSING)
_TYPES = {name: kind | int if kind in (float, float | None) else kind for name, kind in get_type_hints(Answer).items()}


def place_of(answer: Answer) -> Place:
    """Where an answer stands: there is one finished answer for each place."""
    return answer.benchmark, answer.problem_id, answer.sample


def read_answers(path: Path) -> list[Answer]:
    """Reads the answers of a folder (or of its answers.jsonl), a torn last line left out; [] where there is none.

    Raises BadInput naming the line that is no answer, or a second one to the same request.
    """
    path = path / ANSWERS if path.is_dir() else path
    answers = [_parse_line(path, i, line) for i, line in enumerate(_read_lines(path)[0], start=1)]
    line_of: dict[Place, int] = {}
    for i, answer in enumerate(answers, start=1):
        if (first := line_of.setdefault(place_of(answer), i)) != i:
            what = f"{answer.benchmark} problem {answer.problem_id!r} sample {answer.sample}"
            raise BadInput(f"{path}: line {i}: {what} stands there twice, first on line {first}; drop one of the two")
    return answers


def read_spec(folder: Path) -> dict[str, Any]:
    """Reads what a folder was asked with. Raises BadInput where it is no spec."""
    path = folder / SPEC
    try:
        spec = parse_json(read_text(path))
    except ValueError:
        spec = None
    benchmarks = spec.get("benchmarks", {}) if isinstance(spec, dict) else None
    if isinstance(benchmarks, dict) and all(isinstance(b, dict) for b in benchmarks.values()):
        return dict(spec)
    raise BadInput(f"{path}: is no spec; restore the file or use another folder")


def in_order(answers: Iterable[Answer], spec: Mapping[str, Any]) -> list[Answer]:
    """The answers with the benchmarks in the run's order, and those to each as they came: by chance."""
    names = list(spec.get("benchmarks", {}))
    return sorted(answers, key=lambda a: names.index(a.benchmark) if a.benchmark in names else len(names))


def _read_lines(path: Path) -> tuple[list[bytes], bool]:
    """The whole lines of a file, and whether its last one is torn. A last line that only lacks its end is whole."""
    if not path.exists():
        return [], False
    *lines, last = path.read_bytes().split(b"\n")
    if last and _is_whole(last):
        return [*lines, last], True
    if last and not lines:
        read_text(path)  # says it where the file is no text at all
    return lines, bool(last)


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def _parse_line(path: Path, number: int, line: bytes) -> Answer:
    try:
        values = parse_json(line)
        if not isinstance(values, dict):
            raise ValueError
    except ValueError:
        raise BadInput(f"{path}: line {number}: is no answer; {_WAY_OUT}") from None
    given = {name: values[name] for name in _FIELDS if name in values}
    if missing := next((name for name in _NEEDED if name not in given), None):
        raise BadInput(f"{path}: line {number}: key {missing!r} is missing; {_WAY_OUT}")
    for name, value in given.items():
        if name in ("outcome", "lenient") and value in tuple(Outcome):
            given[name] = Outcome(value)
        elif isinstance(value, bool) or not isinstance(value, _TYPES[name]):
            is_outcome = name in ("outcome", "lenient")
            must_be = f"one of {', '.join(Outcome)}" if is_outcome else getattr(_TYPES[name], "__name__", _TYPES[name])
            what = f"key {name!r} is {json.dumps(value)[:40]}, must be {must_be}"
            raise BadInput(f"{path}: line {number}: {what}; {_WAY_OUT}")
    return Answer(**given)


def _line(answer: Answer) -> bytes:
    return json.dumps(asdict(answer)).encode() + b"\n"


def check_spec(folder: Path, spec: Mapping[str, Any]) -> None:
    """Raises BadInput when the folder's answers were asked with another spec; touches nothing.

    Benchmarks may be added and widened; what must stay is model, prompting, sampling and settings.
    """
    path = folder / SPEC
    if not path.exists():
        if (folder / ANSWERS).exists():
            raise BadInput(f"{folder}: holds {ANSWERS} without its {SPEC}; use another folder")
        return
    try:
        stored = json.loads(path.read_text())
        differences = _differences(stored, json.loads(json.dumps(spec)))
    except (ValueError, AttributeError):
        raise BadInput(f"{path}: is no spec; restore the file or use another folder") from None
    if differences:
        raise BadInput(f"{path}: these answers were asked with {'; '.join(differences)}; use another folder")


def _differences(stored: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted(stored.keys() | asked.keys()):
        name, old, new = f"{prefix}{key}", stored.get(key), asked.get(key)
        if name == "benchmarks":  # their extent may change, their questions are compared one by one
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{name}.")
        elif old != new:
            found.append(f"{name} {json.dumps(old)}, not {json.dumps(new)}")
    return found


def check_answers(folder: Path, answers: Sequence[Answer], keys: Mapping[Place, str], grader: str) -> None:
    """Raises BadInput when a stored answer was given to another question, or graded by another reference or version.

    keys: of the answers that are looked for; others in the folder are left aside.
    """
    for answer in answers:
        expected = keys.get(place_of(answer))
        if expected is None or answer.has_failed():
            continue
        if answer.key != expected:
            raise BadInput(
                f"{folder / ANSWERS}: {answer.benchmark} problem {answer.problem_id!r} was asked with another question"
                " or reference; use another folder"
            )
        if answer.grader != grader:
            raise BadInput(
                f"{folder / ANSWERS}: graded by version {answer.grader}, this one grades by version {grader}; run"
                f" `python -m evaluate regrade {folder}` first"
            )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a folder for one writer. Raises BadInput when another has it."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BadInput(f"{folder}: another run is writing here; wait for it or use another folder") from None
    finally:
        os.close(lock)


def write_folder(folder: Path, answers: Sequence[Answer], spec: object, summary: object) -> None:
    """Replaces what a folder holds, the answers, which say their grader, last; all stay where one cannot be written."""
    files = {folder / SUMMARY: _json(summary), folder / SPEC: _json(spec)}
    _replace_all({**files, folder / ANSWERS: b"".join(map(_line, answers))})


def has_torn_line(folder: Path) -> bool:
    """Whether a kill has torn the last line of a folder's answers; every reader leaves it out."""
    last = (folder / ANSWERS).read_bytes().rpartition(b"\n")[2]
    return bool(last) and not _is_whole(last)


class AnswerStore:
    """Appends finished answers to a folder; a second writer is refused. Use it in `with`."""

    def __init__(self, folder: Path, spec: Mapping[str, Any]) -> None:
        self._folder = folder
        self._spec = spec

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(locked(self._folder))
            check_spec(self._folder, self._spec)
            self._write_spec()
            _drop_unfinished(self._folder / ANSWERS)
            self._file = stack.enter_context((self._folder / ANSWERS).open("ab", buffering=0))
            self._held = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def append(self, answer: Answer) -> None:
        """Writes one line, at once and whole."""
        self._file.write(_line(answer))

    def _write_spec(self) -> None:
        path = self._folder / SPEC
        stored = json.loads(path.read_text()) if path.exists() else {}
        benchmarks = {**stored.get("benchmarks", {}), **self._spec["benchmarks"]}
        write_json(path, {**self._spec, "benchmarks": benchmarks})


def _drop_unfinished(path: Path) -> None:
    """Cuts a torn last line and drops what is to be asked again; every other line keeps its bytes and its place."""
    lines, is_torn = _read_lines(path)
    kept = [line for i, line in enumerate(lines, 1) if not _parse_line(path, i, line).is_to_be_asked_again()]
    if is_torn or len(kept) < len(lines):
        _replace_all({path: b"".join(line + b"\n" for line in kept)})


def write_json(path: Path, value: object) -> None:
    """Writes indented JSON in one step: a reader sees the old file or the new one."""
    _replace_all({path: _json(value)})


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


def _replace_all(files: Mapping[Path, bytes]) -> None:
    """Writes all contents beside their places, then puts each in its place in one step."""
    temporaries = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in files}
    try:
        for path, content in files.items():
            try:
                temporaries[path].write_bytes(content)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from None
        for path, temporary in temporaries.items():
            temporary.replace(path)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
