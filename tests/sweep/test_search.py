"""Which trials are run, in which order; and what Optuna is told of them, through Ray Tune."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from ray import tune

from sweep.config import StudyConfig
from sweep.errors import EvaluationFailed
from sweep.launch import _told as told
from sweep.search import TRIAL, Phase, find_trial, make_phases
from sweep.space import baselines, grid, random_trials
from tests.sweep.actors import answer_from_table, values_of
from tests.sweep.studies import knows, make_study, store_trial

NUM_TRIALS = 12  # of a grid of ten: some draw comes again
TABLE_OBJECTIVES = {"accuracy": "max", "tokens_per_question": "min", "effective_bits": "min"}


@pytest.fixture(autouse=True)
def _models(workdir: Path) -> None:
    """Every test here has models/alpha and models/beta in its current folder."""


def searched(algorithm: str, **more: Any) -> StudyConfig:
    return make_study(search={"algorithm": algorithm, "num_trials": NUM_TRIALS}, **more)


def listed(phase: Phase) -> list[str]:
    assert phase.search_alg is None
    assert phase.num_samples == 1
    (key,) = phase.param_space
    assert key == TRIAL
    return list(phase.param_space[TRIAL]["grid_search"])


def test_a_grid_runs_each_model_whole_its_baseline_first() -> None:
    study = make_study()
    (phase,) = make_phases(study, [])
    names = listed(phase)
    assert [model for model, _ in groupby(name.split("/")[0] for name in names)] == ["alpha", "beta"]
    assert [names[0], names[6]] == ["alpha/baseline", "beta/baseline"]
    assert sorted(names) == sorted(trial.name for trial in [*baselines(study), *grid(study)])


def test_with_two_slots_two_models_take_turns_and_each_keeps_its_order() -> None:
    (phase,) = make_phases(make_study(slots={"count": 2}), [])
    names = listed(phase)
    assert names[:2] == ["alpha/baseline", "beta/baseline"]
    assert [name.split("/")[0] for name in names] == ["alpha", "beta"] * (len(names) // 2)
    one_slot = listed(make_phases(make_study(), [])[0])
    for model in ("alpha", "beta"):
        of_model = [name for name in names if name.startswith(model)]
        assert of_model == [name for name in one_slot if name.startswith(model)]


def test_random_draws_are_run_as_they_were_drawn_repeats_too() -> None:
    study = searched("random")
    (phase,) = make_phases(study, [])
    names = listed(phase)
    drawn = [trial.name for trial in random_trials(study)]
    assert len(names) == len(baselines(study)) + NUM_TRIALS
    assert len(set(drawn)) == len(grid(study)) < NUM_TRIALS
    for model in ("alpha", "beta"):
        of_model = [name for name in names if name.startswith(model)]
        assert of_model == [f"{model}/baseline", *(name for name in drawn if name.startswith(model))]
    assert listed(make_phases(study, [])[0]) == names
    assert listed(make_phases(searched("random", seed=1), [])[0]) != names


def test_a_trial_is_found_by_its_name() -> None:
    study = make_study()
    for trial in [*baselines(study), *grid(study)]:
        assert find_trial(study, trial.name) == trial


def proposals_of(phase: Phase, number: int) -> Iterator[dict[str, Any]]:
    """The next proposals, each answered with the same values before the next is asked for."""
    searcher: Any = phase.search_alg
    for index in range(number):
        yield searcher.suggest(f"t{index}")
        searcher.on_trial_complete(f"t{index}", dict.fromkeys(TABLE_OBJECTIVES, 1.0))


@pytest.mark.parametrize("algorithm", ["tpe", "nsga2"])
def test_baselines_come_before_what_is_searched(algorithm: str) -> None:
    study = searched(algorithm)
    first, second = make_phases(study, [])
    assert listed(first) == ["alpha/baseline", "beta/baseline"]
    assert (second.param_space, second.num_samples) == ({}, NUM_TRIALS)
    names = {trial.name for trial in grid(study)}
    assert all(config[TRIAL] in names for config in proposals_of(second, NUM_TRIALS))


@pytest.mark.parametrize("algorithm", ["tpe", "nsga2"])
def test_an_interrupted_search_proposes_the_same_again_and_then_goes_on(algorithm: str) -> None:
    blocks = [
        {"method": "rtn", "num_bits": [8, 4, 3, 2], "group_size": [None, 64, 32], "symmetric": [True, False]},
        {"method": "magnitude", "sparsity": [0.5, "2:4", 0.6]},
    ]
    study = searched(algorithm, space=blocks)
    before = list(proposals_of(make_phases(study, [])[1], 6))
    noted = [{key: value for key, value in config.items() if key != TRIAL} for config in before]
    replayed = json.loads(json.dumps(noted))  # as they come back from proposals.jsonl
    after = list(proposals_of(make_phases(study, replayed)[1], NUM_TRIALS))
    assert after[:6] == before
    assert after[6:] != before  # not the beginning once more
    assert len({config[TRIAL] for config in after}) > len({config[TRIAL] for config in before})


@pytest.mark.parametrize("algorithm", ["tpe", "nsga2"])
def test_the_seed_decides_what_is_proposed(algorithm: str) -> None:
    def names(seed: int) -> list[str]:
        return [config[TRIAL] for config in proposals_of(make_phases(searched(algorithm, seed=seed), [])[1], 8)]

    assert names(0) == names(0) != names(1)


class Ended(tune.Callback):
    """The names of the trials that ended, as the driver sees them."""

    def __init__(self) -> None:
        self.complete: list[str] = []
        self.failed: list[str] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.complete.append(trial.config[TRIAL])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.failed.append(trial.config[TRIAL])


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("algorithm", ["tpe", "nsga2"])
def test_optuna_is_told_values_and_failures(algorithm: str, tmp_path: Path) -> None:
    blocks = [{"method": "rtn", "num_bits": [8, 2], "group_size": 64}, {"method": "magnitude", "sparsity": 0.5}]
    search = {"algorithm": algorithm, "num_trials": 8}  # of a grid of six: some proposal comes again
    phase = make_phases(make_study(space=blocks, search=search, objectives=TABLE_OBJECTIVES), [])[1]
    ended = Ended()
    tune.Tuner(
        tune.with_resources(answer_from_table, tune.PlacementGroupFactory([{"CPU": 0.001}])),
        param_space=phase.param_space,
        tune_config=tune.TuneConfig(
            search_alg=phase.search_alg, num_samples=phase.num_samples, max_concurrent_trials=1, reuse_actors=True
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), callbacks=[ended], verbose=0),
    ).fit()
    searcher: Any = phase.search_alg
    told: list[optuna.trial.FrozenTrial] = searcher._ot_study.trials
    assert len(told) == len(ended.complete) + len(ended.failed) == 8
    complete = [trial for trial in told if trial.state is TrialState.COMPLETE]
    failed = [trial for trial in told if trial.state is TrialState.FAIL]
    assert len(complete) + len(failed) == 8  # none pruned, none left running
    assert len(failed) == len(ended.failed) > 0
    assert set(ended.failed) <= {"alpha/rtn-w2-g64-sym", "beta/rtn-w2-g64-sym"}
    assert {trial.params["0.num_bits"] for trial in failed} == {2}
    assert all(trial.values is None for trial in failed)
    table = sorted(list((values_of(name) or {}).values()) for name in ended.complete)
    assert sorted(trial.values for trial in complete) == table
    assert len(set(ended.complete)) < len(ended.complete)  # a repeat is a trial, answered again
    directions = [direction.name for direction in searcher._ot_study.directions]
    assert directions == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]


@pytest.mark.usefixtures("stored")
def test_a_search_is_told_every_objective_or_that_the_trial_failed() -> None:
    price = {"usd_per_hour": 36, "usd_per_hour_date": "2026-11-01"}
    objectives = {"accuracy": "max", "usd_per_1k_questions": "min"}
    study = make_study(objectives=objectives, **price)
    result = store_trial(study, "alpha/baseline", knows(8))
    assert "accuracy" in told(study, result)
    with pytest.raises(EvaluationFailed, match=r"baseline: .* no usd_per_1k_questions, .* at least 192 q"):
        told(searched("tpe", objectives=objectives, **price), result)
