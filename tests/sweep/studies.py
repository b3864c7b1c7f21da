"""Small real studies: random weights, checkpoints made by compress, answers graded and written by evaluate."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.families import shapes_from_config
from evaluate.benchmarks import Benchmark
from evaluate.grading import GRADER_VERSION
from evaluate.schema import Answer, Endpoint, Outcome, Problem, Prompting
from evaluate.spec import make_requests, make_spec, pending_requests
from evaluate.store import AnswerStore
from sweep.compression import CompressActor, compress_jobs, fetch_model
from sweep.config import StudyConfig
from sweep.results import (
    TrialResult,
    answers_folder,
    evaluation_settings,
    load_benchmarks,
    load_checkpoint,
    load_result,
    sampling_of,
    trial_seeds,
)
from sweep.space import TrialConfig, baselines, grid

NUM_PROBLEMS = 8
BLOCKS: list[dict[str, Any]] = [
    {"method": "rtn", "num_bits": [8, 4, 2], "group_size": 64},
    {"method": "magnitude", "sparsity": [0.5, "2:4"]},
]


@dataclass(frozen=True)
class Reply:
    """What a model said to one question; the text is graded by the benchmark itself."""

    text: str
    finish_reason: str = "stop"
    tokens: int = 100


Respond = Callable[[Benchmark, Problem, int, int], Reply]  # benchmark, problem, its place, seed


def make_study(**changes: Any) -> StudyConfig:
    """A study of models/alpha and models/beta below the current folder that needs no calibration."""
    keys: dict[str, Any] = {
        "study": "small",
        "models": [{"path": "models/alpha"}, {"path": "models/beta"}],
        "space": BLOCKS,
        "benchmarks": [{"name": "temporal"}, {"name": "arithmetic"}, {"name": "recall"}],
        "num_problems": NUM_PROBLEMS,
        "sampling": {"max_tokens": 256},
    }
    return StudyConfig.model_validate(keys | changes)


def find(study: StudyConfig, name: str) -> TrialConfig:
    return next(trial for trial in [*baselines(study), *grid(study)] if trial.name == name)


def save_weights(folder: Path, seed: int = 0) -> None:
    """Random 16-bit weights of the shapes that the folder's config.json promises."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    shapes = shapes_from_config(json.loads((folder / "config.json").read_text()))
    tensors = {name: torch.randn(*shape, generator=generator).bfloat16() for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def store_checkpoint(study: StudyConfig, trial: TrialConfig) -> None:
    """Compress as the actor does, in this process."""
    if trial.scheme is not None:
        CompressActor().compress(compress_jobs(study, trial, (), fetch_model(trial.model)))


def knows(correct: int | Mapping[str, int], *, tokens: int = 100, cut: int = 0) -> Respond:
    """A model that answers the first `correct` questions of each benchmark, and is cut off at the last `cut`."""

    def respond(benchmark: Benchmark, problem: Problem, place: int, seed: int) -> Reply:
        known = correct if isinstance(correct, int) else correct[benchmark.name]
        if place >= len(benchmark.problems) - cut:
            return Reply("<think>\nso", "length", tokens)
        return Reply(right_text(benchmark, problem) if place < known else "<think>\nhm\n</think>\n", "stop", tokens)

    return respond


def right_text(benchmark: Benchmark, problem: Problem) -> str:
    reference = problem.reference if isinstance(problem.reference, str) else problem.reference[0]
    answer = f"\\boxed{{{reference}}}" if benchmark.name == "arithmetic" else reference
    return f"<think>\nas it should be\n</think>\n{answer}"


def store_answers(
    study: StudyConfig, trial: TrialConfig, respond: Respond, *, limit: int | None = None, backwards: bool = False
) -> None:
    """Write the answers that are missing, as a run would: to all questions, or to the first `limit` of each seed."""
    checkpoint = load_checkpoint(study, trial)
    assert checkpoint is not None
    endpoint = Endpoint("http://127.0.0.1:1/v1", checkpoint.served_name)
    benchmarks = load_benchmarks(study)
    places = {(b.name, problem.problem_id): i for b in benchmarks for i, problem in enumerate(b.problems)}
    for seed in trial_seeds(study, trial):
        sampling = sampling_of(study, seed)
        spec = make_spec(endpoint, benchmarks, sampling, Prompting.CHAT, evaluation_settings(study, checkpoint))
        folder = answers_folder(study, checkpoint, seed)
        requests = pending_requests(list(make_requests(benchmarks, sampling, spec))[:limit], folder)
        with AnswerStore(folder, spec) as store:
            for request in reversed(requests) if backwards else requests:
                place = places[request.benchmark.name, request.problem.problem_id]
                store.append(graded(request, respond(request.benchmark, request.problem, place, seed)))


def graded(request: Any, reply: Reply) -> Answer:
    """One line of answers.jsonl; a reply that finished with "error" is a fault of the endpoint."""
    failed = reply.finish_reason == "error"
    grade = None if failed else request.benchmark.grade(reply.text, reply.finish_reason, request.problem)
    return Answer(
        benchmark=request.benchmark.name,
        problem_id=request.problem.problem_id,
        sample=request.sample,
        completion=None if failed else reply.text,
        reasoning=None,
        finish_reason=None if failed else reply.finish_reason,
        outcome=grade.outcome if grade else Outcome.ERROR,
        answer=grade.answer if grade else None,
        rule=grade.rule if grade else "request_failed",
        completion_tokens=None if failed else reply.tokens,
        think_tokens=None,
        prompt_tokens=None if failed else 20,
        error=reply.text if failed else None,
        seed=request.seed,
        latency_s=0.5,
        f1=grade.f1 if grade else None,
        key=request.key,
        grader=GRADER_VERSION,
    )


def store_trial(study: StudyConfig, name: str, respond: Respond) -> TrialResult:
    """A complete trial: its checkpoint and every answer."""
    trial = find(study, name)
    store_checkpoint(study, trial)
    store_answers(study, trial, respond)
    result = load_result(study, trial)
    assert result is not None
    return result
