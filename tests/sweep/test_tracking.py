"""What MLflow holds of a study: real runs in SQLite, written as a launch writes them."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import sweep.tracking
from sweep.config import StudyConfig
from sweep.objectives import make_table
from sweep.plan import make_plan
from sweep.report import study_results
from sweep.results import TrialResult
from sweep.store import study_folder, write_json
from sweep.tracking import EXPERIMENT, Tracker, tracking_uri
from tests.sweep.studies import NUM_PROBLEMS, find, knows, make_study, store_trial

TIMING = {"started": 1_700_000_000.0, "ended": 1_700_000_060.5, "compress_s": 10.0, "engine_s": 20.0, "answer_s": 30.5}
PARAMS = {"model", "family", "method", "format", "pattern", "num_bits", "sparsity", "group_size", "symmetric"}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database: MLflow takes seconds to make one."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tracked(stored: Path, database: Path) -> Path:
    """The current folder, with weights, checkpoints and an empty database."""
    shutil.copy(database, stored / "mlruns" / "mlflow.db")
    return stored


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, compressed: Path, database: Path) -> Iterator[StudyConfig]:
    """A priced study of six trials that was launched and has ended; read only."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(compressed, folder, dirs_exist_ok=True)
    shutil.copy(database, folder / "mlruns" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        study = make_study(usd_per_hour=36, usd_per_hour_date="2026-11-01")
        launch(study, store_all(study))
        yield study


def store_all(study: StudyConfig) -> list[TrialResult]:
    results = [
        store_trial(study, "alpha/rtn-w4-g64-sym", knows(7, tokens=80)),
        store_trial(study, "alpha/baseline", knows(8)),
        store_trial(study, "alpha/rtn-w2-g64-sym", knows(2, tokens=10, cut=1)),
        store_trial(study, "alpha/magnitude-2:4", knows(6)),
        store_trial(study, "alpha/magnitude-s0.5", knows(5)),
        store_trial(study, "beta/baseline", knows({"temporal": 6, "arithmetic": 4, "recall": 0})),
    ]
    for result in results:
        for evaluation in result.evaluations:
            write_json(evaluation.folder / "throughput.json", {"tokens_per_s": 500.0, "concurrency": 64})
    return [store_trial(study, result.config.name, knows(0)) for result in results]  # answered already: read back


def launch(study: StudyConfig, results: Sequence[TrialResult], failures: Mapping[str, str] | None = None) -> None:
    """What a driver tells its tracker, in the order in which trials end."""
    tracker = Tracker(study, make_plan(study))
    for result in results:
        tracker.log_trial(result, TIMING)
    for name, cause in (failures or {}).items():
        tracker.log_failure(find(study, name), cause)
    tracker.close(
        make_table(study, study_results(study, study_folder(study.study))), "FAILED" if failures else "FINISHED"
    )


def all_runs() -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking_uri())
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def parents() -> list[Any]:
    return [run for run in all_runs() if run.data.tags["sweep.role"] == "study"]


def children() -> dict[str, Any]:
    runs = [run for run in all_runs() if run.data.tags["sweep.role"] == "trial"]
    found = {run.data.tags["sweep.trial"]: run for run in runs}
    assert len(found) == len(runs)  # one run a trial
    return found


def artifacts(run: Any) -> dict[str, Path]:
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    return {path.name: path for path in folder.iterdir()}


def test_one_parent_and_one_child_a_trial(finished: StudyConfig) -> None:
    (parent,) = parents()
    assert parent.info.run_name == finished.study == parent.data.tags["sweep.study"]
    assert parent.data.tags["sweep.state"] == "finished"
    runs = children()
    assert sorted(runs) == sorted(result.config.name for result in store_all(finished))
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert {run.info.run_name for run in runs.values()} == set(runs)
    assert Counter(run.info.status for run in all_runs()) == {"FINISHED": 7}


def test_params_have_the_same_keys_and_plain_values_in_every_trial(finished: StudyConfig) -> None:
    params = {name: run.data.params for name, run in children().items()}
    assert {frozenset(found) for found in params.values()} == {frozenset(PARAMS | {"num_parameters"})}
    keys = ["method", "format", "pattern", "num_bits", "sparsity", "group_size"]
    shown = {name: [found[key] for key in keys] for name, found in params.items()}
    assert shown == {
        "alpha/baseline": ["baseline", "base", "none", "16", "0.0", "0"],
        "alpha/rtn-w4-g64-sym": ["rtn", "packed", "none", "4", "0.0", "64"],
        "alpha/rtn-w2-g64-sym": ["rtn", "dequantized", "none", "2", "0.0", "64"],
        "alpha/magnitude-2:4": ["magnitude", "dequantized", "2:4", "16", "0.5", "0"],
        "alpha/magnitude-s0.5": ["magnitude", "dequantized", "none", "16", "0.5", "0"],
        "beta/baseline": ["baseline", "base", "none", "16", "0.0", "0"],
    }
    for key in ("num_bits", "sparsity", "group_size", "num_parameters"):
        assert all(float(found[key]) >= 0 for found in params.values())
    assert {name.split("/")[0]: found["family"] for name, found in params.items()} == {
        "alpha": "llama",
        "beta": "qwen3",
    }


