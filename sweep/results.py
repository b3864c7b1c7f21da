"""What the stores hold of a trial, read back: the checkpoint's facts and every answer. Nothing is measured anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from compress.families import count_parameters
from compress.report import load_report
from compress.size import measured_size, read_header, weight_files
from evaluate.benchmarks import Benchmark, load_benchmark
from evaluate.grading import GRADER_VERSION
from evaluate.regrade import regrade
from evaluate.schema import Answer, Endpoint, Prompting, Sampling
from evaluate.spec import answers_key, make_requests, make_spec, pending_requests
from evaluate.store import place_of, read_answers
from sweep.compression import compress_jobs, find_model
from sweep.config import BenchmarkConfig, StudyConfig
from sweep.space import TrialConfig
from sweep.store import base_fingerprint, file_name, is_whole, read_json

# Engine arguments that change how fast answers come, not what they are.
SPEED_KEYS = frozenset({"max_num_seqs", "kv_cache_memory_bytes", "gpu_memory_utilization", "disable_log_stats"})


@dataclass(frozen=True)
class CheckpointFacts:
    """Sizes of the deployable artifact (`checkpoint_gb`, `effective_bits`) and of the folder served (`served_gb`)."""

    folder: Path
    fingerprint: str
    format: str
    num_parameters: int
    effective_bits: float
    checkpoint_gb: float
    served_gb: float
    size_source: str
    num_fallbacks: int

    @property
    def served_name(self) -> str:
        """The name that requests must give: it moves with the weights."""
        return f"{self.folder.name}@{self.fingerprint[:12]}"


@dataclass(frozen=True)
class Evaluation:
    """All answers of one seed to the study's questions. tokens_per_s: with the queue full, None where unknown."""

    seed: int
    folder: Path
    answers: tuple[Answer, ...]
    tokens_per_s: float | None


@dataclass(frozen=True)
class TrialResult:
    """A complete trial; a baseline has one evaluation a seed."""

    config: TrialConfig
    checkpoint: CheckpointFacts
    evaluations: tuple[Evaluation, ...]

    @property
    def answers(self) -> tuple[Answer, ...]:
        return tuple(answer for evaluation in self.evaluations for answer in evaluation.answers)


def load_result(study: StudyConfig, config: TrialConfig) -> TrialResult | None:
    """The trial's result, None while anything of it is missing."""
    checkpoint = load_checkpoint(study, config)
    if checkpoint is None:
        return None
    evaluations = [load_evaluation(study, checkpoint, seed) for seed in trial_seeds(study, config)]
    whole = tuple(evaluation for evaluation in evaluations if evaluation is not None)
    return TrialResult(config, checkpoint, whole) if len(whole) == len(evaluations) else None


def load_checkpoint(study: StudyConfig, config: TrialConfig) -> CheckpointFacts | None:
    """Facts of a finished checkpoint, or of the base model itself for a baseline; None while it is not made."""
    model = find_model(config.model)
    if model is None:
        return None
    if config.scheme is None:
        return _base_facts(study.store, model)
    folder = compress_jobs(study, config, (), model)[0].out
    report = load_report(folder) if is_whole(folder) else None
    if report is None:
        return None
    return CheckpointFacts(
        folder=folder,
        fingerprint=report.weights_fingerprint,
        format=str(report.format),
        num_parameters=report.num_parameters,
        effective_bits=report.effective_bits,
        checkpoint_gb=report.checkpoint_gb,
        served_gb=report.served_gb,
        size_source=report.size_source,
        num_fallbacks=report.fallbacks.get("dampening_raised", 0),
    )


def load_evaluation(study: StudyConfig, checkpoint: CheckpointFacts, seed: int) -> Evaluation | None:
    """The answers to the study's questions, in the order of the questions; None while one is missing or an error.

    Answers that an older grader has judged are graded anew first: no model is asked again for that.
    """
    folder = answers_folder(study, checkpoint, seed)
    if not folder.exists():
        return None
    if any(answer.grader != GRADER_VERSION for answer in read_answers(folder) if not answer.has_failed()):
        regrade(folder, {benchmark.name: benchmark.file for benchmark in study.benchmarks if benchmark.file})
    spec = evaluation_spec(study, checkpoint, seed)
    requests = list(make_requests(load_benchmarks(study), sampling_of(study, seed), spec))
    if pending_requests(requests, folder):
        return None
    by_place = {place_of(answer): answer for answer in read_answers(folder)}
    throughput = read_json(folder / "throughput.json") or {}
    answers = tuple(by_place[request.place] for request in requests)
    return Evaluation(seed, folder, answers, throughput.get("tokens_per_s"))


def trial_seeds(study: StudyConfig, config: TrialConfig) -> Sequence[int]:
    """A baseline is evaluated once for each of its seeds, to know the noise; other trials once."""
    return study.baseline_seeds if config.scheme is None else (study.seed,)


def answers_folder(study: StudyConfig, checkpoint: CheckpointFacts, seed: int) -> Path:
    """Keyed by all that decides the answers but the number of questions, which may grow."""
    name = checkpoint.folder.name.rsplit(".", 1)[0] if "." in checkpoint.folder.name else checkpoint.folder.name
    key = answers_key(load_benchmarks(study), evaluation_spec(study, checkpoint, seed))
    return study.store / "answers" / f"{file_name(name)}.seed{seed}.{key}"


def evaluation_spec(study: StudyConfig, checkpoint: CheckpointFacts, seed: int) -> dict[str, Any]:
    """What one evaluation of a checkpoint is, as its folder records it."""
    endpoint = Endpoint(url="", model=checkpoint.served_name)
    settings = evaluation_settings(study, checkpoint)
    return make_spec(endpoint, load_benchmarks(study), sampling_of(study, seed), Prompting.CHAT, settings)


def evaluation_settings(study: StudyConfig, checkpoint: CheckpointFacts) -> dict[str, object]:
    """What besides question and sampling decides an answer."""
    engine = {key: value for key, value in study.engine.engine_kwargs.items() if key not in SPEED_KEYS}
    return {"weights": checkpoint.fingerprint, "engine_kwargs": engine}


def sampling_of(study: StudyConfig, seed: int) -> Sampling:
    return Sampling(seed=seed, **study.sampling.model_dump())


def load_benchmarks(study: StudyConfig) -> list[Benchmark]:
    """The study's benchmarks with as many problems as it asks for."""
    return [_load_benchmark(benchmark, study.num_problems) for benchmark in study.benchmarks]


@lru_cache(maxsize=64)
def _load_benchmark(benchmark: BenchmarkConfig, num_problems: int | None) -> Benchmark:
    return load_benchmark(benchmark.name, file=benchmark.file, num_problems=benchmark.num_problems or num_problems)


def _base_facts(store: Path, folder: Path) -> CheckpointFacts:
    headers = [entry for path in weight_files(folder) for entry in read_header(path).items()]
    size = measured_size(folder, count_parameters({name: shape for name, (_, shape) in headers}))
    return CheckpointFacts(
        folder=folder,
        fingerprint=base_fingerprint(store, folder),
        format="base",
        num_parameters=size.num_parameters,
        effective_bits=size.effective_bits,
        checkpoint_gb=size.checkpoint_gb,
        served_gb=size.checkpoint_gb,
        size_source=size.source,
        num_fallbacks=0,
    )
