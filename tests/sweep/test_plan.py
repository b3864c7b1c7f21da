"""A plan counts, measures and names what it does not know, and leaves nothing behind."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from rich.console import Console

from compress.families import count_parameters, shapes_from_config
from compress.scheme import CheckpointFormat
from sweep.config import load_study
from sweep.known_models import KNOWN_CONFIGS
from sweep.plan import Plan, make_plan, render_plan

pytestmark = pytest.mark.usefixtures("workdir")
ROOT = Path(__file__).resolve().parents[2]
HUB = "models=[{hub: deepseek-ai/DeepSeek-R1-Distill-Qwen-7B}]"


def plan_with(*overrides: str, conf: Path = Path("study.yaml")) -> Plan:
    return make_plan(load_study(conf, overrides))


def rendered(plan: Plan) -> list[str]:
    console = Console(width=120, highlight=False, markup=False)
    with console.capture() as capture:
        for part in render_plan(plan):
            console.print(part, soft_wrap=isinstance(part, str))
    return capture.get().splitlines()


def test_counts_of_a_grid() -> None:
    plan = plan_with()
    assert (plan.num_trials, plan.num_baselines, plan.num_open, plan.grid_size) == (12, 2, 0, 10)
    assert plan.questions == {"temporal": 10, "recall": 10}
    assert plan.num_questions == 2 * 40 + 10 * 20  # a baseline is asked twice
    assert rendered(plan)[0].startswith("small: 12 trials, 280 questions, ")


def test_a_greedy_baseline_is_asked_once_and_completions_multiply() -> None:
    plan = plan_with("sampling.temperature=0", "sampling.num_completions=3")
    assert plan.num_questions == 12 * 60


def test_a_published_benchmark_bounds_the_questions() -> None:
    assert plan_with("benchmarks=[aime, temporal]", "num_problems=100").questions == {"aime": 30, "temporal": 100}
    assert plan_with("benchmarks=[aime]", "num_problems=null").questions == {"aime": 30}


def test_what_is_packed_here_and_what_is_not() -> None:
    trials = {trial.name: trial for trial in plan_with().trials}
    four, three, pruned = (trials[f"alpha/{name}"] for name in ("rtn-w4-g64-sym", "rtn-w3-g64-sym", "sparsegpt-2:4"))
    assert four.format is CheckpointFormat.PACKED
    assert four.served_gb == four.checkpoint_gb
    assert three.format is CheckpointFormat.DEQUANTIZED
    assert "3-bit" in three.why
    assert three.checkpoint_gb < three.served_gb == trials["alpha/baseline"].served_gb
    assert pruned.effective_bits == 16
    on_gpu = ["slots.num_gpus=1", "engine.num_gpus=1"]
    (eight,) = (trial for trial in plan_with(HUB, *on_gpu).trials if trial.name.endswith("/rtn-w8-g64-sym"))
    assert eight.format is CheckpointFormat.PACKED


def test_effective_bits_count_every_tensor() -> None:
    """4 bits and a 16-bit scale per 64 weights on the decoder's linear weights, 16 bits on the rest."""
    trial = next(trial for trial in plan_with().trials if trial.name == "alpha/rtn-w4-g64-sym")
    per_layer = 128 * (128 + 2 * 64 + 128) + 3 * 128 * 384
    linear, rest = 2 * per_layer, 512 * 128 + 5 * 128
    shape_bits = 2 * 7 * 128  # two 64-bit integers for each packed weight
    expected = (linear * (4 + 16 / 64) + rest * 16 + shape_bits) / (linear + rest)
    assert trial.effective_bits == pytest.approx(expected, rel=1e-9)


def test_the_disk_holds_the_store_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_with()
    written = sum(trial.served_gb for trial in plan.trials if trial.scheme)
    assert written < plan.store_gb < written + 0.01
    assert plan.disk_holds_it
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(0, 0, int(plan.store_gb * 1e9) - 1))
    full = plan_with()
    assert full.disk_holds_it is False
    assert "DOES NOT HOLD IT" in full.headline


def test_open_trials_of_tpe_are_counted_at_their_largest() -> None:
    plan = plan_with("search={algorithm: tpe, num_trials: 4}")
    assert (plan.num_trials, plan.num_open, len(plan.trials)) == (6, 4, 2)
    assert plan.num_questions == 2 * 40 + 4 * 20
    assert plan.store_gb > 4 * max(trial.served_gb for trial in plan.trials)
    assert any("4 more are chosen by tpe" in line for line in rendered(plan))


