"""MLflow: one parent run a study, one child run a trial. The only place that knows MLflow; the driver alone writes.

A child run is written when its trial has ended, with the trial's own times, so none is ever left RUNNING.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compress.report import REPORT_NAME
from sweep.config import StudyConfig
from sweep.known_models import find_config
from sweep.objectives import Row, Table, make_row
from sweep.plan import Plan
from sweep.results import CheckpointFacts, TrialResult, load_result
from sweep.space import TrialConfig

EXPERIMENT = "lrm-sweep"
RUNS = Path("mlruns")
STUDY_TAG, ROLE_TAG, TRIAL_TAG, STATE_TAG, FRONT_TAG = (
    "sweep.study", "sweep.role", "sweep.trial", "sweep.state", "sweep.on_front"
)  # fmt: skip


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI where it is set (a server, for clusters), else the SQLite file under mlruns/."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{RUNS.absolute()}/mlflow.db"


class Tracker:
    """Writes one study's runs. Created anew at each launch; it finds the runs that are there."""

    def __init__(self, study: StudyConfig, plan: Plan) -> None:
        from mlflow import MlflowClient

        RUNS.mkdir(exist_ok=True)
        self._study = study
        self._client = MlflowClient(tracking_uri=tracking_uri())
        self._experiment = self._open_experiment()
        self._parent = self._open_parent()
        self._log_json(self._parent, "config.json", study.model_dump(mode="json"))
        self._log_json(self._parent, "plan.json", plan.to_json())

    def log_trial(self, result: TrialResult, timing: Mapping[str, Any]) -> None:
        """One finished child run: params, metrics, per-question table, compression report."""
        base = load_result(self._study, TrialConfig(result.config.model, None))
        row = make_row(self._study, result, base)
        run = self._child(result.config, timing)
        self._log_numbers(run, result, row, timing)
        if result.checkpoint.format == "dequantized":
            self._client.set_tag(run, "speed", "not representative")
        if (report := result.checkpoint.folder / REPORT_NAME).exists():
            self._client.log_artifact(run, str(report))
        with _file("answers.csv") as path:
            _write_answers(path, result)
            self._client.log_artifact(run, str(path))
        self._client.set_tag(run, STATE_TAG, "complete")
        self._end(run, "FINISHED", timing)

    def log_failure(self, trial: TrialConfig, cause: str) -> None:
        """One failed child run, with its params, its cause and no metric."""
        from mlflow.entities import Param

        run = self._child(trial, {})
        self._client.log_batch(run, params=[Param(name, str(value)) for name, value in _params(trial, None).items()])
        self._client.set_tag(run, STATE_TAG, "failed")
        self._client.set_tag(run, "cause", cause[:5000])
        self._end(run, "FAILED", {})

    def close(self, table: Table, state: str) -> None:
        """What only the whole table knows: recovery, verdicts, the front; then the parent's end."""
        from sweep.pictures import draw_front, write_front_page

        runs = {run.data.tags[TRIAL_TAG]: run.info.run_id for run in self._children()}
        for row in table.rows:
            run = runs.get(row.trial.name)
            if run is None:
                continue
            if row.recovery is not None:
                self._client.log_metric(run, "recovery", row.recovery)
            self._client.set_tag(run, FRONT_TAG, str(row.on_front).lower())
            if row.difference is not None:
                self._client.set_tag(run, "verdict", str(row.difference.verdict))
        with _file("pareto.html") as page:
            write_front_page(self._study, table, page)
            self._client.log_artifact(self._parent, str(page))
        with _file("pareto.png") as picture:
            draw_front(self._study, table, picture)
            self._client.log_artifact(self._parent, str(picture))
        self._client.set_tag(self._parent, STATE_TAG, state.lower())
        self._client.set_terminated(self._parent, state)

    def _open_experiment(self) -> str:
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is not None:
            return str(experiment.experiment_id)
        location = None if os.environ.get("MLFLOW_TRACKING_URI") else (RUNS / "artifacts").absolute().as_uri()
        return str(self._client.create_experiment(EXPERIMENT, artifact_location=location))

    def _open_parent(self) -> str:
        found = self._search(f"tags.`{ROLE_TAG}` = 'study'")
        if found:
            run = str(found[0].info.run_id)
            self._client.update_run(run, status="RUNNING")
            return run
        tags = {STUDY_TAG: self._study.study, ROLE_TAG: "study"}
        return str(self._client.create_run(self._experiment, run_name=self._study.study, tags=tags).info.run_id)

    def _child(self, trial: TrialConfig, timing: Mapping[str, Any]) -> str:
        """A fresh child run; what a killed launch left half-written for this trial is deleted."""
        for run in self._children(trial.name):
            self._client.delete_run(run.info.run_id)
        tags = {
            STUDY_TAG: self._study.study,
            ROLE_TAG: "trial",
            TRIAL_TAG: trial.name,
            "mlflow.parentRunId": self._parent,
        }
        start = int(1000 * timing["started"]) if "started" in timing else None
        run = self._client.create_run(self._experiment, start_time=start, run_name=trial.name, tags=tags)
        return str(run.info.run_id)

    def _children(self, trial: str | None = None) -> list[Any]:
        one = f" and tags.`{TRIAL_TAG}` = '{trial}'" if trial else ""
        return self._search(f"tags.`{ROLE_TAG}` = 'trial'{one}")

    def _search(self, condition: str) -> list[Any]:
        query = f"tags.`{STUDY_TAG}` = '{self._study.study}' and {condition}"
        return list(self._client.search_runs([self._experiment], query, max_results=50_000))

    def _log_numbers(self, run: str, result: TrialResult, row: Row, timing: Mapping[str, Any]) -> None:
        """Params and metrics in one transaction."""
        from mlflow.entities import Metric, Param

        extra = {
            "accuracy_half_width": row.accuracy_half_width,
            "truncation_rate": row.truncation_rate,
            "served_gb": row.checkpoint.served_gb,
            "num_fallbacks": float(row.checkpoint.num_fallbacks),
            "tokens_per_s": row.tokens_per_s,
        }
        seconds = {key: timing[key] for key in ("compress_s", "engine_s", "answer_s") if key in timing}
        found = {name: value for name, value in {**row.metrics, **extra, **seconds}.items() if value is not None}
        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, 0) for name, value in found.items()]
        params = [Param(name, str(value)) for name, value in _params(result.config, result.checkpoint).items()]
        self._client.log_batch(run, metrics=metrics, params=params)

    def _log_json(self, run: str, name: str, content: Any) -> None:
        with _file(name) as path:
            path.write_text(json.dumps(content, indent=2, default=str), encoding="utf-8")
            self._client.log_artifact(run, str(path))

    def _end(self, run: str, status: str, timing: Mapping[str, Any]) -> None:
        end = int(1000 * timing["ended"]) if "ended" in timing else None
        self._client.set_terminated(run, status, end_time=end)


