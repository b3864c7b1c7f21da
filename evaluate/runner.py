"""Start here: ask a served model every question of some benchmarks, grade, keep, summarize.

benchmarks -> requests (problem x sample, each with its seed and key)
    -> what the folder already holds is left out            store
    -> a pool of workers asks the endpoint                  client
    -> each reply is graded and written as one line         grading, store
    -> summary.json                                         metrics
"""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluate.benchmarks import Benchmark
from evaluate.grading import GRADER_VERSION
from evaluate.metrics import BenchmarkSummary, summarize
from evaluate.prompting import make_prompt
from evaluate.replies import Reply
from evaluate.schema import (
    DEFAULT_STALL_TIMEOUT_S,
    Answer,
    Endpoint,
    Grade,
    Kind,
    Outcome,
    Problem,
    Prompt,
    Prompting,
    Sampling,
)
from evaluate.store import SUMMARY, AnswerStore, Place, check_answers, check_spec, place_of, read_answers, write_json

if TYPE_CHECKING:
    from evaluate.client import Client, RetryPolicy

NO_SETTINGS: Mapping[str, object] = {}
REQUEST_VERSION = "1"  # raised whenever the same spec and problem would be asked otherwise


@dataclass(frozen=True)
class RunSummary:
    """The numbers of one folder. accuracy: mean over its reasoning benchmarks, knowledge apart, as the study does."""

    model: str
    accuracy: float | None
    num_errors: int
    benchmarks: tuple[BenchmarkSummary, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns what summary.json holds; benchmarks by name."""
        return {**asdict(self), "benchmarks": {b.name: asdict(b) for b in self.benchmarks}}


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


async def run_benchmarks(
    endpoint: Endpoint,
    benchmarks: Sequence[Benchmark],
    sampling: Sampling,
    output: Path,
    *,
    prompting: Prompting = Prompting.CHAT,
    concurrency: int = 64,
    on_answer: Callable[[Answer], None] | None = None,
    settings: Mapping[str, object] = NO_SETTINGS,
    retry: "RetryPolicy | None" = None,
    stall_timeout_s: float = DEFAULT_STALL_TIMEOUT_S,
) -> RunSummary:
    """Asks what `output` does not hold yet, then summarizes; all benchmarks share one pool of `concurrency` workers.

    settings: whatever else determines the answers (weights, engine arguments), JSON values; part of the spec.
    on_answer: called with each new answer once it is on disk.
    Raises BadInput (the folder holds answers to something else), EndpointUnavailable, ModelNotServed.
    """
    spec = make_spec(endpoint, benchmarks, sampling, prompting, settings)
    requests = list(make_requests(benchmarks, sampling, spec))
    check_spec(output, spec)
    if pending_requests(requests, output, again=Answer.is_to_be_asked_again):
        from evaluate.client import Client  # aiohttp takes a third of a second to import

        async with Client(
            endpoint, sampling, prompting, concurrency=concurrency, retry=retry, stall_timeout_s=stall_timeout_s
        ) as client:
            await client.check_model()
            with AnswerStore(output, spec) as store:
                pending = pending_requests(requests, output, again=Answer.is_to_be_asked_again)
                await _ask_all(client, pending, concurrency, _recorder(store, on_answer))
    summary = summarize_run(endpoint.model, benchmarks, requests, read_answers(output))
    write_json(output / SUMMARY, summary.to_json())
    return summary


async def run_benchmark(
    endpoint: Endpoint,
    benchmark: Benchmark,
    sampling: Sampling,
    output: Path,
    *,
    concurrency: int = 64,
    on_answer: Callable[[Answer], None] | None = None,
    settings: Mapping[str, object] = NO_SETTINGS,
) -> BenchmarkSummary:
    """Runs one benchmark; see run_benchmarks."""
    summary = await run_benchmarks(
        endpoint, [benchmark], sampling, output, concurrency=concurrency, on_answer=on_answer, settings=settings
    )
    return summary.benchmarks[0]


def make_spec(
    endpoint: Endpoint,
    benchmarks: Sequence[Benchmark],
    sampling: Sampling,
    prompting: Prompting,
    settings: Mapping[str, object],
) -> dict[str, Any]:
    """Returns what determines the answers of a folder; the endpoint's URL does not, nor does the concurrency."""
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
        "benchmarks": described,
    }


