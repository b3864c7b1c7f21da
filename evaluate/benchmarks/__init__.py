"""The benchmarks by name, and one way to load each: `load_benchmark("folio", file=..., num_problems=100)`.

All runs share one seeded order of a benchmark's problems; a subset is a slice of that order.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType

from evaluate.errors import BadInput, nearest
from evaluate.grading import AnswerType, grade, invalid_reference
from evaluate.schema import Grade, Kind, Problem

__all__ = ["BENCHMARKS", "Benchmark", "BenchmarkSpec", "Kind", "grade_completion", "load_benchmark"]

GENERATED_SEED = 0  # the questions are the same for every run; only the sampling is seeded by the user


@dataclass(frozen=True)
class Benchmark:
    """A loaded benchmark: its problems in the shared order, and what identifies them."""

    name: str
    kind: Kind
    answer_type: AnswerType
    problems: tuple[Problem, ...]
    fingerprint: str  # of ids, questions, references and options
    source: str  # file or hub file with its checksum, or the generator
    license: str

    def grade(self, completion: str | None, finish_reason: str | None, problem: Problem) -> Grade:
        """Grades one completion of one of the problems."""
        conclusion = problem.metadata.get("conclusion")
        return grade(self.answer_type, completion, finish_reason, problem.reference, problem.options, conclusion)


@dataclass(frozen=True)
class BenchmarkSpec:
    """What is known of a benchmark before it is loaded. num_problems: size of the full set, None for a generator."""

    name: str
    kind: Kind
    answer_type: AnswerType
    num_problems: int | None
    license: str
    generated: bool = False

    def load(self, file: Path | None, num_problems: int | None) -> tuple[list[Problem], str]:
        """Returns the problems in their own order and their source. Raises BadInput."""
        module = import_module(f"evaluate.benchmarks.{self.name}")
        if self.generated:
            if file is not None or num_problems is None:
                what = (
                    "is generated and reads no file" if file else "is generated without end, num_problems must be given"
                )
                raise BadInput(f"benchmark {self.name!r}: {what}")
            items = module.generate("test", num_problems, GENERATED_SEED)
            return [item.problem for item in items], f"generator {self.name} version {module.GENERATOR_VERSION}"
        from evaluate.benchmarks.files import checksum, fetch

        path = file or fetch(module.HUB, self.name)
        problems = self._read(path, module)
        if file is None and hasattr(module, "select_from_hub"):
            problems = module.select_from_hub(problems)
        note = f", {module.note(problems)}" if hasattr(module, "note") else ""
        return problems, f"{file or module.HUB} sha256:{checksum(path)}{note}"

    def _read(self, path: Path, module: ModuleType) -> list[Problem]:
        """Reads a file row by row. Raises BadInput for a double id or a reference that no answer could equal."""
        from evaluate.benchmarks.files import read_rows

        where_of: dict[str, str] = {}
        problems = []
        for index, row in enumerate(read_rows(path)):
            problem: Problem | None = module.read_problem(row, index)
            if problem is None:
                continue
            first = where_of.setdefault(problem.problem_id, row.where)
            if first != row.where:
                key = row.key_of(problem.problem_id, "id")
                must = f"stands there twice, first at {first}; drop one of the two"
                raise BadInput(f"{row.where}: key {key!r}: id {problem.problem_id!r} {must}")
            for reference in [problem.reference] if isinstance(problem.reference, str) else problem.reference:
                if must_be := invalid_reference(self.answer_type, reference, problem.options):
                    key = row.key_of(reference, "answer", "reference")
                    raise BadInput(f"{row.where}: key {key!r}: reference is {reference!r}, must be {must_be}")
            problems.append(problem)
        if not problems:
            raise BadInput(f"{path}: holds no problem that can be asked, must hold at least one")
        return problems


_SPECS = (
    BenchmarkSpec("temporal", Kind.REASONING, AnswerType.OPTION, None, "Apache-2.0", generated=True),
    BenchmarkSpec("logic", Kind.REASONING, AnswerType.LABEL, None, "Apache-2.0", generated=True),
    BenchmarkSpec("arithmetic", Kind.REASONING, AnswerType.INTEGER, None, "Apache-2.0", generated=True),
    BenchmarkSpec("recall", Kind.KNOWLEDGE, AnswerType.SPAN, None, "Apache-2.0", generated=True),
    BenchmarkSpec("temporal_sequences", Kind.REASONING, AnswerType.OPTION, 250, "MIT"),
    BenchmarkSpec("aime", Kind.REASONING, AnswerType.INTEGER, 30, "problems (c) MAA"),
    BenchmarkSpec("folio", Kind.REASONING, AnswerType.LABEL, 203, "CC BY-SA 4.0"),
    BenchmarkSpec("musique", Kind.KNOWLEDGE, AnswerType.SPAN, 100, "CC BY 4.0"),
    BenchmarkSpec("musique_open", Kind.REASONING, AnswerType.SPAN, 100, "CC BY 4.0"),
    BenchmarkSpec("gsm8k", Kind.REASONING, AnswerType.NUMBER, 1319, "MIT"),
    BenchmarkSpec("math_500", Kind.REASONING, AnswerType.EXPRESSION, 500, "MIT"),
)
BENCHMARKS: Mapping[str, BenchmarkSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})


def find_spec(name: str) -> BenchmarkSpec:
    """Returns the benchmark of that name. Raises BadInput with the nearest one."""
    if name not in BENCHMARKS:
        raise BadInput(
            f"benchmark {name!r}: unknown, must be one of {', '.join(BENCHMARKS)}{nearest(name, BENCHMARKS)}"
        )
    return BENCHMARKS[name]


def load_benchmark(
    name: str, *, file: Path | None = None, num_problems: int | None = None, skip_problems: int = 0
) -> Benchmark:
    """Loads the first `num_problems` problems (all, or as many as there are, by default) in the shared order.

    skip_problems: how many of that order are left out first; a run that skips what another took is held out from it.
    file: in its publisher's format; without it the set comes from its generator or from the Hugging Face hub.
    Raises BadInput naming the file, line and key: unreadable, empty, a double id, a reference that cannot be one.
    """
    spec = find_spec(name)
    if num_problems is not None and num_problems < 1:
        raise BadInput(f"benchmark {name!r}: num_problems is {num_problems}, must be at least 1")
    try:
        problems, source = spec.load(file, num_problems and skip_problems + num_problems)
    except ValueError as error:
        raise BadInput(f"benchmark {name!r}: {error}") from None
    ordered = problems if spec.generated else sorted(problems, key=lambda p: _place(name, p.problem_id))
    kept = tuple(ordered[skip_problems:][:num_problems])
    if not kept:
        raise BadInput(f"{source}: holds {len(ordered)} problems, skip_problems is {skip_problems}, must be fewer")
    return Benchmark(name, spec.kind, spec.answer_type, kept, _fingerprint(kept), source, spec.license)


def grade_completion(
    benchmark: str,
    completion: str | None,
    finish_reason: str | None,
    reference: str | Sequence[str],
    options: str | None = None,
    conclusion: str | None = None,
) -> Grade:
    """Grades one completion of the named benchmark, see grading.grade. Raises BadInput for an unknown name."""
    return grade(find_spec(benchmark).answer_type, completion, finish_reason, reference, options, conclusion)


def _place(name: str, problem_id: str) -> bytes:
    """Where a problem stands in the shared order: a function of its name alone, so that subsets are prefixes."""
    return blake2b(f"order/{name}/{problem_id}".encode(), digest_size=16).digest()


def _fingerprint(problems: Sequence[Problem]) -> str:
    content = [[p.problem_id, p.question, p.reference, p.options] for p in problems]
    return blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
