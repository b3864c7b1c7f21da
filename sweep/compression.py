"""Checkpoints: made by an actor that holds the slot's devices and ends before the engine starts.

An actor that is up compresses the trial's own scheme first and then what else the study wants of the same base model
and nobody is making: loading torch and the model is paid once, and the engine then stays warm from trial to trial.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from compress.calibration import Calibration, Conversation, load_calibration
from compress.errors import InputError, SchemesFailedError
from compress.families import linear_shapes
from compress.job import HessianStore
from compress.scheme import CheckpointFormat, Platform, Scheme
from compress.traces import load_traces
from evaluate.benchmarks import BENCHMARKS, Benchmark, load_benchmark
from sweep.config import BenchmarkConfig, CalibrationConfig, ModelConfig, StudyConfig
from sweep.errors import CompressionFailed
from sweep.known_models import find_shapes
from sweep.leases import Slot, TrialProgress
from sweep.serving import end_engine
from sweep.space import TrialConfig, checkpoint_format
from sweep.store import base_fingerprint, checkpoint_folder, is_whole, locked, read_json


@dataclass(frozen=True)
class CompressJob:
    """One checkpoint to make: everything that decides its bytes, and where it goes."""

    model: Path
    out: Path
    scheme: Scheme
    calibration: Calibration | None
    format: CheckpointFormat
    platform: Platform
    hessians: HessianStore | None

    @property
    def lock(self) -> Path:
        return self.out.parent / ".locks" / self.out.name


class CompressActor:
    """Runs in a process of its own with `compress.num_gpus` GPUs."""

    def compress(self, jobs: Sequence[CompressJob], slot: Slot | None = None) -> None:
        """Make the first job's checkpoint, waiting for whoever makes it already; in the same pass over the model, what
        nobody makes of the others. slot: whose trial waits, and says how far this is.

        Raises what compress raises for the first; a failure of another is left to the trial that wants it.
        """
        own, *others = jobs
        with ExitStack() as locks:
            locks.enter_context(locked(own.lock))
            free = [job for job in others if locks.enter_context(locked(job.lock, wait=False))]
            missing = [job for job in (own, *free) if not is_whole(job.out)]
            try:
                _make(missing, slot)
            except SchemesFailedError as error:
                if own.out in error.failures:
                    raise error.failures[own.out] from None
            except InputError:
                if missing == [own]:
                    raise
                _make([own], slot)


def _make(jobs: Sequence[CompressJob], slot: Slot | None) -> None:
    """In one order, whoever asks: a pass that was killed is gone on with by the same request alone."""
    from compress.pipeline import compress_models

    def tell(what: str) -> None:
        if slot is not None:
            slot.report(TrialProgress(phase=what))

    if jobs := sorted(jobs, key=lambda job: job.out):
        compress_models(
            jobs[0].model,
            [job.out for job in jobs],
            [job.scheme for job in jobs],
            next((job.calibration for job in jobs if job.calibration is not None), None),
            formats=[job.format for job in jobs],
            platform=jobs[0].platform,
            hessians=jobs[0].hessians,
            on_progress=lambda done, total: tell(f"compressing {done}/{total} layers"),
            on_step=lambda done, total, loss: tell(f"repairing {done}/{total} steps"),
        )


def make_checkpoint(jobs: Sequence[CompressJob], slot: Slot, study: StudyConfig) -> Path:
    """Return the folder of the first job, compressed now if need be. The actor is gone when this returns.

    The slot's warm engine ends first where its GPUs and the actor's do not fit the slot together. Raises
    CompressionFailed with the cause.
    """
    own, *others = jobs
    if is_whole(own.out):
        return own.out
    slot.report(TrialProgress(phase="compressing"))
    if not fits_beside_engine(study):
        end_engine(slot)
    with _actor(study.compress.num_gpus) as actor:
        try:
            ray.get(actor.compress.remote([own, *_missing(others)], slot))
        except RayTaskError as error:
            raise CompressionFailed(f"{own.scheme.name}: {error.cause}") from error
        except RayActorError as error:
            raise CompressionFailed(f"{own.scheme.name}: the compress actor died: {error}") from error
    return own.out


def compress_ahead(jobs: Sequence[CompressJob], study: StudyConfig) -> None:
    """Have an actor make these checkpoints while the caller goes on.

    Nobody waits: with its handle gone, Ray ends the actor after its work. A trial that wants a checkpoint sooner waits
    for it at its lock, and meets whatever failed.
    """
    if missing := _missing(jobs):
        _start_actor(study.compress.num_gpus).compress.remote(missing)


def _missing(jobs: Sequence[CompressJob]) -> list[CompressJob]:
    return [job for job in jobs if not is_whole(job.out)]


def fits_beside_engine(study: StudyConfig) -> bool:
    """Whether a slot has room for the compress actor while its engine stays warm."""
    return study.compress.num_gpus + study.engine.num_gpus <= study.slots.num_gpus


@contextlib.contextmanager
def _actor(num_gpus: int) -> Iterator[Any]:
    """A compress actor; ended, and its GPUs free, when the block ends."""
    actor = _start_actor(num_gpus)
    try:
        yield actor
    finally:
        ray.kill(actor)


def _start_actor(num_gpus: int) -> Any:
    """A compress actor outside the trial's placement group."""
    options = {
        "num_cpus": 0,
        "num_gpus": num_gpus,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(placement_group=None),  # type: ignore[arg-type]
        "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(os.cpu_count() or 1)}},
    }
    return ray.remote(CompressActor).options(**options).remote()