def test_repeated_random_draws_are_asked_once() -> None:
    plan = plan_with("search={algorithm: random, num_trials: 25}")
    assert plan.num_trials == 27
    assert plan.num_questions == plan_with().num_questions


def test_an_unknown_hub_model_is_said_and_not_guessed() -> None:
    plan = plan_with("models=[{hub: deepseek-ai/DeepSeek-R1-Distil-Qwen-7B}]")
    assert plan.store_gb is None
    assert plan.disk_holds_it is None
    assert all(trial.effective_bits is None for trial in plan.trials)
    assert any("nearest name known here is deepseek-ai/DeepSeek-R1-Distill-Qwen-7B" in note for note in plan.notes)
    assert rendered(plan)[0].startswith("small: 6 trials")


def test_a_hub_model_in_the_local_cache_has_its_shapes(workdir: Path) -> None:
    cache = workdir / "no-cache" / "models--someone--tiny"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("abc")
    shutil.copytree(workdir / "models" / "alpha", cache / "snapshots" / "abc")
    plan = plan_with("models=[{hub: someone/tiny}]")
    assert plan.store_gb is not None
    assert any("local cache" in note for note in plan.notes)


def test_missing_weights_are_a_note_before_a_launch(workdir: Path) -> None:
    assert any("models.0.path is models/alpha" in note and "safetensors" in note for note in plan_with().notes)
    for name in ("alpha", "beta"):
        (workdir / "models" / name / "model.safetensors").write_bytes(b"")
    assert plan_with().notes == ()


def test_text_to_calibrate_on_is_needed_where_no_benchmark_is_generated() -> None:
    assert any("calibration.file" in note for note in plan_with("benchmarks=[aime]").notes)
    by_magnitude = "space=[{method: magnitude, sparsity: 0.5}]"
    assert not any("calibration.file" in note for note in plan_with("benchmarks=[aime]", by_magnitude).notes)


def test_a_plan_as_json() -> None:
    plain = json.loads(json.dumps(plan_with().to_json()))
    assert (plain["study"], plain["num_trials"], plain["disk_holds_it"]) == ("small", 12, True)
    assert {"name", "format", "why", "effective_bits", "checkpoint_gb", "served_gb"} <= set(plain["trials"][0])


def test_the_study_s_grid_is_planned_offline() -> None:
    plan = plan_with(conf=ROOT / "conf" / "grid.yaml")
    assert plan.headline.startswith("grid: 60 trials, ")
    assert plan.platform == "cuda"
    assert plan.store_gb > 1000
    text = "\n".join(rendered(plan))
    assert "DeepSeek-R1-Distill-Llama-70B/sparsegpt-2:4" in text
    assert "was not looked up" in text
    assert "before a launch: calibration.file is not given" in text
    assert {trial.format for trial in plan.trials if trial.scheme} == {
        CheckpointFormat.PACKED,
        CheckpointFormat.DEQUANTIZED,
    }


def test_the_quickstart_s_plan() -> None:
    models = "models=[{path: models/alpha}, {path: models/beta}]"
    plan = plan_with(models, conf=ROOT / "conf" / "quickstart.yaml")
    assert plan.num_trials >= 16
    assert set(plan.questions) == {"temporal", "logic", "arithmetic", "recall"}
    assert min(plan.questions.values()) >= 100
    assert {trial.format for trial in plan.trials} == {CheckpointFormat.DEQUANTIZED}  # one layout, one engine a model


def test_known_shapes_have_the_published_number_of_parameters() -> None:
    counted = {name.rsplit("-", 2)[1] + "-" + name.rsplit("-", 1)[1]: config for name, config in KNOWN_CONFIGS.items()}
    assert {name: count_parameters(shapes_from_config(config)) for name, config in counted.items()} == {
        "Qwen-1.5B": 1_777_088_000,
        "Qwen-7B": 7_615_616_512,
        "Qwen-14B": 14_770_033_664,
        "Qwen-32B": 32_763_876_352,
        "Llama-8B": 8_030_261_248,
        "Llama-70B": 70_553_706_496,
        "30B-A3B": 30_532_122_624,
        "R1-BF16": 671_026_419_200,
    }
