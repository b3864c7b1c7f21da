"""kill -9 of the driver while it compresses and while it answers: nothing of it stays, and nothing is done twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.integration.conftest import STUDY
from tests.integration.drivers import answer_lines, checkpoint_bytes, is_compressing, sweep_driver, sweep_json

pytestmark = [pytest.mark.engine, pytest.mark.cluster, pytest.mark.timeout(1800)]

SPACE = "space=[{method: sparsegpt, sparsity: [0.4, 0.5, 0.6]}]"
CALIBRATION = "calibration={num_samples: 512, max_seq_length: 512}"  # some seconds a scheme


def test_a_killed_driver_leaves_no_process_and_resume_finishes_its_study(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    store = tmp_path / "mlruns/store"
    launch = ("launch", "study.yaml", SPACE, CALIBRATION)

    with sweep_driver(tmp_path, *launch) as driver:  # compression goes on beside the first engine's start
        driver.wait_for(lambda: is_compressing(store), "a finished layer")
        driver.kill()
        driver.wait_until_gone()
    assert not checkpoint_bytes(store)
    assert not answer_lines(store)

    with sweep_driver(tmp_path, *launch, "concurrency=1") as driver:
        driver.wait_for(lambda: any(len(lines) >= 3 for lines in answer_lines(store).values()), "three answers")
        driver.kill()
        driver.wait_until_gone()
    answers, checkpoints = answer_lines(store), checkpoint_bytes(store)
    assert sum(map(len, answers.values())) < 16

    with sweep_driver(tmp_path, "resume", "small") as driver:
        assert driver.wait() == 0, driver.text()
        driver.wait_until_gone()
        assert "small: resumes" in driver.text()
    assert_kept(store, answers, checkpoints)
    assert sorted(map(len, answer_lines(store).values())) == [16] * 5  # the baseline twice, three schemes
    assert not list((store / "checkpoints").glob("*.tmp-*"))
    assert_table_comes_from_the_stores_alone(tmp_path)


def assert_kept(store: Path, answers: dict[Path, list[bytes]], checkpoints: dict[Path, tuple[bytes, int]]) -> None:
    """Every finished answer is the same bytes in the same place, every finished checkpoint an untouched folder."""
    now = answer_lines(store)
    assert all(now[path][: len(lines)] == lines for path, lines in answers.items())
    files = checkpoint_bytes(store)
    assert {path: files.get(path) for path in checkpoints} == checkpoints


def assert_table_comes_from_the_stores_alone(folder: Path) -> None:
    """The same table elsewhere, from a copy of study.json and the store that it names."""
    table = sweep_json(folder, "pareto", "small")
    elsewhere = folder / "elsewhere"
    copy = elsewhere / "mlruns/studies/small/study.json"
    copy.parent.mkdir(parents=True)
    shutil.copyfile(folder / "mlruns/studies/small/study.json", copy)
    assert sweep_json(elsewhere, "pareto", "small") == table
    assert list(table["states"].values()) == ["complete"] * 4