def compress_jobs(
    study: StudyConfig, config: TrialConfig, siblings: Sequence[TrialConfig], model: Path
) -> list[CompressJob]:
    """The trial's job first, then those of the other trials of the same base model, whose folder is `model`."""
    base = base_fingerprint(study.store, model)
    linear = linear_shapes(find_shapes(config.model) or {})
    budget = study.compress.hessians_gb
    hessians = HessianStore(study.store / "hessians", int(budget * 1e9)) if budget else None
    jobs = []
    for trial in [config, *siblings]:
        if trial.scheme is None or trial.model != config.model:
            continue
        used = calibration_of(study) if trial.scheme.needs_calibration else None
        if trial.scheme.repair is not None:
            _check_traces(Path(trial.scheme.repair.traces), trial.scheme.repair.traces_hash, _asked(study))
        format = checkpoint_format(study, trial.scheme, linear)
        calibration_hash = used.content_hash if used else None
        out = checkpoint_folder(study.store, config.model.name, base, trial.scheme, calibration_hash, format)
        jobs.append(CompressJob(model, out, trial.scheme, used, format, study.platform, hessians))
    return jobs


def fetch_model(model: ModelConfig) -> Path:
    """The base model's folder; one on the Hub is downloaded as far as it is not here. Raises CompressionFailed."""
    if model.path is not None:
        return model.path
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return _snapshot(model, local_files_only=False)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CompressionFailed(f"{model.hub} could not be fetched from the Hub: {error}") from error


def find_model(model: ModelConfig) -> Path | None:
    """The base model's folder where it is whole on this machine; nothing is asked of the Hub."""
    if model.path is not None:
        return model.path
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = _snapshot(model, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    index = read_json(folder / "model.safetensors.index.json") or {"weight_map": {"": "model.safetensors"}}
    return folder if all((folder / name).exists() for name in index["weight_map"].values()) else None


def _snapshot(model: ModelConfig, *, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
    found = snapshot_download(
        str(model.hub), revision=model.revision, allow_patterns=patterns, local_files_only=local_files_only
    )
    return Path(found)


def calibration_of(study: StudyConfig) -> Calibration:
    """The study's calibration: its file, or train-side items of its generated tasks; none of it is asked.

    Raises CompressionFailed where the text holds a question of the study's benchmarks.
    """
    return _calibration(study.calibration, _asked(study), study.seed)


def _asked(study: StudyConfig) -> tuple[BenchmarkConfig, ...]:
    """The study's benchmarks, each with its own number of problems."""
    return tuple(
        benchmark.model_copy(update={"num_problems": benchmark.num_problems or study.num_problems})
        for benchmark in study.benchmarks
    )


@lru_cache(maxsize=16)
def _calibration(config: CalibrationConfig, asked: tuple[BenchmarkConfig, ...], seed: int) -> Calibration:
    settings: dict[str, Any] = {
        "num_samples": config.num_samples,
        "max_seq_length": config.max_seq_length,
        "seed": seed,
        "first_token_weight": config.first_token_weight,
    }
    if config.file is not None:
        calibration = load_calibration(config.file, **settings)
    else:
        tasks = [benchmark.name for benchmark in asked if BENCHMARKS[benchmark.name].generated]
        calibration = Calibration(conversations=_train_side(tasks, config.num_samples, seed), **settings)
    texts = [*calibration.texts, *(message["content"] for talk in calibration.conversations for message in talk)]
    _check_overlap("calibration", texts, asked)
    return calibration


@lru_cache(maxsize=16)
def _check_traces(path: Path, content_hash: str, asked: tuple[BenchmarkConfig, ...]) -> None:
    """Raises CompressionFailed where traces that a repair learns from hold a question of the benchmarks."""
    if path.exists():  # a checkpoint that was repaired on another machine needs none
        _check_overlap(
            f"repair.traces {path}", [text for trace in load_traces(path).items for text in trace.texts], asked
        )


def _check_overlap(what: str, texts: Sequence[str], asked: Sequence[BenchmarkConfig]) -> None:
    for benchmark in asked:
        test = load_benchmark(benchmark.name, file=benchmark.file, num_problems=benchmark.num_problems)
        if both := overlap(texts, test):
            raise CompressionFailed(
                f"{what} holds {len(both)} questions of {test.name}, such as {both[0][:60]!r}; use other text"
            )


def _train_side(tasks: Sequence[str], num_samples: int, seed: int) -> tuple[Conversation, ...]:
    conversations = []
    for task in tasks:
        generate = import_module(f"evaluate.benchmarks.{task}").generate
        for item in generate("train", -(-num_samples // len(tasks)), seed):
            question = {"role": "user", "content": item.problem.question}
            conversations.append((question, {"role": "assistant", "content": item.completion}))
    return tuple(conversations)


def overlap(texts: Sequence[str], test: Benchmark) -> list[str]:
    """The questions of a test set that stand in the texts, whatever their spaces and capitals."""
    everything = "\0".join(map(_folded, texts))
    return [problem.question for problem in test.problems if _folded(problem.question) in everything]


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()
