"""Start here: ask a served model every question of some benchmarks, grade, keep, summarize.

benchmarks -> requests (problem x sample, each with its seed and key)
    -> what the folder already holds is left out            store
    -> a pool of workers asks the endpoint                  client
    -> each reply is graded and written as one line         grading, store
    -> summary.json                                         metrics
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluate.answer_types import SYMBOLIC
from evaluate.benchmarks import Benchmark
from evaluate.grading import GRADER_VERSION
from evaluate.metrics import BenchmarkSummary, summarize
from evaluate.replies import Reply
from evaluate.schema import DEFAULT_STALL_TIMEOUT_S, Answer, Endpoint, Kind, Outcome, Problem, Prompting, Sampling
from evaluate.spec import NO_SETTINGS, Request, make_requests, make_spec, pending_requests
from evaluate.store import SUMMARY, AnswerStore, check_spec, place_of, read_answers, write_json

if TYPE_CHECKING:
    from evaluate.client import Client, RetryPolicy
    from evaluate.rendering import Renderer


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
    renderer: "Renderer | None" = None,
    max_model_len: int | None = None,
) -> RunSummary:
    """Asks what `output` does not hold yet, then summarizes; all benchmarks share one pool of `concurrency` workers.

    settings: whatever else determines the answers (weights, engine arguments), JSON values; part of the spec.
    renderer: of the model's tokenizer; prompts are then sent as token ids, and max_tokens is cut to the room left in
    `max_model_len` tokens, by default what the server says of its model.
    on_answer: called with each new answer once it is on disk.
    Raises BadInput (the folder holds answers to something else), EndpointUnavailable, ModelNotServed.
    """
    spec = make_spec(endpoint, benchmarks, sampling, prompting, settings, renderer)
    requests = list(make_requests(benchmarks, sampling, spec, renderer))
    check_spec(output, spec)
    if pending_requests(requests, output, again=Answer.is_to_be_asked_again):
        from evaluate.client import Client  # aiohttp takes a third of a second to import

        async with Client(
            endpoint, sampling, prompting, concurrency=concurrency, retry=retry, stall_timeout_s=stall_timeout_s
        ) as client:
            served_model_len = await client.check_model()
            asker = _asker(client, sampling, renderer, max_model_len or served_model_len)
            with AnswerStore(output, spec) as store:
                pending = pending_requests(requests, output, again=Answer.is_to_be_asked_again)
                await _ask_all(asker, pending, concurrency, _recorder(store, on_answer))
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


def summarize_run(
    model: str, benchmarks: Sequence[Benchmark], requests: Sequence[Request], answers: Sequence[Answer]
) -> RunSummary:
    """Summarizes the answers to these requests; others in the folder, of a wider run, are left aside."""
    by_place = {place_of(a): a for a in answers}
    return summarize_answers(model, benchmarks, [by_place[r.place] for r in requests])


def summarize_answers(model: str, benchmarks: Sequence[Benchmark], asked: Sequence[Answer]) -> RunSummary:
    """Summarizes answers to these benchmarks, all of them."""
    parts = tuple(summarize([a for a in asked if a.benchmark == b.name], b.kind) for b in benchmarks)
    reasoning = [p.accuracy for p in parts if p.kind is Kind.REASONING and p.accuracy is not None]
    return RunSummary(
        model=model,
        accuracy=sum(reasoning) / len(reasoning) if reasoning else None,
        num_errors=sum(p.outcomes[Outcome.ERROR] for p in parts),
        benchmarks=parts,
    )


def _asker(
    client: "Client", sampling: Sampling, renderer: "Renderer | None", max_model_len: int | None
) -> Callable[[Request], Awaitable[Reply]]:
    """Asks one request, with no more tokens than there is room for where that is known."""

    async def ask(request: Request) -> Reply:
        prompt = request.prompt
        if renderer is None or isinstance(prompt, str):
            return await client.complete(prompt, request.seed)
        room = sampling.max_tokens if max_model_len is None else max_model_len - len(prompt)
        if room < 1:
            return Reply(error=f"the prompt's {len(prompt)} tokens leave no room in a context of {max_model_len}")
        return renderer.count(await client.complete(prompt, request.seed, min(sampling.max_tokens, room)), prompt)

    return ask


async def _ask_all(
    ask: Callable[[Request], Awaitable[Reply]],
    pending: Sequence[Request],
    concurrency: int,
    record: Callable[[Answer], None],
) -> None:
    """Works the requests off with a bounded pool; the first exception stops all workers."""
    queue = iter(pending)

    async def work() -> None:
        for request in queue:
            reply = await ask(request)
            is_quick = request.benchmark.answer_type not in SYMBOLIC
            record(_answer(request, reply) if is_quick else await asyncio.to_thread(_answer, request, reply))

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
    answer = Answer(
        benchmark=request.benchmark.name,
        problem_id=request.problem.problem_id,
        sample=request.sample,
        completion=reply.completion,
        reasoning=reply.reasoning,
        finish_reason=reply.finish_reason,
        outcome=Outcome.ERROR,
        answer=None,
        rule="request_failed",
        completion_tokens=reply.completion_tokens,
        think_tokens=reply.think_tokens,
        prompt_tokens=reply.prompt_tokens,
        error=reply.error,
        seed=request.seed,
        latency_s=round(reply.latency_s, 3),
        key=request.key,
        max_tokens=reply.max_tokens,
    )
    return graded(answer, request.benchmark, request.problem)


def graded(answer: Answer, benchmark: Benchmark, problem: Problem) -> Answer:
    """Returns the answer with this version's verdict in place of whatever it held; a failed request has none.

    A thought that the server split off stands before the text again, as the graders know it: with nothing after it the
    text is empty, not missing.
    """
    answer = replace(answer, grader=GRADER_VERSION, cluster=problem.cluster, group=problem.group)
    if answer.error is not None:
        return answer
    completion = f"{answer.reasoning}</think>{answer.completion or ''}" if answer.reasoning else answer.completion
    verdict = benchmark.grade(completion, answer.finish_reason, problem)
    return replace(answer, **vars(verdict))
