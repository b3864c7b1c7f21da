"""Rules for single modules: what they name, what they change, what they weigh."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from compress.calibration import Calibration
from compress.errors import SchemeError
from compress.families import count_parameters, linear_shapes, shapes_from_config
from compress.overrides import matching
from compress.pipeline import compress_models
from compress.rules import module_schemes
from compress.scheme import Scheme
from compress.servable import packed_obstacle
from compress.size import deployable_size
from tests.compress.tiny_models import sentences

TEXTS = Calibration(texts=tuple(sentences(8)), num_samples=8, max_seq_length=32)
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 12,
    "vocab_size": 384,
}
SHAPES = shapes_from_config(CONFIG)
LINEAR = linear_shapes(SHAPES)
SKIP = {"skip": True}
LAST_MLP = {f"model.layers.11.mlp.{name}_proj" for name in ("gate", "up", "down")}


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("down_proj", 12),
        ("mlp.down_proj", 12),
        ("mlp", 36),
        ("self_attn.*", 48),
        ("layers.1", 7),  # not layers 10 and 11
        ("model.layers.1.*", 7),
        ("1", 7),
        ("-1", 7),
        ("model.layers.3.self_attn.q_proj", 1),
        ("[qk]_proj", 24),
        (r"re:layers\.[01]\.mlp", 6),
    ],
)
def test_patterns_name_dotted_parts(pattern: str, count: int) -> None:
    assert len(matching(pattern, LINEAR, 12, "only")) == count


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("down_prj", "only is down_prj.*nearest: down_proj"),
        ("mpl.down_proj", "nearest: mlp.down_proj"),
        ("12", "only is 12, must be a layer from 0 to 11"),
        ("re:(", "a regular expression behind re:"),
    ],
)
def test_patterns_that_name_nothing_are_refused(pattern: str, said: str) -> None:
    with pytest.raises(SchemeError, match=said):
        module_schemes(Scheme("rtn", 4, 32, only=pattern), LINEAR)


def test_later_rules_win_and_keep_the_rest_of_the_scheme() -> None:
    rules = {"mlp": {"num_bits": 8}, "down_proj": {"sparsity": "2:4"}, 0: SKIP}
    scheme = Scheme("gptq", 3, 32, symmetric=False, overrides=rules)
    own = module_schemes(scheme, LINEAR)
    assert own["model.layers.0.mlp.down_proj"] is None
    assert own["model.layers.1.self_attn.q_proj"] == Scheme("gptq", 3, 32, symmetric=False)
    assert own["model.layers.1.mlp.up_proj"] == Scheme("gptq", 8, 32, symmetric=False)
    assert own["model.layers.1.mlp.down_proj"] == Scheme("gptq", 8, 32, symmetric=False, pattern=(2, 4))
    assert Scheme.from_json(json.loads(json.dumps(scheme.to_json()))) == scheme
    assert scheme.name.startswith("gptq-w3-g32-asym-rules.")
    other = Scheme("gptq", 3, 32, symmetric=False, overrides={"mlp": {"num_bits": 8}})
    assert other.name != scheme.name


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("protect_last_mpl", "overrides is protect_last_mpl, must be.*nearest: protect_last_mlp"),
        ({"mlp": {"bits": 4}}, "overrides.mlp.bits is unknown, must be one of skip, num_bits, sparsity"),
        ({"mlp": {"num_bits": 9}}, "overrides.mlp.num_bits is 9.*nearest: 8"),
        ({"mlp": {"sparsity": 1.5}}, "overrides.mlp.sparsity is 1.5"),
        ({"mlp": {"skip": "yes"}}, "overrides.mlp.skip is yes"),
        ({"mlp": "skip"}, "overrides.mlp is skip, must be a mapping"),
        (7, "overrides is 7"),
    ],
)
def test_impossible_rules_are_refused_with_their_place(overrides: object, said: str) -> None:
    with pytest.raises(SchemeError, match=said):
        Scheme("rtn", 4, 32, overrides=overrides)


def test_presets_protect_the_same_share() -> None:
    def protected(preset: str) -> set[str]:
        own = module_schemes(Scheme("rtn", 4, 32, overrides=preset), LINEAR)
        return {name for name, scheme in own.items() if scheme is None}

    assert protected("protect_last_mlp") == LAST_MLP
    draws = [protected(f"protect_random_mlp-{seed}") for seed in range(5)]
    assert protected("protect_random_mlp") == draws[0]
    assert len({frozenset(draw) for draw in draws}) > 1
    for draw in draws:
        assert not draw & LAST_MLP
        assert sorted(LINEAR[name] for name in draw) == sorted(LINEAR[name] for name in LAST_MLP)
    sizes = {
        deployable_size(SHAPES, Scheme("rtn", 4, 32, overrides=preset)).num_bytes
        for preset in ("protect_last_mlp", "protect_random_mlp-3", "protect_lowest_mlp")
    }
    assert len(sizes) == 1


def test_effective_bits_count_the_rules() -> None:
    plain, only = (deployable_size(SHAPES, Scheme("rtn", 4, 32, only=only)) for only in (None, "down_proj"))
    saved = sum(2 * rows * columns for name, (rows, columns) in LINEAR.items() if name.endswith("down_proj"))
    stored = sum(rows * columns * 4.5 / 8 + 16 for name, (rows, columns) in LINEAR.items() if "down_proj" in name)
    assert only.num_bytes == 2 * count_parameters(SHAPES) - saved + stored
    assert plain.effective_bits < only.effective_bits < 16


def test_fused_modules_must_share_a_layout_to_be_packed() -> None:
    split = Scheme("rtn", 4, 32, overrides={"q_proj": {"skip": True}})
    assert "fuses q_proj and k_proj" in str(packed_obstacle(split, "cpu", LINEAR))
    assert packed_obstacle(Scheme("rtn", 4, 32, overrides={"self_attn": {"skip": True}}), "cpu", LINEAR) is None
    eight = Scheme("rtn", 4, 32, overrides={"down_proj": {"num_bits": 8}})
    assert "no kernel for packed 8-bit" in str(packed_obstacle(eight, "cpu", LINEAR))


def test_checkpoints_follow_their_rules(llama: Path, tmp_path: Path) -> None:
    schemes = [
        Scheme("gptq", 3, 32, only="model.layers.1.mlp.down_proj"),
        Scheme("gptq", 3, 32, overrides={"down_proj": {"num_bits": 2}, "self_attn": {"sparsity": 0.5}, 0: SKIP}),
        Scheme("gptq", 4, 32, overrides="protect_last_mlp"),
        Scheme("rtn", 2, 32, overrides="protect_lowest_mlp"),
    ]
    reports = compress_models(llama, tmp_path, schemes, TEXTS, platform="cpu")
    before = load_file(llama / "model.safetensors")

    def changed(report) -> set[str]:
        after = load_file(tmp_path / report.scheme.name / "model.safetensors")
        return {name for name in before if name not in after or not torch.equal(before[name], after[name])}

    assert changed(reports[0]) == {"model.layers.1.mlp.down_proj.weight"}
    assert len(changed(reports[1])) == 7 and all(".1." in name for name in changed(reports[1]))
    weight = load_file(tmp_path / schemes[1].name / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    assert max(len(group.unique()) for group in weight.reshape(-1, 32)) <= 4
    layers = {layer.name: layer for layer in reports[1].layers}
    assert layers["model.layers.1.self_attn.q_proj"].sparsity == pytest.approx(0.5, abs=0.01)
    assert layers["model.layers.1.mlp.up_proj"].sparsity == 0
    packed = reports[2]
    assert (packed.format, packed.num_bytes) == ("packed", deployable_size(shapes_of(llama), schemes[2]).num_bytes)
    ignored = json.loads((tmp_path / schemes[2].name / "config.json").read_text())["quantization_config"]["ignore"]
    assert {f"model.layers.1.mlp.{name}_proj" for name in ("gate", "up", "down")} <= set(ignored)
    assert len(reports[3].layers) == 2 * 7 - 3


def shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    return shapes_from_config(json.loads((folder / "config.json").read_text()))
