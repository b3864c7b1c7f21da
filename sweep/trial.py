"""Start here: one trial, from a base model and a scheme to scores.

    stored already? -> take a slot -> checkpoint (compress actor) -> engine (Ray Serve, vLLM) -> answers -> TrialResult

Everything a trial leaves is in the stores, so a trial that runs again finds what it had and does the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import dataclass

from evaluate.errors import EvaluateError
from evaluate.runner import run_benchmarks
from evaluate.schema import Answer, Endpoint, Outcome
from evaluate.store import read_answers
from evaluate.throughput import Throughput, ThroughputMeter
from sweep.compression import compress_ahead, compress_jobs, fetch_model, fits_beside_engine, make_checkpoint
from sweep.config import StudyConfig
from sweep.errors import CompressionFailed, EngineFailed, EvaluationFailed, TrialError
from sweep.leases import Slot, TrialProgress, lease
from sweep.replica import ServedCheckpoint
from sweep.results import (
    CheckpointFacts,
    TrialResult,
    answers_folder,
    evaluation_settings,
    load_benchmarks,
    load_checkpoint,
    load_result,
    sampling_of,
    trial_seeds,
)
from sweep.serving import EngineSettings, engine_fault, log_path, serve_checkpoint
from sweep.space import TrialConfig
from sweep.store import StudyFolder, file_name, locked, write_json

REPORT_EVERY_S = 0.5


@dataclass(frozen=True)
class StudyContext:
    """What every trial of a launch shares. `siblings` may be compressed along with a trial of the same base model."""

    study: StudyConfig
    folder: StudyFolder
    pool: str
    engine_host: str | None
    siblings: tuple[TrialConfig, ...]
    launch: str

    @property
    def engine(self) -> EngineSettings:
        return EngineSettings(
            num_gpus=self.study.engine.num_gpus,
            num_cpus=max(1, (os.cpu_count() or 1) // self.study.slots.count),  # slots of one machine share its cores
            start_timeout_s=self.study.engine.start_timeout_s,
            engine_kwargs=self.study.engine.engine_kwargs,
            host=self.engine_host,
            log_folder=self.folder.logs,
            owner=self.pool,
        )


def run_trial(config: TrialConfig, context: StudyContext) -> TrialResult:
    """Score one compressed model. Raises TrialError with the cause; a fault is never a score."""
    study = context.study
    with locked(study.store / "locks" / file_name(config.name)):
        if stored := load_result(study, config):
            return stored
        with lease(context.pool, config.name, config.model.name, leads=config.scheme is None) as slot:
            timing = Timing()
            checkpoint = _checkpoint(config, context, slot)
            timing.compressed()
            slot.report(TrialProgress(phase="starting the engine"))
            served = ServedCheckpoint(checkpoint.folder, checkpoint.served_name, checkpoint.fingerprint)
            with serve_checkpoint(served, slot, context.engine) as endpoint:
                timing.served()
                meter = Meter(slot, study.concurrency)
                for seed in trial_seeds(study, config):
                    _ask(endpoint, checkpoint, seed, context, meter)
        write_json(context.folder.timing(config.name), {"launch": context.launch, **timing.ended()})
    result = load_result(study, config)
    if result is None:
        raise EvaluationFailed(f"{config.name}: answers are missing in {study.store / 'answers'}")
    return result


def _checkpoint(config: TrialConfig, context: StudyContext, slot: Slot) -> CheckpointFacts:
    """The base model itself for a baseline, else its compressed checkpoint, made now if need be.

    A baseline has its siblings compressed: while its engine starts where the slot has room for both, else before, so
    that the engine then stays.
    """
    study = context.study
    jobs = compress_jobs(study, config, context.siblings, fetch_model(config.model))
    if config.scheme is not None:
        make_checkpoint(jobs, slot, study)
    elif jobs and fits_beside_engine(study):
        compress_ahead(jobs, study)
    elif jobs:
        with contextlib.suppress(CompressionFailed):  # the trial that wants the checkpoint meets it again
            make_checkpoint(jobs, slot, study)
    facts = load_checkpoint(study, config)
    assert facts is not None  # make_checkpoint returns when the folder is whole
    return facts


def _ask(endpoint: Endpoint, checkpoint: CheckpointFacts, seed: int, context: StudyContext, meter: Meter) -> None:
    """Ask what the store does not hold yet. Raises EngineFailed or EvaluationFailed unless every answer is there."""
    study = context.study
    folder = answers_folder(study, checkpoint, seed)
    meter.begin()
    running = run_benchmarks(
        endpoint,
        load_benchmarks(study),
        sampling_of(study, seed),
        folder,
        concurrency=study.concurrency,
        on_answer=meter.count,
        settings=evaluation_settings(study, checkpoint),
    )
    try:
        summary = asyncio.run(running)
    except EvaluateError as error:
        raise _fault(str(error), endpoint.model, context, meter.slot) from error
    if summary.num_errors:
        failed = next(answer for answer in read_answers(folder) if answer.outcome is Outcome.ERROR)
        what = f"{summary.num_errors} questions without an answer: {failed.error}"
        raise _fault(what, endpoint.model, context, meter.slot)
    Throughput(meter.tokens_per_s(), study.concurrency).write(folder)


def _fault(what: str, model: str, context: StudyContext, slot: Slot) -> TrialError:
    """The engine's own fault where Serve knows one, else what the client met."""
    cause = engine_fault(slot)
    log = log_path(slot.app_name, context.engine)
    gone = (f"`{model}` does not exist", f"serves no model {model!r}")  # the name goes with the weights
    if cause is None and any(words in what for words in gone):
        cause = "Serve has started another in its place"
    if cause is None and "cannot be reached" in what:  # Serve has not noticed yet, or the next one has another port
        cause = "nobody listens at its address any more"
    if cause is not None:
        return EngineFailed(f"the engine died: {cause}; {what}; log: {log}")
    return EvaluationFailed(f"{what}; log: {log}")


class Meter:
    """Counts answers as they come and tells the driver; measures the throughput of each evaluation."""

    def __init__(self, slot: Slot, concurrency: int) -> None:
        self.slot = slot
        self._throughput = ThroughputMeter(concurrency)
        self._answers = self._tokens = 0
        self._told = 0.0

    def begin(self) -> None:
        """A new evaluation: its throughput is measured apart, the counts go on."""
        self._throughput = ThroughputMeter(self._throughput.concurrency)

    def count(self, answer: Answer) -> None:
        self._answers += 1
        self._tokens += answer.completion_tokens or 0
        self._throughput.count(answer)
        now = time.monotonic()
        if now - self._told >= REPORT_EVERY_S:
            self._told = now
            self.slot.report(TrialProgress("answering", self._answers, self._tokens))

    def tokens_per_s(self) -> float | None:
        """Of the evaluation that began last, with the queue full; None for few answers."""
        return self._throughput.tokens_per_s()


class Timing:
    """Seconds of a trial's phases; not part of any score."""

    def __init__(self) -> None:
        self._marks = [time.time()]

    def compressed(self) -> None:
        self._marks.append(time.time())

    def served(self) -> None:
        self._marks.append(time.time())

    def ended(self) -> dict[str, float]:
        start, compressed, served, end = *self._marks, time.time()
        seconds = {"compress_s": compressed - start, "engine_s": served - compressed, "answer_s": end - served}
        return {"started": start, "ended": end, **seconds}