def open_ui() -> int:
    """The CLI's `ui`: MLflow's own server on the runs, until Ctrl-C."""
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracking_uri(), "--host", "127.0.0.1"]
    return subprocess.run(command, check=False).returncode


def _params(trial: TrialConfig, checkpoint: CheckpointFacts | None) -> dict[str, Any]:
    """The same keys in every trial, numbers as numbers; a trial that failed may have no checkpoint."""
    scheme = trial.scheme
    has_bits = scheme is not None and scheme.num_bits is not None
    return {
        "model": trial.model.name,
        "family": (find_config(trial.model) or {}).get("model_type", "unknown"),
        "method": str(scheme.method) if scheme else "baseline",
        "format": checkpoint.format if checkpoint else "none",
        "pattern": f"{scheme.pattern[0]}:{scheme.pattern[1]}" if scheme and scheme.pattern else "none",
        "num_bits": scheme.num_bits if scheme and has_bits else 16,
        "sparsity": scheme.sparsity if scheme else 0.0,
        "group_size": (scheme.group_size or -1) if scheme and has_bits else 0,
        "symmetric": scheme.symmetric if scheme else True,
        "num_parameters": checkpoint.num_parameters if checkpoint else 0,
    }


def _write_answers(path: Path, result: TrialResult) -> None:
    """One line a question and seed, without the texts: those are in the store."""
    keys = ["benchmark", "problem_id", "sample", "outcome", "answer", "rule", "finish_reason", "completion_tokens"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["seed", *keys])
        writer.writeheader()
        for evaluation in result.evaluations:
            for answer in evaluation.answers:
                values = asdict(answer)
                writer.writerow({"seed": evaluation.seed, **{key: values[key] for key in keys}})


@contextmanager
def _file(name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / name
