"""Own traces: a model's own answers to train-side prompts, as the text that its compression is calibrated on.

    prompts (train side, none of them asked by a study) -> served model -> traces.jsonl, one {"messages": [...]} a line

What a reasoner will see at inference is mostly what it wrote itself; general text has none of it ("reasoning-aware
calibration"). compress reads the file as any other: `compress run --calibration`, `calibration.file` in a study.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from compress.errors import InputError
from evaluate.benchmarks import Benchmark, find_spec, load_benchmark
from evaluate.progress import Progress
from evaluate.runner import run_benchmarks
from evaluate.schema import Answer, Endpoint, Outcome, Sampling
from evaluate.store import read_answers
from sweep.compression import overlap

KEPT = frozenset(Outcome) - {Outcome.ERROR}  # a wrong or cut answer is a trace too, a failed request is none
POOL = "sweep-traces"
NUM_TEST_PROBLEMS = 1000  # of a generated task, whose test side has no end


@dataclass(frozen=True)
class TracesReport:
    """What a file of traces holds. num_truncated: cut at max_tokens, kept all the same; num_correct: by the grader."""

    num_traces: int
    num_correct: int
    num_truncated: int
    num_left_out: int
    num_tokens: int


def train_prompts(names: Sequence[str], num_samples: int, seed: int) -> list[Benchmark]:
    """`num_samples` train-side prompts, spread over the sources: NAME is a generated task, NAME=FILE a train file.

    Raises BadInput for an unknown name or file, InputError for a real benchmark without a file: its published set is
    what studies ask.
    """
    share = -(-num_samples // len(names))
    found = []
    for argument in names:
        name, _, file = argument.partition("=")
        if file:
            found.append(load_benchmark(name, file=Path(file), num_problems=share))
            continue
        if not find_spec(name).generated:
            raise InputError("--benchmark", name, f"{name}=FILE, a file of train-side problems: {name} is a test set")
        base = load_benchmark(name, num_problems=1)
        items = import_module(f"evaluate.benchmarks.{name}").generate("train", share, seed)
        problems = tuple(item.problem for item in items)
        found.append(replace(base, problems=problems, source=f"{base.source} train seed {seed}"))
    return found


def check_overlap(prompts: Sequence[Benchmark], tests: Sequence[Benchmark]) -> None:
    """Raise InputError where a prompt is a question of a test set, whatever its spaces and capitals."""
    for source in prompts:
        for test in tests:
            if both := overlap([problem.question for problem in source.problems], test):
                must = f"prompts that {test.name} does not ask; {len(both)} are among its questions: {both[0][:60]!r}"
                raise InputError("--benchmark", source.source, must)


def make_traces(
    endpoint: Endpoint,
    prompts: Sequence[Benchmark],
    sampling: Sampling,
    output: Path,
    *,
    concurrency: int = 64,
    correct_only: bool = False,
    on_answer: Callable[[Answer], None] | None = None,
) -> TracesReport:
    """Ask the served model and write `output`; the raw answers stay in OUTPUT.answers, from where a new run goes on.

    correct_only: leave out what the grader did not take for right. Raises EvaluateError where the server cannot be
    asked, InputError where nothing is left to write.
    """
    folder = output.with_name(output.name + ".answers")
    running = run_benchmarks(endpoint, prompts, sampling, folder, concurrency=concurrency, on_answer=on_answer)
    asyncio.run(running)
    questions = {(source.name, p.problem_id): p.question for source in prompts for p in source.problems}
    answers = [answer for answer in read_answers(folder) if (answer.benchmark, answer.problem_id) in questions]
    kept = [answer for answer in answers if answer.outcome in ({Outcome.CORRECT} if correct_only else KEPT)]
    lines = [_line(questions[answer.benchmark, answer.problem_id], answer) for answer in sorted(kept, key=_place)]
    if not lines:
        raise InputError("traces", f"{len(answers)} answers, none kept", "at least one; without --correct-only?")
    temporary = output.with_name(f".{output.name}.tmp")
    temporary.write_text("".join(lines), encoding="utf-8")
    temporary.replace(output)
    return TracesReport(
        num_traces=len(kept),
        num_correct=sum(answer.outcome is Outcome.CORRECT for answer in kept),
        num_truncated=sum(answer.outcome is Outcome.TRUNCATED for answer in kept),
        num_left_out=len(answers) - len(kept),
        num_tokens=sum(answer.completion_tokens or 0 for answer in kept),
    )


def print_traces(
    model: str,
    output: Path,
    names: Sequence[str],
    against: Sequence[str],
    endpoint: str | None,
    num_samples: int,
    sampling: Mapping[str, Any],
    num_gpus: int,
    *,
    as_json: bool,
    **options: Any,
) -> int:
    """The CLI's `traces`: everything that can be refused first, then an engine where none is given."""
    if output.suffix != ".jsonl":
        raise InputError("OUT.jsonl", output, "a file name that ends in .jsonl")
    prompts = train_prompts(names, num_samples, sampling["seed"])
    check_overlap(prompts, [_test_set(name) for name in [*against, *(name for name in names if "=" not in name)]])
    if endpoint is None and not (Path(model) / "config.json").is_file():
        raise InputError("MODEL", model, "a model's folder with config.json, or with --endpoint a served model's name")
    with ExitStack() as stack:
        if endpoint is None:
            log_folder = output.absolute().with_name(output.name + ".logs")
            reached = stack.enter_context(_served(Path(model), log_folder, num_gpus))
        else:
            reached = Endpoint(endpoint, model)
        total = sum(len(source.problems) for source in prompts)
        heads = [f"{source.name}: {len(source.problems)} prompts, {source.source}" for source in prompts]
        progress = stack.enter_context(Progress(total, sys.stderr, heads))
        report = make_traces(reached, prompts, Sampling(**sampling), output, on_answer=progress.count, **options)
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        print(
            f"{output}: {report.num_traces} traces, {report.num_tokens:,} tokens; {report.num_correct} right, "
            f"{report.num_truncated} cut at max_tokens; {report.num_left_out} answers left out"
        )
    return 0