@pytest.mark.usefixtures("tracked")
def test_a_scale_per_channel_is_group_size_minus_one() -> None:
    study = make_study(space=[{"method": "rtn", "num_bits": 4}])
    launch(study, [store_trial(study, "alpha/rtn-w4-channel-sym", knows(3))])
    params = children()["alpha/rtn-w4-channel-sym"].data.params
    assert (params["group_size"], params["num_bits"], params["symmetric"]) == ("-1", "4", "True")


def test_metrics_bear_the_names_of_the_objectives(finished: StudyConfig) -> None:
    metrics = {name: run.data.metrics for name, run in children().items()}
    wanted = {"accuracy", "recovery", "tokens_per_question", "usd_per_1k_questions", "effective_bits", "checkpoint_gb"}
    for benchmark in finished.benchmarks:
        wanted |= {f"accuracy.{benchmark.name}", f"tokens_per_question.{benchmark.name}"}
    for found in metrics.values():
        assert wanted <= found.keys()
    two = metrics["alpha/rtn-w2-g64-sym"]
    assert two["accuracy"] == pytest.approx(2 / NUM_PROBLEMS)
    assert two["recovery"] == pytest.approx(2 / NUM_PROBLEMS)
    assert two["truncation_rate"] == pytest.approx(1 / NUM_PROBLEMS)
    assert two["tokens_per_question"] == 10
    assert two["usd_per_1k_questions"] == pytest.approx(1000 * 10 / 500 * 36 / 3600)
    assert two["effective_bits"] < 5
    assert two["compress_s"] == 10
    beta = metrics["beta/baseline"]
    assert beta["accuracy"] == pytest.approx((6 + 4) / 2 / NUM_PROBLEMS)
    assert (beta["accuracy.recall"], beta["recovery"]) == (0, 1)
    assert metrics["alpha/baseline"]["effective_bits"] == 16


def test_tags_tell_state_front_verdict_and_speed(finished: StudyConfig) -> None:
    tags = {name: run.data.tags for name, run in children().items()}
    assert {found["sweep.study"] for found in tags.values()} == {finished.study}
    assert {found["sweep.state"] for found in tags.values()} == {"complete"}
    front = {name for name, found in tags.items() if found["sweep.on_front"] == "true"}
    table = make_table(finished, study_results(finished, study_folder(finished.study)))
    assert front == {row.trial.name for row in table.rows if row.on_front}
    assert {found["sweep.on_front"] for found in tags.values()} == {"true", "false"}
    assert tags["alpha/rtn-w2-g64-sym"]["verdict"] == "worse"
    assert "verdict" not in tags["alpha/baseline"]
    slow = {name for name, found in tags.items() if found.get("speed") == "not representative"}
    assert slow == {"alpha/rtn-w2-g64-sym", "alpha/magnitude-2:4", "alpha/magnitude-s0.5"}


@pytest.mark.usefixtures("tracked")
def test_a_trials_recovery_is_there_although_its_baseline_came_later() -> None:
    study = make_study()
    tracker = Tracker(study, make_plan(study))
    tracker.log_trial(store_trial(study, "alpha/rtn-w4-g64-sym", knows(7)), TIMING)
    assert "recovery" not in children()["alpha/rtn-w4-g64-sym"].data.metrics
    tracker.log_trial(store_trial(study, "alpha/baseline", knows(8)), TIMING)
    tracker.close(make_table(study, study_results(study, study_folder(study.study))), "FINISHED")
    assert children()["alpha/rtn-w4-g64-sym"].data.metrics["recovery"] == pytest.approx(7 / NUM_PROBLEMS)


def test_runs_have_their_trials_own_times(finished: StudyConfig) -> None:
    for run in children().values():
        assert (run.info.start_time, run.info.end_time) == (1_700_000_000_000, 1_700_000_060_500)


def test_the_parents_artifacts(finished: StudyConfig) -> None:
    files = artifacts(parents()[0])
    assert sorted(files) == ["config.json", "pareto.html", "pareto.png", "plan.json"]
    assert StudyConfig.model_validate(json.loads(files["config.json"].read_text())) == finished
    assert json.loads(files["plan.json"].read_text())["num_trials"] == make_plan(finished).num_trials
    assert files["pareto.png"].read_bytes().startswith(b"\x89PNG")
    page = files["pareto.html"].read_text()
    assert "alpha/magnitude-2:4" in page
    assert "<script src" not in page


