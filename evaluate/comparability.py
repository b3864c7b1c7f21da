"""Whether two folders of answers may be compared: what must be the same, read from spec.json and answers.jsonl.

Every difference has a key: a dotted key of spec.json, or one of `problems`, `samples`, `grader`, `max_tokens`,
`prompt_tokens`, `reasoning`, found in the answers. What is compared (the model and its weights), the seed, and where
a file lay may differ and are named; anything else, known or not, must be allowed by its key.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluate.benchmarks import BENCHMARKS
from evaluate.errors import BadInput
from evaluate.schema import Answer
from evaluate.scores import ProblemKey
from evaluate.store import ANSWERS, SPEC, Place, in_order, place_of, read_answers, read_spec

COMPARED = ("model", "settings.weights", "sampling.seed")
_OF_A_BENCHMARK = ("source", "license")  # where it came from; its fingerprint tells whether it is the same
_FROM_ANSWERS = ("grader", "num_problems")  # of the last run or grading alone; the answers tell


@dataclass(frozen=True)
class AnswerFolder:
    """A folder that `python -m evaluate run` wrote."""

    path: Path
    spec: Mapping[str, Any]
    answers: Sequence[Answer]

    @property
    def model(self) -> str:
        return str(self.spec.get("model"))


@dataclass(frozen=True)
class Mismatch:
    """One difference: its key, and a text that names file, key and both values."""

    key: str
    text: str

    def is_allowed(self, allowed: Sequence[str]) -> bool:
        """Whether one of the keys, or a part before a dot, is this one's."""
        return any(self.key == key or self.key.startswith(f"{key}.") for key in allowed)


def read_folder(path: Path) -> AnswerFolder:
    """Reads a folder of answers. Raises BadInput naming the file and the cure."""
    for name in (SPEC, ANSWERS):
        if not (path / name).is_file():
            raise BadInput(f"{path / name}: no such file; give a folder that `python -m evaluate run` wrote")
    spec, answers = read_spec(path), read_answers(path)
    if not answers:
        raise BadInput(f"{path / ANSWERS}: holds no answer; run `python -m evaluate run` into this folder first")
    if unknown := {a.benchmark for a in answers} - BENCHMARKS.keys():
        raise BadInput(f"{path / ANSWERS}: key 'benchmark' is {min(unknown)!r}, must be one of {', '.join(BENCHMARKS)}")
    return AnswerFolder(path, spec, in_order(answers, spec))


def find_mismatches(a: AnswerFolder, b: AnswerFolder) -> tuple[list[Mismatch], list[str]]:
    """Returns what forbids a comparison, and notes on what may differ. Both are empty for runs that are alike."""
    spec_a, spec_b = _flatten(a.spec), _flatten(b.spec)
    alike = {name for name in _benchmarks(a) if _problems(a, name) == _problems(b, name)}
    mismatches: list[Mismatch] = []
    notes: list[str] = []
    for key in sorted(spec_a.keys() | spec_b.keys()):
        old, new = spec_a.get(key), spec_b.get(key)
        if old == new or (key.startswith("benchmarks.") and not _matters(key, alike)):
            continue
        text = f"{key} {json.dumps(old)} in {a.path / SPEC}, {json.dumps(new)} in {b.path / SPEC}"
        if any(key == name or key.startswith(f"{name}.") for name in COMPARED):
            notes.append(text)
        else:
            mismatches.append(Mismatch(key, text))
    mismatches += [found for check in (_extent, _content, _reasoning) for found in check(a, b)]
    notes += [note for folder in (a, b) if (note := _failures(folder))]
    return mismatches, notes


def check_comparable(a: AnswerFolder, b: AnswerFolder, allowed: Sequence[str]) -> list[str]:
    """Returns notes on what differs and is allowed to. Raises BadInput naming everything that is not."""
    mismatches, notes = find_mismatches(a, b)
    forbidden = [m for m in mismatches if not m.is_allowed(allowed)]
    if forbidden:
        keys = " ".join(dict.fromkeys(m.key for m in forbidden))
        raise BadInput(
            f"not comparable: {'; '.join(m.text for m in forbidden)}; run one of them again like the other, or pass"
            f" --allow-different KEY for each of: {keys}"
        )
    return [*notes, *(f"allowed to differ: {m.text}" for m in mismatches)]


