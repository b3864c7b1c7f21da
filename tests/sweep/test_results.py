"""A trial's result is what the stores hold: keyed by what decides it, whole or None, the same however it came about."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compress.report import REPORT_NAME
from evaluate.errors import BadInput
from evaluate.grading import GRADER_VERSION
from evaluate.store import ANSWERS, read_answers
from sweep.config import StudyConfig
from sweep.objectives import make_table
from sweep.results import answers_folder, evaluation_settings, load_checkpoint, load_result, trial_seeds
from tests.sweep.studies import (
    NUM_PROBLEMS,
    Reply,
    find,
    knows,
    make_study,
    save_weights,
    store_answers,
    store_checkpoint,
    store_trial,
)

pytestmark = pytest.mark.usefixtures("stored")
NAME = "alpha/rtn-w8-g64-sym"


def folder_of(study: StudyConfig, seed: int = 0, name: str = NAME) -> Path:
    checkpoint = load_checkpoint(study, find(study, name))
    assert checkpoint is not None
    return answers_folder(study, checkpoint, seed)


def answers_file(study: StudyConfig, name: str = NAME) -> Path:
    return folder_of(study, name=name) / ANSWERS


OTHER_ANSWERS: list[dict[str, Any]] = [
    {"sampling": {"max_tokens": 256, "temperature": 0.7}},
    {"sampling": {"max_tokens": 256, "top_p": 0.9}},
    {"sampling": {"max_tokens": 255}},
    {"sampling": {"max_tokens": 256, "num_completions": 2}},
    {"engine": {"engine_kwargs": {"dtype": "float32"}}},
    {"engine": {"engine_kwargs": {"max_model_len": 512}}},
]
SAME_ANSWERS: list[dict[str, Any]] = [
    {"concurrency": 3},
    {"slots": {"count": 2}},
    {"engine": {"engine_kwargs": {"max_num_seqs": 7, "kv_cache_memory_bytes": 1 << 28}}},
    {"engine": {"engine_kwargs": {"gpu_memory_utilization": 0.5}, "start_timeout_s": 5}},
    {"study": "another-name", "objectives": {"accuracy": "max"}, "min_recovery": 0.1},
    {"search": {"algorithm": "random", "num_trials": 3}},
    {"usd_per_hour": 2, "usd_per_hour_date": "2026-11-01"},
]


@pytest.mark.parametrize("change", OTHER_ANSWERS, ids=str)
def test_what_decides_an_answer_changes_its_folder(change: dict[str, Any]) -> None:
    assert folder_of(make_study(**change)) != folder_of(make_study())


def test_seed_and_weights_change_the_folder_of_answers() -> None:
    study = make_study()
    names = [NAME, "alpha/magnitude-s0.5", "beta/rtn-w8-g64-sym", "alpha/baseline"]
    folders = {folder_of(study, name=name) for name in names} | {folder_of(study, seed=1)}
    assert len(folders) == 5


@pytest.mark.parametrize("change", SAME_ANSWERS, ids=str)
def test_what_decides_no_answer_finds_them_again(change: dict[str, Any]) -> None:
    stored = store_trial(make_study(), NAME, knows(5))
    assert load_result(make_study(**change), stored.config) == stored


def test_more_questions_keep_the_folder_and_ask_the_rest() -> None:
    store_trial(make_study(), NAME, knows(5))
    more = make_study(num_problems=NUM_PROBLEMS + 1)
    assert folder_of(more) == folder_of(make_study())
    assert load_result(more, find(more, NAME)) is None
    fewer = make_study(num_problems=3)
    result = load_result(fewer, find(fewer, NAME))
    assert result is not None
    assert len(result.answers) == 3 * len(fewer.benchmarks)


def test_other_weights_are_another_checkpoint(stored: Path) -> None:
    study = make_study()
    before = store_trial(study, NAME, knows(5))
    save_weights(stored / "models" / "alpha", seed=7)
    assert load_result(study, before.config) is None
    store_checkpoint(study, before.config)
    after = load_checkpoint(study, before.config)
    assert after is not None
    assert after.folder != before.checkpoint.folder
    assert after.fingerprint != before.checkpoint.fingerprint
    assert answers_folder(study, after, 0) != before.evaluations[0].folder


def test_a_half_written_checkpoint_is_not_there() -> None:
    study = make_study()
    result = store_trial(study, NAME, knows(5))
    folder = result.checkpoint.folder
    shutil.move(folder / REPORT_NAME, folder.parent / "aside.json")
    assert load_checkpoint(study, result.config) is None
    assert load_result(study, result.config) is None
    shutil.move(folder.parent / "aside.json", folder / REPORT_NAME)
    assert load_result(study, result.config) == result
    folder.rename(folder.parent / f".{folder.name}.tmp-host-1")  # as compress names what it has not finished
    assert load_checkpoint(study, result.config) is None


def test_a_checkpoint_that_exists_is_not_made_again() -> None:
    study = make_study()
    trial = find(study, NAME)
    before = load_checkpoint(study, trial)
    assert before is not None
    times = {path: path.stat().st_mtime_ns for path in before.folder.iterdir()}
    store_checkpoint(study, trial)
    assert load_checkpoint(study, trial) == before
    assert {path: path.stat().st_mtime_ns for path in before.folder.iterdir()} == times


def test_no_result_while_nothing_or_only_a_part_is_answered() -> None:
    study = make_study()
    trial = find(study, NAME)
    assert load_result(study, trial) is None
    store_answers(study, trial, knows(5), limit=3 * NUM_PROBLEMS - 1)
    assert load_result(study, trial) is None
    store_answers(study, trial, knows(5))
    assert load_result(study, trial) is not None
    path = answers_file(study)
    path.write_bytes(path.read_bytes()[:-5])  # torn by a kill
    assert load_result(study, trial) is None


def test_an_error_is_no_answer() -> None:
    study = make_study()
    trial = find(study, NAME)

    def respond(benchmark: Any, problem: Any, place: int, seed: int) -> Reply:
        fault = benchmark.name == "recall" and place == 2
        return Reply("connection reset", "error") if fault else knows(5)(benchmark, problem, place, seed)

    store_answers(study, trial, respond)
    assert len(read_answers(folder_of(study))) == 3 * NUM_PROBLEMS
    assert load_result(study, trial) is None


def test_a_baseline_needs_both_seeds() -> None:
    study = make_study()
    trial = find(study, "alpha/baseline")
    assert trial_seeds(study, trial) == (0, 1)
    store_answers(study, trial, knows(5))
    result = load_result(study, trial)
    assert result is not None
    assert [evaluation.seed for evaluation in result.evaluations] == [0, 1]
    shutil.rmtree(result.evaluations[1].folder)
    assert load_result(study, trial) is None
    greedy = make_study(sampling={"max_tokens": 256, "temperature": 0})
    assert trial_seeds(greedy, trial) == (0,)


def test_a_baseline_is_the_model_as_it_comes(stored: Path) -> None:
    study = make_study()
    checkpoint = load_checkpoint(study, find(study, "alpha/baseline"))
    assert checkpoint is not None
    assert (checkpoint.folder, checkpoint.format) == (stored / "models" / "alpha", "base")
    assert (checkpoint.effective_bits, checkpoint.size_source) == (16, "measured")
    assert checkpoint.checkpoint_gb == checkpoint.served_gb == 2 * checkpoint.num_parameters / 1e9


def test_the_facts_of_a_checkpoint_are_its_reports() -> None:
    study = make_study()
    packed = load_checkpoint(study, find(study, "alpha/rtn-w4-g64-sym"))
    dense = load_checkpoint(study, find(study, "alpha/rtn-w2-g64-sym"))
    assert packed is not None
    assert dense is not None
    assert (packed.format, packed.size_source) == ("packed", "measured")
    assert (dense.format, dense.size_source) == ("dequantized", "computed")
    assert dense.effective_bits < packed.effective_bits < 16
    assert dense.checkpoint_gb < packed.checkpoint_gb < dense.served_gb
    assert evaluation_settings(study, dense)["weights"] == dense.fingerprint
    assert dense.served_name.startswith(dense.folder.name)
    assert packed.served_name != dense.served_name


def test_results_read_twice_are_identical_and_reading_writes_nothing(stored: Path) -> None:
    study = make_study()
    store_trial(study, "alpha/baseline", knows(6))
    store_trial(study, NAME, knows(5))
    before = {path: path.stat().st_mtime_ns for path in stored.rglob("*")}
    first, second = ([load_result(study, find(study, name)) for name in ("alpha/baseline", NAME)] for _ in range(2))
    assert first == second
    assert {path: path.stat().st_mtime_ns for path in stored.rglob("*")} == before


def shuffled(path: Path, seed: int) -> Iterator[bytes]:
    lines = path.read_bytes().splitlines(keepends=True)
    random.Random(seed).shuffle(lines)
    return iter(lines)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_order_in_which_answers_came_changes_nothing(seed: int) -> None:
    study = make_study()
    store_trial(study, "alpha/baseline", knows(6, tokens=90, cut=1))
    result = store_trial(study, NAME, knows(5, tokens=80))
    asked = [(answer.benchmark, answer.problem_id) for answer in result.answers]
    results = [load_result(study, find(study, name)) for name in ("alpha/baseline", NAME)]
    table = make_table(study, [found for found in results if found is not None])
    for name in ("alpha/baseline", NAME):
        path = answers_file(study, name)
        path.write_bytes(b"".join(shuffled(path, seed)))
    again = [load_result(study, find(study, name)) for name in ("alpha/baseline", NAME)]
    assert again == results
    assert again[1] is not None
    assert [(answer.benchmark, answer.problem_id) for answer in again[1].answers] == asked
    assert make_table(study, [found for found in again if found is not None]) == table


def test_answers_of_an_older_grader_are_graded_anew() -> None:
    study = make_study()
    result = store_trial(study, "alpha/rtn-w8-g64-sym", knows(6))
    path = result.evaluations[0].folder / "answers.jsonl"
    whole = path.read_text()
    old = whole.replace(f'"grader": "{GRADER_VERSION}"', '"grader": "0"').replace(
        '"outcome": "correct"', '"outcome": "incorrect"'
    )
    path.write_text(old)
    again = load_result(study, result.config)
    assert again is not None
    assert [answer.outcome for answer in again.answers] == [answer.outcome for answer in result.answers]
    assert {answer.grader for answer in again.answers} == {GRADER_VERSION}


def test_answers_to_other_questions_are_refused_by_name() -> None:
    study = make_study()
    store_trial(study, NAME, knows(5))
    path = answers_file(study)
    answers = read_answers(path)
    path.write_text(path.read_text().replace(answers[3].key, "0" * 16))
    with pytest.raises(BadInput, match=answers[3].problem_id):
        load_result(study, find(study, NAME))