def make_requests(benchmarks: Sequence[Benchmark], sampling: Sampling, spec: Mapping[str, Any]) -> Iterator[Request]:
    """Yields one request per benchmark, problem and sample; the same arguments give the same seeds and keys."""
    shared = _shared(spec)
    for benchmark in benchmarks:
        for problem in benchmark.problems:
            prompt = make_prompt(Prompting(spec["prompting"]), benchmark.name, problem)
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


def summarize_run(
    model: str, benchmarks: Sequence[Benchmark], requests: Sequence[Request], answers: Sequence[Answer]
) -> RunSummary:
    """Summarizes the answers to these requests; others in the folder, of a wider run, are left aside."""
    by_place = {place_of(a): a for a in answers}
    asked = [by_place[r.place] for r in requests]
    parts = tuple(summarize([a for a in asked if a.benchmark == b.name], b.kind) for b in benchmarks)
    reasoning = [p.accuracy for p in parts if p.kind is Kind.REASONING and p.accuracy is not None]
    return RunSummary(
        model=model,
        accuracy=sum(reasoning) / len(reasoning) if reasoning else None,
        num_errors=sum(p.outcomes[Outcome.ERROR] for p in parts),
        benchmarks=parts,
    )


async def _ask_all(
    client: "Client", pending: Sequence[Request], concurrency: int, record: Callable[[Answer], None]
) -> None:
    """Works the requests off with a bounded pool; the first exception stops all workers."""
    queue = iter(pending)

    async def work() -> None:
        for request in queue:
            reply = await client.complete(request.prompt, request.seed)
            record(_answer(request, reply))

    workers = [asyncio.create_task(work()) for _ in range(min(concurrency, len(pending)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _recorder(store: AnswerStore, on_answer: Callable[[Answer], None] | None) -> Callable[[Answer], None]:
    def record(answer: Answer) -> None:
        store.append(answer)
        if on_answer is not None:
            on_answer(answer)

    return record


def _answer(request: Request, reply: Reply) -> Answer:
    """Grades a reply. A thought that ended by itself with nothing after it is an empty text, no missing one."""
    completion = "" if reply.completion is None and reply.reasoning and reply.error is None else reply.completion
    if reply.error is None:
        grade = request.benchmark.grade(completion, reply.finish_reason, request.problem)
    else:
        grade = Grade(Outcome.ERROR, None, "request_failed")
    return Answer(
        benchmark=request.benchmark.name,
        problem_id=request.problem.problem_id,
        sample=request.sample,
        completion=reply.completion,
        reasoning=reply.reasoning,
        finish_reason=reply.finish_reason,
        outcome=grade.outcome,
        answer=grade.answer,
        rule=grade.rule,
        completion_tokens=reply.completion_tokens,
        think_tokens=reply.think_tokens,
        prompt_tokens=reply.prompt_tokens,
        error=reply.error,
        seed=request.seed,
        latency_s=round(reply.latency_s, 3),
        f1=grade.f1,
        key=request.key,
        max_tokens=reply.max_tokens,
        grader=GRADER_VERSION,
        cluster=request.problem.cluster,
        tail_f1=grade.tail_f1,
        lenient=grade.lenient,
        lenient_rule=grade.lenient_rule,
    )


def _shared(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What of a spec holds for all benchmarks."""
    return {name: value for name, value in spec.items() if name != "benchmarks"}


def _hash(content: object) -> int:
    """A stable 64-bit hash of a JSON value."""
    return int.from_bytes(blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).digest(), "big")