def _matters(key: str, alike: set[str]) -> bool:
    """Whether a key of `benchmarks` says what was asked; other problems are named by themselves, see `_extent`."""
    name, _, rest = key.removeprefix("benchmarks.").partition(".")
    return name in alike and rest not in (*_OF_A_BENCHMARK, *_FROM_ANSWERS)


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            flat |= _flatten(inner, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = inner
    return flat


def _benchmarks(folder: AnswerFolder) -> set[str]:
    return {answer.benchmark for answer in folder.answers}


def _problems(folder: AnswerFolder, benchmark: str) -> set[ProblemKey]:
    return {(a.benchmark, a.problem_id) for a in folder.answers if a.benchmark == benchmark}


def _extent(a: AnswerFolder, b: AnswerFolder) -> Iterator[Mismatch]:
    """The same problems, as many samples of each."""
    samples_a, samples_b = _samples(a), _samples(b)
    for name in sorted(_benchmarks(a) | _benchmarks(b)):
        of_a, of_b = _problems(a, name), _problems(b, name)
        for here, there, folder, other in ((of_a, of_b, a, b), (of_b, of_a, b, a)):
            if missing := sorted(here - there):
                text = f"problems: {name} has {len(missing)} of {len(here)} in {folder.path / ANSWERS} alone"
                yield Mismatch("problems", f"{text} ({missing[0][1]!r} is not in {other.path / ANSWERS})")
        uneven = [key for key in sorted(of_a & of_b) if samples_a[key] != samples_b[key]]
        if uneven:
            first = f"{uneven[0][1]!r}: {samples_a[uneven[0]]} and {samples_b[uneven[0]]}"
            yield Mismatch("samples", f"samples: {name} has other numbers of answers, problem {first}")


def _samples(folder: AnswerFolder) -> dict[ProblemKey, int]:
    places = {place_of(answer) for answer in folder.answers}
    counts: dict[ProblemKey, int] = {}
    for benchmark, problem_id, _ in places:
        counts[benchmark, problem_id] = counts.get((benchmark, problem_id), 0) + 1
    return counts


def _content(a: AnswerFolder, b: AnswerFolder) -> Iterator[Mismatch]:
    """What the answers themselves say of how they were asked and read; what one side does not know is not compared.

    The same prompt has the same number of tokens in the same tokenizer and template.
    """
    readers: dict[str, tuple[Callable[[Answer], object], str]] = {
        "grader": (lambda answer: answer.grader, "; run `python -m evaluate regrade` on the older one"),
        "max_tokens": (lambda answer: answer.max_tokens, ""),
        "prompt_tokens": (lambda answer: answer.prompt_tokens, ": another template or tokenizer"),
    }
    by_place: dict[Place, Answer] = {place_of(answer): answer for answer in b.answers}
    pairs = [(answer, by_place[place_of(answer)]) for answer in a.answers if place_of(answer) in by_place]
    pairs = [(old, new) for old, new in pairs if not old.has_failed() and not new.has_failed()]
    for key, (read, hint) in readers.items():
        known = [(old, new) for old, new in pairs if read(old) is not None and read(new) is not None]
        unlike = [(old, new) for old, new in known if read(old) != read(new)]
        if unlike:
            old, new = min(unlike, key=lambda pair: place_of(pair[0]))
            where = f"{len(unlike)} of {len(known)} answers, {old.benchmark} problem {old.problem_id!r}"
            text = f"{key}: {where}: {read(old)} in {a.path / ANSWERS}, {read(new)} in {b.path / ANSWERS}{hint}"
            yield Mismatch(key, text)


def _reasoning(a: AnswerFolder, b: AnswerFolder) -> Iterator[Mismatch]:
    """One server splits the thinking off and the other leaves it in the text, or a template opened the thought."""
    ways = [
        {"apart" if x.reasoning else "inline" for x in f.answers if x.reasoning or "</think>" in (x.completion or "")}
        for f in (a, b)
    ]
    if ways[0] and ways[1] and ways[0] != ways[1]:
        says = [f"{' and '.join(sorted(way))} in {f.path / ANSWERS}" for way, f in zip(ways, (a, b), strict=True)]
        yield Mismatch("reasoning", f"reasoning: the thinking stands {', '.join(says)}")


def _failures(folder: AnswerFolder) -> str | None:
    failed = sum(answer.has_failed() for answer in folder.answers)
    return (
        f"{folder.path / ANSWERS}: {failed} failed requests are left out, run it again to ask them" if failed else None
    )
