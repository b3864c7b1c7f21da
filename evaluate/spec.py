"""What is asked, and what tells it apart: the spec of a folder, its requests with their seeds and keys.

spec      model, prompting, sampling, settings (and the tokenizer): what all answers of a folder share
request   benchmark, problem, sample -> prompt, seed, key
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluate.benchmarks import Benchmark
from evaluate.grading import GRADER_VERSION
from evaluate.prompting import make_prompt
from evaluate.schema import Answer, Endpoint, Problem, Prompt, Prompting, Sampling
from evaluate.store import Place, check_answers, place_of, read_answers

if TYPE_CHECKING:
    from evaluate.rendering import Renderer

NO_SETTINGS: Mapping[str, object] = {}
REQUEST_VERSION = "1"  # raised whenever the same spec and problem would be asked otherwise


@dataclass(frozen=True)
class Request:
    """One question to be asked once. seed: its own, a hash of the run's seed and its place; key: see Answer."""

    benchmark: Benchmark
    problem: Problem
    prompt: Prompt
    sample: int
    seed: int
    key: str

    @property
    def place(self) -> Place:
        return self.benchmark.name, self.problem.problem_id, self.sample


def make_spec(
    endpoint: Endpoint,
    benchmarks: Sequence[Benchmark],
    sampling: Sampling,
    prompting: Prompting,
    settings: Mapping[str, object],
    renderer: "Renderer | None" = None,
) -> dict[str, Any]:
    """Returns what determines the answers of a folder; the endpoint's URL does not, nor does the concurrency."""
    tokenizer = {"tokenizer": renderer.fingerprint} if renderer else {}
    described = {
        b.name: {
            "grader": GRADER_VERSION,
            "fingerprint": b.fingerprint,
            "num_problems": len(b.problems),
            "source": b.source,
            "license": b.license,
        }
        for b in benchmarks
    }
    return {
        "model": endpoint.model,
        "prompting": prompting.value,
        "sampling": asdict(sampling),
        "settings": dict(settings),
        **tokenizer,
        "benchmarks": described,
    }


def make_requests(
    benchmarks: Sequence[Benchmark],
    sampling: Sampling,
    spec: Mapping[str, Any],
    renderer: "Renderer | None" = None,
) -> Iterator[Request]:
    """Yields one request per benchmark, problem and sample; the same arguments give the same seeds and keys."""
    shared, prompting = _shared(spec), Prompting(spec["prompting"])
    for benchmark in benchmarks:
        for problem in benchmark.problems:
            text = make_prompt(prompting, benchmark.name, problem)
            prompt = renderer.render(prompting, text) if renderer else text
            for sample in range(sampling.num_completions):
                seed = _hash([sampling.seed, benchmark.name, problem.problem_id, sample]) % 2**31
                content = [shared, REQUEST_VERSION, prompt, problem.reference, problem.options, seed]
                yield Request(benchmark, problem, prompt, sample, seed, f"{_hash(content):016x}")


def answers_key(benchmarks: Sequence[Benchmark], spec: Mapping[str, Any]) -> str:
    """Returns the name of a folder that every run with these answers in common may share, 16 hexadecimal digits.

    It stands for model, prompting, sampling, settings and, per benchmark, the file's checksum (or the generator's
    version) and the way it is asked; not for how many of its problems are taken, so a folder can be widened.
    """
    prompting = Prompting(spec["prompting"])
    asked = {
        b.name: [b.source.rpartition("sha256:")[2], make_prompt(prompting, b.name, b.problems[0])] for b in benchmarks
    }
    return f"{_hash([_shared(spec), REQUEST_VERSION, asked]):016x}"


def pending_requests(
    requests: Sequence[Request], output: Path, *, again: Callable[[Answer], bool] = Answer.has_failed
) -> list[Request]:
    """Returns the requests that `output` holds no answer to, or one that is to be asked `again`: a failed one, or
    for a run that asks anyway an empty one too. Raises BadInput for answers to other requests or of other graders.
    """
    answers = read_answers(output)
    check_answers(output, answers, {r.place: r.key for r in requests}, GRADER_VERSION)
    finished = {place_of(a) for a in answers if not again(a)}
    return [r for r in requests if r.place not in finished]


def _shared(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What of a spec holds for all benchmarks."""
    return {name: value for name, value in spec.items() if name != "benchmarks"}


def _hash(content: object) -> int:
    """A stable 64-bit hash of a JSON value."""
    return int.from_bytes(blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).digest(), "big")
