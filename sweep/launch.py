"""The driver of a study: lock it, start the cluster, let Ray Tune run its trials, record each, show the front.

load -> lock -> Ray + Serve + slots -> Ray Tune (run_trial in each) -> MLflow as trials end -> table and front
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import signal
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import ray
from ray import tune
from rich.console import Console

from sweep.cluster import start_cluster
from sweep.config import RUNTIME_KEYS, StudyConfig
from sweep.errors import EvaluationFailed, StudyExists, StudyLocked
from sweep.leases import start_pool
from sweep.objectives import TrialState, make_table, trial_metrics
from sweep.plan import Plan, make_plan
from sweep.progress import Progress, show_progress
from sweep.report import find_study, print_result, study_results
from sweep.results import TrialResult, load_result
from sweep.search import SAMPLERS, TRIAL, Phase, find_trial, make_phases
from sweep.serving import end_application
from sweep.space import TrialConfig, grid, random_trials
from sweep.store import StudyFolder, locked, read_json, read_proposals, study_folder, write_json
from sweep.tracking import Tracker
from sweep.trial import StudyContext, run_trial

NODE_LOSS_RETRIES = 2


def launch_study(study: StudyConfig, plan: Plan, *, config_path: Path, address: str | None, as_json: bool) -> int:
    """Run a study, or what is missing of it. Returns the exit code: 0 all complete, 1 some failed.

    Raises StudyExists where the name is taken by other settings, StudyLocked while another driver is at work.
    """
    folder = study_folder(study.study)
    with _study_lock(folder):
        stored = read_json(folder.config)
        if stored is not None:
            _check_same(study, StudyConfig.model_validate(stored), config_path)
        write_json(folder.config, study.model_dump(mode="json"))
        return _run(study, plan, folder, address=address, as_json=as_json, exists=stored is not None)


def resume_study(name: str, *, address: str | None) -> int:
    """Finish a study that was interrupted. Raises StudyNotFound, StudyLocked."""
    folder = find_study(name)
    study = StudyConfig.model_validate(read_json(folder.config))
    with _study_lock(folder):
        return _run(study, make_plan(study), folder, address=address, as_json=False, exists=True)


def _run(
    study: StudyConfig, plan: Plan, folder: StudyFolder, *, address: str | None, as_json: bool, exists: bool
) -> int:
    console = Console(stderr=True)
    started = time.monotonic()
    if exists:
        finished = read_json(folder.path / "finished.json")
        if finished is not None and not finished["failed"] and len(study_results(study, folder)) == finished["trials"]:
            console.print(f"{study.study}: finished before; every result is reused", highlight=False)
            return print_result(study, folder, as_json=as_json, wall_s=None)
        num_stored = len(study_results(study, folder))
        console.print(f"{study.study}: resumes; {num_stored} of {plan.num_trials} trials are stored", highlight=False)
    folder.logs.mkdir(parents=True, exist_ok=True)
    with (folder.logs / "ray.log").open("a", encoding="utf-8") as log, redirect_stdout(log):  # Ray tells of processes
        failed = _run_trials(study, plan, folder, address, console)
    results = study_results(study, folder)
    write_json(folder.path / "finished.json", {"trials": len(results), "failed": failed})
    return print_result(study, folder, as_json=as_json, wall_s=time.monotonic() - started)


def _run_trials(study: StudyConfig, plan: Plan, folder: StudyFolder, address: str | None, console: Console) -> int:
    """Everything that holds processes; they are gone when this returns. Returns how many trials failed."""
    per_trial = sum(plan.questions.values()) * study.sampling.num_completions
    progress = Progress(plan.num_trials, per_trial)
    interrupted_at = math.inf
    try:
        with ExitStack() as stack:
            stack.enter_context(_terminate_as_interrupt())
            opening = stack.enter_context(ThreadPoolExecutor(1))
            tracker = opening.submit(Tracker, study, plan)  # a new database takes seconds; Ray starts meanwhile
            cluster = stack.enter_context(start_cluster(address, study.slots.count))
            pool_name = f"sweep-{study.study}"
            pool = start_pool(pool_name, study.slots.count)
            stack.callback(_end_engines, pool)
            context = StudyContext(
                study=study,
                folder=folder,
                pool=pool_name,
                engine_host=cluster.engine_host,
                siblings=_siblings(study),
                launch=uuid.uuid4().hex,
            )
            stack.enter_context(show_progress(progress, console, lambda: ray.get(pool.progress.remote())))
            state = "KILLED"
            try:
                for phase in make_phases(study, _read_proposals(folder)):
                    _tune(phase, context, _Watcher(context, progress, tracker, console))
                state = "FAILED" if progress.failed else "FINISHED"
            except KeyboardInterrupt:
                interrupted_at = time.time()
                raise
            finally:
                tracker.result().close(make_table(study, study_results(study, folder)), state)
    except KeyboardInterrupt:
        folder.forget_failures(interrupted_at)  # an engine that was ended here is no failure of its trial
        console.print(f"interrupted; python -m sweep resume {study.study} goes on from here", highlight=False)
        raise
    return progress.failed


def _end_engines(pool: Any) -> None:
    """End the pool first: a trial that waits for a slot must not start an engine in one that comes free here."""
    app_names = ray.get(pool.engines.remote())
    ray.kill(pool)
    for app_name in app_names:
        with suppress(TimeoutError):  # the end of the cluster, or its replica's own watch, takes it along
            end_application(app_name)


def _tune(phase: Phase, context: StudyContext, watcher: Any) -> None:
    study = context.study
    trainable = tune.with_resources(
        tune.with_parameters(_trainable, context=context), tune.PlacementGroupFactory([{"CPU": 0.001}])
    )
    tuner = tune.Tuner(
        trainable,
        param_space=phase.param_space,
        tune_config=tune.TuneConfig(
            search_alg=phase.search_alg,
            num_samples=phase.num_samples,
            max_concurrent_trials=study.slots.count + 1,  # the next trial's process starts while this one answers
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=context.launch,
            storage_path=str(context.folder.path / "tune"),
            callbacks=[watcher],
            failure_config=tune.FailureConfig(max_failures=NODE_LOSS_RETRIES),
            verbose=0,
        ),
    )
    for name in ("ray.tune", "ray.train", "ray.air", "ray.serve"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # this driver tells its user what a trial died of
    tuner.fit()
    shutil.rmtree(context.folder.path / "tune", ignore_errors=True)  # the stores hold everything; Tune's copy is done


def _trainable(config: dict[str, Any], context: StudyContext) -> None:
    """What Ray Tune runs. A trial that failed has its cause on disk and is told to the searcher as failed."""
    trial = find_trial(context.study, config[TRIAL])
    record = context.folder.failure(trial.name)
    known = read_json(record)
    if known is not None and known["launch"] == context.launch:  # a retry is for lost nodes only
        raise RuntimeError(known["cause"])
    try:
        metrics = _told(context.study, run_trial(trial, context))
    except Exception as error:
        write_json(record, {"launch": context.launch, "kind": type(error).__name__, "cause": str(error)})
        raise
    record.unlink(missing_ok=True)
    tune.report(metrics)


def _told(study: StudyConfig, result: TrialResult) -> dict[str, float]:
    """What the search is told of a trial. Raises EvaluationFailed where a sampler would wait for an objective."""
    metrics = trial_metrics(study, result)
    lacking = [name for name in study.objectives if name not in metrics]
    if lacking and study.search.algorithm in SAMPLERS:
        raise EvaluationFailed(
            f"{result.config.name}: its answers give no {', '.join(lacking)}, which the search minimizes or maximizes"
            + (f"; ask at least {3 * study.concurrency} questions" if "usd_per_1k_questions" in lacking else "")
        )
    return metrics


class _Watcher(tune.Callback):
    """In the driver: counts, notes proposals and logs every trial that ends."""

    def __init__(self, context: StudyContext, progress: Progress, tracker: Future[Tracker], console: Console) -> None:
        self._context, self._progress, self._tracker, self._console = context, progress, tracker, console
        self._seen: set[str] = set()
        self._noted: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Tune saves its callbacks for Tuner.restore, which is not used: studies resume from the stores."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        params = {key: value for key, value in trial.config.items() if key != TRIAL}
        if params and trial.trial_id not in self._noted:  # a retry starts the same trial again
            self._noted.add(trial.trial_id)
            with self._context.folder.proposals.open("a", encoding="utf-8") as file:
                # The newline comes first: a line that a kill left torn then spoils no other.
                entry = {"launch": self._context.launch, "trial": trial.config[TRIAL], "params": params}
                file.write("\n" + json.dumps(entry))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        context, progress = self._context, self._progress
        result = load_result(context.study, find_trial(context.study, trial.config[TRIAL]))
        if result is None:
            raise RuntimeError(f"{trial.config[TRIAL]} ended without a result in {context.study.store}")
        progress.done += 1
        progress.finished.add(result.config.name)
        timing = read_json(context.folder.timing(result.config.name)) or {}
        if result.config.name in self._seen or timing.get("launch") != context.launch:
            progress.reused += 1
        else:
            progress.questions += len(result.answers)
            progress.tokens += sum(answer.completion_tokens or 0 for answer in result.answers)
        self._seen.add(result.config.name)
        self._tracker.result().log_trial(result, timing)
        self._say(f"{result.config.name}: complete")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = trial.config[TRIAL]
        failure = read_json(self._context.folder.failure(name)) or {"kind": "", "cause": "its process died"}
        self._progress.failed += 1
        self._tracker.result().log_failure(find_trial(self._context.study, name), failure["cause"])
        self._say(f"{name}: {TrialState.FAILED}: {failure['cause']}")

    def _say(self, text: str) -> None:
        self._console.print(f"{self._progress.line()} | {text}", highlight=False, soft_wrap=True, markup=False)


@contextmanager
def _study_lock(folder: StudyFolder) -> Iterator[None]:
    with locked(folder.path / "lock", wait=False) as held:
        if not held:
            raise StudyLocked(
                f"{folder.path.name}: another driver is at work on this study; wait for it, or end it first"
            )
        yield


def _check_same(study: StudyConfig, stored: StudyConfig, config_path: Path) -> None:
    """Raise StudyExists naming the first key that differs."""
    if study.content_hash == stored.content_hash:
        return
    new, old = study.model_dump(mode="json"), stored.model_dump(mode="json")
    key = next(key for key in new if key not in RUNTIME_KEYS and new[key] != old.get(key))
    raise StudyExists(
        f"{config_path}: study: {study.study!r} exists with another {key} "
        f"({_short(old.get(key))}, now {_short(new[key])}); "
        f"give this one a name of its own: study={study.study}-2"
    )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _siblings(study: StudyConfig) -> tuple[TrialConfig, ...]:
    """Trials that are certain to run: a compress actor may make their checkpoints along with its own."""
    return {"grid": grid, "random": random_trials}.get(study.search.algorithm, lambda _: ())(study)


def _read_proposals(folder: StudyFolder) -> list[dict[str, Any]]:
    """What earlier launches of this study had proposed, in order; a proposal asked again counts once."""
    by_launch: dict[str, list[dict[str, Any]]] = {}
    for entry in read_proposals(folder):
        by_launch.setdefault(entry["launch"], []).append(entry["params"])
    return max(by_launch.values(), key=len, default=[])  # each launch begins with what the one before it had


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """SIGTERM ends a study as Ctrl-C does, in the background too: what was started is stopped."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {name: signal.signal(name, interrupt) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
