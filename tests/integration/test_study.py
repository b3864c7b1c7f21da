"""A small study through the command line, as a user runs it: interrupted, finished, run again, changed, damaged."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from compress.pipeline import compress_model
from sweep.compression import compress_jobs, fetch_model
from sweep.config import load_study
from sweep.space import grid
from tests.integration.conftest import MODEL, STUDY
from tests.integration.drivers import Driver, answer_lines, sweep, sweep_command, sweep_driver, sweep_json

pytestmark = [pytest.mark.engine, pytest.mark.cluster, pytest.mark.timeout(1800)]

TRIALS = [f"{MODEL.name}/{name}" for name in ("baseline", "rtn-w4-g64-sym", "magnitude-s0.5")]
DAMAGED, SOUND = f"{MODEL.name}/rtn-w8-g64-sym", f"{MODEL.name}/magnitude-s0.4"


@dataclass(frozen=True)
class Ended:
    """How a driver ended, what it printed, and what `status --json` says right after."""

    code: int
    output: str
    text: str
    status: dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The current folder of every command here."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.yaml").write_text(STUDY)
    return folder


@pytest.fixture(scope="module")
def interrupted(folder: Path) -> Ended:
    """The study's first launch, one question at a time, with Ctrl-C once the first answer is there."""
    with sweep_driver(folder, "launch", "study.yaml", "concurrency=1") as driver:
        driver.wait_for(lambda: any(answer_lines(folder / "mlruns/store").values()), "an answer")
        driver.interrupt()
        return ended(folder, driver)


@pytest.fixture(scope="module")
def finished(folder: Path, interrupted: Ended) -> Ended:
    """The second launch, left alone."""
    with sweep_driver(folder, "launch", "study.yaml", "--json") as driver:
        return ended(folder, driver)


@pytest.fixture(scope="module")
def damaged(folder: Path, finished: Ended) -> Ended:
    """Another study on the same store: one scheme's stored checkpoint has rotted, one scheme is new."""
    space = "space=[{method: rtn, num_bits: [8, 4], group_size: 64}, {method: magnitude, sparsity: 0.4}]"
    study = load_study(folder / "study.yaml", ["study=damaged", space, f"store={folder / 'mlruns/store'}"])
    trial = next(trial for trial in grid(study) if trial.name == DAMAGED)
    job = compress_jobs(study, trial, (), fetch_model(trial.model))[0]
    compress_model(job.model, job.out, job.scheme, job.calibration, format=job.format, platform=job.platform)
    content = bytearray((job.out / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (job.out / "model.safetensors").write_bytes(content)
    with sweep_driver(folder, "launch", "study.yaml", "study=damaged", space) as driver:
        return ended(folder, driver)


def ended(folder: Path, driver: Driver) -> Ended:
    """Wait until the driver and all that it started are gone."""
    code = driver.wait()
    driver.wait_until_gone()
    return Ended(code, driver.output.read_text(), driver.text(), sweep_json(folder, "status"))


def runs(folder: Path, study: str) -> dict[str, object]:
    """A study's MLflow runs by name; the parent has the study's."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("lrm-sweep")
    found = client.search_runs([experiment.experiment_id], f"tags.`sweep.study` = '{study}'")
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def test_ctrl_c_ends_everything_and_says_how_to_resume(interrupted: Ended) -> None:
    assert interrupted.code == 130, interrupted.text
    assert interrupted.output.startswith("small: 3 trials, 64 questions, ")
    assert "python -m sweep resume small" in interrupted.text
    assert "Traceback" not in interrupted.text
    assert not interrupted.status["running"]
    assert interrupted.status["failures"] == {}  # what is interrupted has not failed


def test_a_launch_finishes_and_prints_one_json_object(folder: Path, finished: Ended) -> None:
    assert finished.code == 0, finished.text
    assert "small: resumes" in finished.text
    result = json.loads(finished.output)
    assert result == sweep_json(folder, "pareto", "small")
    assert [trial["trial"] for trial in result["trials"]] == TRIALS
    assert all(0 < trial["tokens_per_question"] <= 200 for trial in result["trials"])
    assert result["states"] == dict.fromkeys(TRIALS, "complete")
    assert result["failures"] == {}
    assert result["front"]


def test_every_question_was_answered_once(folder: Path, finished: Ended) -> None:
    study = load_study(folder / "study.yaml", [f"store={folder / 'mlruns/store'}"])
    lines = answer_lines(study.store)
    assert sorted(len(found) for found in lines.values()) == [16] * 4  # the baseline twice
    assert all(b'"outcome": "error"' not in line for found in lines.values() for line in found)


def test_mlflow_holds_the_study_and_its_trials(folder: Path, finished: Ended) -> None:
    found = runs(folder, "small")
    assert set(found) == {"small", *TRIALS}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    children = [found[name] for name in TRIALS]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {found["small"].info.run_id}
    assert len({frozenset(run.data.params) for run in children}) == 1
    assert [float(run.data.params["num_bits"]) for run in children] == [16, 4, 16]
    assert all(run.data.metrics["tokens_per_question"] > 0 for run in children)


def test_a_second_launch_reuses_everything_and_starts_no_ray(folder: Path, finished: Ended, tmp_path: Path) -> None:
    before = answer_lines(folder / "mlruns/store")
    again = subprocess.run(
        sweep_command("launch", "study.yaml"),
        cwd=folder,
        env={**os.environ, "RAY_TMPDIR": str(tmp_path)},  # where Ray would make its session's folder
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert "every result is reused" in again.stderr
    assert "Pareto front over accuracy (max), tokens_per_question (min), effective_bits (min)" in again.stdout
    assert all(name.split("/")[1] in again.stdout for name in TRIALS)
    assert not list(tmp_path.iterdir())
    assert answer_lines(folder / "mlruns/store") == before


def test_other_settings_under_the_same_name_are_refused(folder: Path, finished: Ended) -> None:
    refused = sweep(folder, "launch", "study.yaml", "num_problems=9")
    assert refused.returncode == 2
    assert "'small' exists with another num_problems (8, now 9)" in refused.stderr
    assert len(refused.stderr.splitlines()) <= 3


def test_a_damaged_checkpoint_fails_its_trial_alone(folder: Path, damaged: Ended) -> None:
    assert damaged.code == 1, damaged.text
    assert f"FAILED {DAMAGED}: " in damaged.text
    assert "Traceback" not in damaged.text
    status = damaged.status
    assert status["trials"] == {**dict.fromkeys([TRIALS[0], TRIALS[1], SOUND], "complete"), DAMAGED: "failed"}
    assert status["failures"][DAMAGED]["kind"] == "CanaryMismatch"
    assert "its files hash to" in status["failures"][DAMAGED]["cause"]
    assert not status["running"]
    scored = [trial["trial"] for trial in sweep_json(folder, "pareto", "damaged")["trials"]]
    assert sorted(scored) == sorted([TRIALS[0], TRIALS[1], SOUND])
    found = runs(folder, "damaged")
    assert {name for name, run in found.items() if run.info.status == "FAILED"} == {"damaged", DAMAGED}
    assert not found[DAMAGED].data.metrics