def _test_set(argument: str) -> Benchmark:
    """What a study asks of NAME, or the problems of NAME=FILE."""
    name, _, file = argument.partition("=")
    num_problems = NUM_TEST_PROBLEMS if not file and find_spec(name).generated else None
    return load_benchmark(name, file=Path(file) if file else None, num_problems=num_problems)


@contextmanager
def _served(model: Path, log_folder: Path, num_gpus: float) -> Iterator[Endpoint]:
    """The model in Ray Serve and vLLM on this machine, ended with the block. Raises EngineFailed."""
    import ray

    from compress.checkpoint import weights_fingerprint
    from sweep.cluster import start_cluster
    from sweep.leases import lease, start_pool
    from sweep.replica import ServedCheckpoint
    from sweep.serving import EngineSettings, end_engine, serve_checkpoint

    fingerprint = weights_fingerprint(model)
    checkpoint = ServedCheckpoint(model, f"{model.name}@{fingerprint[:12]}", fingerprint)
    with ExitStack() as stack:
        cluster = stack.enter_context(start_cluster(None, 1))
        stack.callback(ray.kill, start_pool(POOL, 1))  # a pool lives as long as somebody holds its handle
        slot = stack.enter_context(lease(POOL, "traces", model.name))
        settings = EngineSettings(
            num_gpus=num_gpus,
            num_cpus=os.cpu_count() or 1,
            start_timeout_s=600,
            engine_kwargs={} if num_gpus else {"enforce_eager": True, "kv_cache_memory_bytes": 2**30},
            host=cluster.engine_host,
            log_folder=log_folder,
            owner=POOL,
        )
        stack.callback(end_engine, slot)
        yield stack.enter_context(serve_checkpoint(checkpoint, slot, settings))


def _line(question: str, answer: Answer) -> str:
    """One conversation, the reply as the model wrote it: thinking that a server split off is put back. A reply that was
    cut says so, lest a student of the traces learns to stop there.
    """
    reply = answer.completion or ""
    if answer.reasoning:
        reply = f"<think>\n{answer.reasoning.strip()}\n</think>\n{reply}"
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    line = {"messages": messages, "finish_reason": answer.finish_reason}
    return json.dumps(line, ensure_ascii=False) + "\n"


def _place(answer: Answer) -> bytes:
    """Sources mixed, in an order that does not depend on which answer came first."""
    return hashlib.blake2b(f"{answer.benchmark}/{answer.problem_id}".encode(), digest_size=8).digest()