def test_a_childs_artifacts(finished: StudyConfig) -> None:
    runs = children()
    assert sorted(artifacts(runs["alpha/baseline"])) == ["answers.csv"]
    files = artifacts(runs["alpha/rtn-w2-g64-sym"])
    assert sorted(files) == ["answers.csv", "compression_report.json"]
    assert json.loads(files["compression_report.json"].read_text())["scheme"]["num_bits"] == 2
    with files["answers.csv"].open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert Counter(line["benchmark"] for line in lines) == dict.fromkeys(
        ("temporal", "arithmetic", "recall"), NUM_PROBLEMS
    )
    assert Counter(line["outcome"] for line in lines) == {"correct": 6, "no_answer": 15, "truncated": 3}
    with artifacts(runs["alpha/baseline"])["answers.csv"].open(newline="") as file:
        assert Counter(line["seed"] for line in csv.DictReader(file)) == {"0": 24, "1": 24}


@pytest.mark.usefixtures("tracked")
def test_a_second_launch_neither_doubles_nor_loses_a_run() -> None:
    study = make_study()
    results = [store_trial(study, "alpha/baseline", knows(8)), store_trial(study, "alpha/rtn-w4-g64-sym", knows(7))]
    launch(study, results)
    (before,) = parents()
    launch(study, [*results, store_trial(study, "alpha/rtn-w2-g64-sym", knows(1))])
    (after,) = parents()
    assert after.info.run_id == before.info.run_id
    runs = children()
    assert sorted(runs) == ["alpha/baseline", "alpha/rtn-w2-g64-sym", "alpha/rtn-w4-g64-sym"]
    launch(study, [results[1]])  # trials that end in this launch alone are written anew
    assert sorted(children()) == sorted(runs)
    assert {run.info.status for run in all_runs()} == {"FINISHED"}
    assert children()["alpha/rtn-w4-g64-sym"].data.metrics["recovery"] == pytest.approx(7 / NUM_PROBLEMS)


@pytest.mark.usefixtures("tracked")
def test_what_a_killed_driver_left_is_finished_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study()
    results = [store_trial(study, "alpha/baseline", knows(8)), store_trial(study, "alpha/rtn-w4-g64-sym", knows(7))]

    def killed(path: Path, result: TrialResult) -> None:
        raise KeyboardInterrupt

    tracker = Tracker(study, make_plan(study))
    tracker.log_trial(results[0], TIMING)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sweep.tracking, "_write_answers", killed)
        tracker.log_trial(results[1], TIMING)
    assert Counter(run.info.status for run in all_runs()) == {"RUNNING": 2, "FINISHED": 1}
    launch(study, results)
    assert Counter(run.info.status for run in all_runs()) == {"FINISHED": 3}
    assert sorted(children()) == ["alpha/baseline", "alpha/rtn-w4-g64-sym"]
    assert "answers.csv" in artifacts(children()["alpha/rtn-w4-g64-sym"])


@pytest.mark.usefixtures("tracked")
def test_a_failed_trial_has_its_cause_and_no_score() -> None:
    study = make_study()
    base = store_trial(study, "alpha/baseline", knows(8))
    launch(study, [base], {"alpha/rtn-w2-g64-sym": "the engine did not start: " + "x" * 20_000})
    assert parents()[0].info.status == "FAILED"
    failed = children()["alpha/rtn-w2-g64-sym"]
    assert failed.info.status == "FAILED"
    assert failed.data.metrics == {}
    assert (failed.data.params["num_bits"], failed.data.params["method"]) == ("2", "rtn")
    assert failed.data.tags["sweep.state"] == "failed"
    assert failed.data.tags["cause"].startswith("the engine did not start")
    assert "sweep.on_front" not in failed.data.tags
    launch(study, [base, store_trial(study, "alpha/rtn-w2-g64-sym", knows(2))])
    mended = children()["alpha/rtn-w2-g64-sym"]
    assert (mended.info.status, parents()[0].info.status) == ("FINISHED", "FINISHED")
    assert "cause" not in mended.data.tags


@pytest.mark.usefixtures("tracked")
def test_a_study_in_which_all_failed_is_closed_too() -> None:
    study = make_study()
    launch(study, [], {"alpha/baseline": "no engine", "beta/baseline": "no engine"})
    assert {run.info.status for run in all_runs()} == {"FAILED"}
    assert "pareto.png" in artifacts(parents()[0])


@pytest.mark.usefixtures("tracked")
def test_studies_do_not_touch_each_other() -> None:
    one, two = make_study(study="one"), make_study(study="two")
    result = store_trial(one, "alpha/baseline", knows(8))
    launch(one, [result])
    launch(two, [result])
    runs = [run for run in all_runs() if run.data.tags["sweep.role"] == "trial"]
    assert sorted(run.data.tags["sweep.study"] for run in runs) == ["one", "two"]
    assert len({run.data.tags["mlflow.parentRunId"] for run in runs}) == 2


def test_a_server_is_used_where_one_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking_uri() == "http://mlflow:5000"
