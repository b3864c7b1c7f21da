"""The grid multiplies lists and adds blocks; random and suggested trials stay inside it."""

from collections import Counter
from itertools import groupby
from pathlib import Path

import optuna
import pytest

from compress.families import linear_shapes
from compress.scheme import CheckpointFormat, Scheme
from sweep.config import StudyConfig, load_study
from sweep.known_models import find_shapes
from sweep.space import TrialConfig, baselines, checkpoint_format, grid, random_trials, suggest
from tests.sweep.studies import make_study

pytestmark = pytest.mark.usefixtures("workdir")


def study_with(*overrides: str) -> StudyConfig:
    return load_study(Path("study.yaml"), overrides)


def test_lists_multiply_blocks_add_and_models_have_them_all() -> None:
    names = [trial.name for trial in grid(study_with("format=dequantized"))]
    schemes = ["rtn-w8-g64-sym", "rtn-w4-g64-sym", "rtn-w3-g64-sym", "sparsegpt-s0.5", "sparsegpt-2:4"]
    assert names == [f"{model}/{scheme}" for model in ("alpha", "beta") for scheme in schemes]


def test_every_key_of_a_block_takes_a_list() -> None:
    block = "[{method: [rtn, gptq], num_bits: [4, 3], group_size: [null, 32], symmetric: [true, false]}]"
    trials = grid(study_with(f"space={block}", "models=[{path: models/alpha}]"))
    assert len(trials) == 16
    assert {(trial.scheme.group_size, trial.scheme.symmetric) for trial in trials if trial.scheme} == {
        *((None, True), (None, False), (32, True), (32, False))
    }


def test_repeats_are_removed() -> None:
    twice = "space=[{method: rtn, num_bits: [4, 4]}, {method: rtn, num_bits: 4, dampening_frac: [0.01, 0.1]}]"
    assert [trial.name for trial in grid(study_with(twice))] == ["alpha/rtn-w4-channel-sym", "beta/rtn-w4-channel-sym"]


def test_trials_are_grouped_by_model_and_by_what_an_engine_must_restart_for() -> None:
    study = study_with("space=[{method: [rtn, gptq], num_bits: [4, 3], group_size: [64, 32]}]")

    def layout(trial: TrialConfig) -> tuple[str, object]:
        assert trial.scheme is not None
        form = checkpoint_format(study, trial.scheme, linear_shapes(find_shapes(trial.model) or {}))
        return trial.model.name, trial.scheme.group_size if form is CheckpointFormat.PACKED else form

    runs = [key for key, _ in groupby(grid(study), key=layout)]
    assert len(runs) == len(set(runs)) == 6  # for each model: dequantized, packed by 32, packed by 64


def test_a_baseline_for_each_model() -> None:
    assert [(trial.name, trial.scheme) for trial in baselines(study_with())] == [
        ("alpha/baseline", None),
        ("beta/baseline", None),
    ]


def test_random_trials_are_seeded_and_not_repeated_while_the_grid_lasts() -> None:
    def draw(seed: int, num_trials: int) -> list[str]:
        search = f"search={{algorithm: random, num_trials: {num_trials}}}"
        return [trial.name for trial in random_trials(study_with(search, f"seed={seed}"))]

    everything = {trial.name for trial in grid(study_with())}
    assert draw(0, 6) == draw(0, 6) != draw(1, 6)
    assert set(draw(0, 10)) == everything
    assert set(Counter(draw(0, 20)).values()) == {2}
    assert len(draw(0, 23)) == 23


def test_suggested_trials_are_of_the_grid_and_can_be_told_again() -> None:
    study = study_with()
    everything = {trial.name for trial in grid(study)}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=5)
    search = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    seen = set()
    for _ in range(40):
        asked = search.ask()
        trial = suggest(study, asked)
        search.tell(asked, [float(trial.model.name == "alpha"), float(trial.scheme.num_bits or 16)])
        assert suggest(study, optuna.trial.FixedTrial(asked.params)) == trial
        seen.add(trial.name)
    assert seen <= everything
    assert {name.split("/")[0] for name in seen} == {"alpha", "beta"}
    assert set(asked.distributions) <= {"model", "block", "0.num_bits", "1.sparsity"}


def test_format_follows_the_study_or_the_platform() -> None:
    linear = linear_shapes(find_shapes(study_with().models[0]) or {})
    four, three = Scheme("rtn", num_bits=4, group_size=64), Scheme("rtn", num_bits=3, group_size=64)
    auto = study_with()
    assert checkpoint_format(auto, four, linear) is CheckpointFormat.PACKED
    assert checkpoint_format(auto, three, linear) is CheckpointFormat.DEQUANTIZED
    assert checkpoint_format(auto, None, linear) is CheckpointFormat.DEQUANTIZED
    assert checkpoint_format(study_with("format=dequantized"), four, linear) is CheckpointFormat.DEQUANTIZED


def test_rules_for_single_modules_and_the_inputs_measured_on_are_axes() -> None:
    rules = [None, "protect_last_mlp", {"mlp.down_proj": {"num_bits": 4}}]
    block = {"method": "gptq", "num_bits": 3, "group_size": 64, "overrides": rules, "propagate": [None, "dense"]}
    names = [trial.name for trial in grid(make_study(space=[block]))]
    assert len(set(names)) == 2 * 6
    assert "alpha/gptq-w3-g64-sym-dense-protect_last_mlp" in names
