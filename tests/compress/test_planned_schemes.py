"""Every method through the whole pass: what is written loads, and is what the report says."""

import json
from pathlib import Path

import pytest
import torch

from compress.calibration import Calibration, calibration_rows
from compress.checkpoint import read_config
from compress.errors import FormatError, SchemeError
from compress.families import linear_shapes, shapes_from_config
from compress.job import load_tokenizer
from compress.pipeline import compress_model, compress_models
from compress.report import load_report
from compress.scheme import CheckpointFormat, Scheme
from tests.compress.tiny_models import sentences

CALIBRATION = Calibration(texts=tuple(sentences(24)), num_samples=24, max_seq_length=64)
MODELS = ["llama", "qwen3"]


def model_of(name: str, request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(name)


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    tokens = torch.arange(48).reshape(2, 24) * 7 % 300
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(tokens).logits


@pytest.mark.parametrize("name", MODELS)
def test_one_pass_serves_all_methods(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    schemes = [
        Scheme("awq", 3, 32),
        Scheme("awq", 3, 32, propagate="dense"),
        Scheme("gptaq", 3, 32),
        Scheme("gptq", "ternary", 32),
        Scheme("gptq", 3, 32, observer="mse"),
        Scheme("obr", sparsity=0.5, num_bits=4, group_size=32),
        Scheme("obr", pattern=(2, 4)),
        Scheme("wanda", sparsity=0.5),
        Scheme("alphapruning", sparsity=0.5),
        Scheme("gptq", average_bits=3.0, group_size=32),
        Scheme("rtn", average_bits=3.0, group_size=32, allocation="uniform"),
        Scheme("rtn", average_bits=3.0, group_size=32),
        Scheme("sparsegpt", pattern=(3, 4), overrides={"mlp": {"skip": True}, "0": {"skip": False}}),
    ]
    model = model_of(name, request)
    reports = compress_models(model, tmp_path, schemes, CALIBRATION, formats=CheckpointFormat.DEQUANTIZED)
    dense = logits(model)
    for scheme, report in zip(schemes, reports, strict=True):
        folder = tmp_path / scheme.name
        assert load_report(folder) == report
        assert report.loss is not None and 0 < report.loss < 1, scheme.name
        found = logits(folder)
        assert torch.isfinite(found).all()
        assert (found - dense).square().mean() < dense.var(), scheme.name
        assert abs(report.sparsity - scheme.sparsity) < 0.01, scheme.name
        assert Scheme.from_json(scheme.to_json()) == scheme


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("propagate", ["dense", "compressed"])
def test_awqs_scales_fold_into_what_feeds_them(
    name: str, propagate: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """At 8 bits rounding is small, so that a scale that went nowhere, or twice, would show."""
    from safetensors.torch import load_file

    model = model_of(name, request)
    compress_model(
        model,
        tmp_path / "awq",
        Scheme("awq", 8, 32, propagate=propagate),
        CALIBRATION,
        format=CheckpointFormat.DEQUANTIZED,
    )
    before, after = load_file(model / "model.safetensors"), load_file(tmp_path / "awq" / "model.safetensors")
    norms = [key for key in before if key.endswith("layernorm.weight")]
    assert any(not torch.equal(before[key], after[key]) for key in norms)
    dense, found = logits(model), logits(tmp_path / "awq")
    assert (found - dense).square().mean() < 0.002 * dense.var()


def test_awq_packed_and_dequantized_are_one_model(llama: Path, tmp_path: Path) -> None:
    scheme = Scheme("awq", 4, 32)
    for format in (CheckpointFormat.PACKED, CheckpointFormat.DEQUANTIZED):
        compress_model(llama, tmp_path / format, scheme, CALIBRATION, format=format, platform="cpu")
    torch.testing.assert_close(logits(tmp_path / "packed"), logits(tmp_path / "dequantized"), rtol=0, atol=2e-2)


@pytest.mark.parametrize(("activations", "dtype"), [("int8", torch.int8), ("fp8", torch.float8_e4m3fn)])
def test_byte_layouts_hold_what_was_solved(llama: Path, tmp_path: Path, activations: str, dtype: torch.dtype) -> None:
    from safetensors.torch import load_file

    scheme = Scheme("rtn", 8, input_activations=activations)
    report = compress_model(llama, tmp_path / "bytes", scheme, platform="cpu")
    assert (report.format, report.size_source) == (CheckpointFormat.PACKED, "measured")
    base, stored = load_file(llama / "model.safetensors"), load_file(tmp_path / "bytes" / "model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    assert stored[f"{name}.weight"].dtype == dtype
    values = stored[f"{name}.weight"].float() * stored[f"{name}.weight_scale"].float()
    error = (values - base[f"{name}.weight"].float()).square().sum() / base[f"{name}.weight"].float().square().sum()
    assert error < 2e-3
    with pytest.raises(FormatError, match="rounds each layer's inputs too"):
        compress_model(llama, tmp_path / "no", scheme, format=CheckpointFormat.DEQUANTIZED, platform="cpu")


def test_a_budget_is_kept_down_to_the_stored_values(llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    scheme = Scheme("gptq", average_bits=2.6, group_size=32)
    report = compress_model(llama, tmp_path / "budget", scheme, CALIBRATION)
    assert 2.3 < report.effective_bits <= 2.6 and report.size_source == "computed"
    assert report.nominal_bits is not None and report.nominal_bits < report.effective_bits
    assert report.widths is not None and {"lm_head", "model.embed_tokens"} < set(report.widths)
    stored = load_file(tmp_path / "budget" / "model.safetensors")
    for name, width in report.widths.items():
        groups = stored[f"{name}.weight"].float().reshape(-1, 32)
        most = 3 if width == "ternary" else 2 ** int(width)
        assert max(len(group.unique()) for group in groups) <= most, name
    config = json.loads((tmp_path / "budget" / "config.json").read_text())
    assert "quantization_config" not in config


def test_a_budget_out_of_reach_is_refused_before_any_work(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(SchemeError, match=r"average_bits is 1\.58, must be at least 2\.\d+ for this model"):
        compress_model(llama, tmp_path / "budget", Scheme("gptq", average_bits=1.58, group_size=32), CALIBRATION)
    assert not (tmp_path / "budget").exists()


def test_alphapruning_leaves_the_sparsities_that_rules_set(llama: Path, tmp_path: Path) -> None:
    rules = {"mlp.down_proj": {"sparsity": 0.1}, "0.mlp.up_proj": {"skip": True}}
    report = compress_model(llama, tmp_path / "out", Scheme("alphapruning", sparsity=0.5, overrides=rules), CALIBRATION)
    found = {layer.name: layer.sparsity for layer in report.layers}
    assert "model.layers.0.mlp.up_proj" not in found
    downs = [share for name, share in found.items() if name.endswith("down_proj")]
    assert len(downs) == 2 and all(abs(share - 0.1) < 0.01 for share in downs)
    sizes = linear_shapes(shapes_from_config(read_config(llama)))
    weights = {name: sizes[name][0] * sizes[name][1] for name in found if not name.endswith("down_proj")}
    mean = sum(found[name] * size for name, size in weights.items()) / sum(weights.values())
    assert abs(mean - 0.5) < 0.01
    assert len({round(found[name], 3) for name in weights}) > 1  # by layer


def test_a_budget_is_measured_behind_the_embedding_that_it_rounds(llama: Path, tmp_path: Path) -> None:
    """The loss of the first layer's queries, anew from the two checkpoints."""
    from safetensors.torch import load_file

    report = compress_model(llama, tmp_path / "out", Scheme("gptq", average_bits=2.6, group_size=32), CALIBRATION)
    base, made = (load_file(folder / "model.safetensors") for folder in (llama, tmp_path / "out"))
    embedding, norm = made["model.embed_tokens.weight"].float(), base["model.layers.0.input_layernorm.weight"].float()
    rows = calibration_rows(CALIBRATION, load_tokenizer(llama))
    hidden = torch.cat([embedding[torch.tensor(row)] for row in rows])
    inputs = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + read_config(llama)["rms_norm_eps"]) * norm
    name = "model.layers.0.self_attn.q_proj"
    before, after = base[f"{name}.weight"].float(), made[f"{name}.weight"].float()
    loss = float(((before - after) @ inputs.T).square().sum() / (before @ inputs.T).square().sum())
    assert next(layer.loss for layer in report.layers if layer.name == name) == pytest.approx(loss, rel=1e-3)
