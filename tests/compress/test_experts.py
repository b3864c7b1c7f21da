"""Models with experts: Qwen-MoE and DeepSeek, tiny and random."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from compress import forward
from compress.calibration import Calibration, calibration_rows
from compress.decoder import BLOCKS, Decoder, pass_block
from compress.errors import FormatError, ModelError
from compress.experts import Experts, mix, needed_tokens
from compress.families import is_expert, layer_stages, linear_shapes, routers_of, shapes_from_config
from compress.hessian import HessianSum
from compress.methods import Method, Propagate
from compress.packing import dense_weight
from compress.pipeline import compress_model
from compress.progress import PartialCheckpoint
from compress.rules import mlp_units
from compress.scheme import CheckpointFormat, Scheme
from compress.servable import packed_obstacle
from compress.size import deployable_size, read_header
from compress.solve import grid_spec, solve_unit
from tests.compress.tiny_models import moe_config, save_model, sentences

FAMILIES = ("Qwen2Moe", "Qwen3Moe", "DeepseekV2", "DeepseekV3")
TEXTS = Calibration(texts=(*sentences(12), *sentences(3, 9)), num_samples=15, max_seq_length=48)
DENSE = Scheme(Method.GPTQ, 3, 32, propagate=Propagate.DENSE)
each_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = save_model(tmp_path_factory.mktemp("models") / family, moe_config(family))
        return made[family]

    return make


def shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    return shapes_from_config(json.loads((folder / "config.json").read_text()))


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def routed(folder: Path, calibration: Calibration = TEXTS) -> tuple[Tensor, Tensor]:
    """What the experts of layer 1 read in transformers' own forward, [N, C], and where it is sent, [N, k]."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    seen: list[tuple[Tensor, Tensor]] = []
    hook = model.model.layers[1].mlp.experts.register_forward_pre_hook(lambda _, args: seen.append(args[:2]))
    with torch.no_grad():
        for row in sorted(calibration_rows(calibration, AutoTokenizer.from_pretrained(folder)), key=len):
            model(torch.tensor([row]))
    hook.remove()
    return torch.cat([hidden for hidden, _ in seen]), torch.cat([chosen for _, chosen in seen])


@each_family
def test_shapes_are_those_of_the_files(family: str, model_of) -> None:
    folder = model_of(family)
    shapes = shapes_of(folder)
    assert shapes == {name: shape for name, (_, shape) in read_header(folder / "model.safetensors").items()}
    linear = linear_shapes(shapes)
    assert not set(routers_of(shapes)) & set(linear) and any(map(is_expert, linear))
    others = {name.removesuffix(".weight") for name in shapes} - set(linear)
    assert all(
        "norm" in name or name.endswith((".gate", "_gate", "bias", "embed_tokens", "lm_head")) for name in others
    )
    first, second = layer_stages(shapes)
    assert sorted(name for stage in (*first, *second) for unit in stage for name in unit) == sorted(
        name.split(".", 3)[3] for name in linear
    )
    assert ("mlp.experts.3.gate_proj", "mlp.experts.3.up_proj") in second[-2]
    assert ("mlp.experts.3.down_proj",) in second[-1]


@each_family
def test_layers_are_walked_as_transformers_runs_them(family: str, model_of) -> None:
    rows = [list(range(5, 5 + length)) for length in (7, 19, 12)]
    model: Any = AutoModelForCausalLM.from_pretrained(model_of(family), dtype=torch.float32).eval()
    decoder = Decoder(model_of(family), torch.float32, torch.device("cpu"))
    batches = list(decoder.embed(rows))
    for index in range(decoder.num_layers):
        layer = decoder.layer(index, decoder.read_layer(index))
        for block in BLOCKS:
            batches = [pass_block(layer, block, batch)[1] for batch in batches]
    with torch.no_grad():
        ours = [batch.tokens(model.lm_head(model.model.norm(batch.hidden))) for batch in batches]
        alone = [model(torch.tensor([row])).logits[0] for row in sorted(rows, key=len)]
    torch.testing.assert_close(torch.cat(ours), torch.cat(alone), rtol=1e-4, atol=1e-5)


@each_family
@pytest.mark.parametrize("propagate", Propagate)
def test_checkpoint_has_the_names_of_the_files_and_loads(
    family: str, propagate: Propagate, model_of, tmp_path: Path
) -> None:
    folder, out = model_of(family), tmp_path / "out"
    report = compress_model(folder, out, Scheme(Method.GPTQ, 4, 32, propagate=propagate), TEXTS)
    before, after = tensors_of(folder), tensors_of(out)
    assert report.format == "dequantized" and report.loss is not None and report.loss < 0.02
    assert before.keys() == after.keys()
    linear = {f"{name}.weight" for name in linear_shapes(shapes_of(folder))}
    for name, tensor in before.items():
        assert torch.equal(after[name].float(), tensor.float()) == (name not in linear), name
    assert {layer.name for layer in report.layers} == {name.removesuffix(".weight") for name in linear}
    model: Any = AutoModelForCausalLM.from_pretrained(out)
    fused = model.model.layers[1].mlp.experts
    names = [f"model.layers.1.mlp.experts.5.{module}.weight" for module in ("gate_proj", "up_proj", "down_proj")]
    assert torch.equal(fused.gate_up_proj[5], torch.cat([after[name] for name in names[:2]]))
    assert torch.equal(fused.down_proj[5], after[names[2]])


def test_a_routers_correction_stays_32_bits_wide(model_of, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    config = moe_config("DeepseekV3")
    save_model(folder, config, dtype="float32")
    compress_model(folder, tmp_path / "out", Scheme(Method.RTN, 4, 32))
    header = read_header(tmp_path / "out/model.safetensors")
    assert header["model.layers.1.mlp.gate.e_score_correction_bias"] == ("F32", (8,))
    assert header["model.layers.1.mlp.gate.weight"][0] == "BF16"


@pytest.mark.parametrize("family", ["Qwen2Moe", "DeepseekV3"])
def test_an_experts_hessian_is_that_of_the_tokens_routed_to_it(family: str, model_of, tmp_path: Path) -> None:
    folder = model_of(family)
    report = compress_model(folder, tmp_path / "out", DENSE, TEXTS)
    hidden, chosen = routed(folder)
    dense, after = tensors_of(folder), tensors_of(tmp_path / "out")
    tokens_of = {layer.name: layer.num_tokens for layer in report.layers}
    assert tokens_of["model.layers.1.self_attn.o_proj"] == len(hidden)
    checked = 0
    for expert in range(8):
        prefix = f"model.layers.1.mlp.experts.{expert}"
        inputs = hidden[(chosen == expert).any(1)]
        assert tokens_of[f"{prefix}.gate_proj"] == tokens_of[f"{prefix}.down_proj"] == len(inputs)
        if len(inputs) < needed_tokens(64):
            continue
        checked += 1
        gate, up = (dense[f"{prefix}.{name}.weight"].float() for name in ("gate_proj", "up_proj"))
        inner = torch.nn.functional.silu(inputs @ gate.T) * (inputs @ up.T)
        for names, read in ((("gate_proj", "up_proj"), inputs), (("down_proj",), inner)):
            weights = {f"{prefix}.{name}": dense[f"{prefix}.{name}.weight"].float() for name in names}
            assert share_changed(weights, read, after) < 0.01  # a sum in another order may turn a rounding
            assert share_changed(weights, read[: len(read) // 2], after) > 0.05
    assert checked >= 2


def share_changed(weights: dict[str, Tensor], inputs: Tensor, after: dict[str, Tensor]) -> float:
    """Of the weights in a checkpoint, those that differ from a solution on these inputs [N, C]."""
    solved = solve_unit(weights, 2 / len(inputs) * inputs.T @ inputs, DENSE, torch.bfloat16).weights
    changed = [solved[name].weight.bfloat16() != after[f"{name}.weight"] for name in weights]
    return float(torch.cat(changed).float().mean())


def test_mixing_counts_all_tokens_for_those_that_are_missing() -> None:
    generator = torch.Generator().manual_seed(0)
    everyone = HessianSum(16)
    everyone.add(torch.randn(100, 16, generator=generator))
    own = HessianSum(16)
    torch.testing.assert_close(mix(own, everyone), everyone.mean())
    own.add(torch.randn(4, 16, generator=generator))
    share = 4 / needed_tokens(16)
    torch.testing.assert_close(mix(own, everyone), share * own.mean() + (1 - share) * everyone.mean())


@pytest.mark.parametrize("propagate", Propagate)
def test_experts_that_see_few_tokens_are_handled_and_counted(propagate: Propagate, model_of, tmp_path: Path) -> None:
    folder = model_of("Qwen3Moe")
    few = Calibration(texts=tuple(sentences(1)), num_samples=1, max_seq_length=9)
    report = compress_model(folder, tmp_path / "out", Scheme(Method.GPTQ, 3, 32, propagate=propagate), few)
    hidden, chosen = routed(folder, few)
    counts = torch.bincount(chosen.flatten(), minlength=8).tolist()
    assert min(counts) == 0 < max(counts)
    if propagate is Propagate.DENSE:
        unseen = [f"model.layers.1.mlp.experts.{counts.index(0)}.{name}" for name in ("gate_proj", "up_proj")]
        weights = {name: tensors_of(folder)[f"{name}.weight"].float() for name in unseen}
        assert share_changed(weights, hidden, tensors_of(tmp_path / "out")) < 0.01
        seen = {layer.name: layer.num_tokens for layer in report.layers}
        assert [seen[f"model.layers.1.mlp.experts.{expert}.up_proj"] for expert in range(8)] == counts
    assert report.fallbacks["experts_with_few_tokens"] == sum(count < needed_tokens(64) for count in counts) > 4
    assert all(layer.loss is not None and 0 < layer.loss < 0.2 for layer in report.layers)
    enough = compress_model(folder, tmp_path / "rest", Scheme(Method.RTN, 3, 32, only="self_attn"), few)
    assert "experts_with_few_tokens" not in {cause for cause, count in enough.fallbacks.items() if count}


def test_measuring_in_portions_gives_the_same_bytes(model_of, tmp_path: Path, monkeypatch) -> None:
    schemes = [Scheme(Method.GPTQ, 3, 32), DENSE]
    whole = [compress_model(model_of("Qwen2Moe"), tmp_path / f"a{i}", s, TEXTS) for i, s in enumerate(schemes)]
    monkeypatch.setattr(forward, "HESSIAN_BYTES", 4 * 64**2)
    parts = [compress_model(model_of("Qwen2Moe"), tmp_path / f"b{i}", s, TEXTS) for i, s in enumerate(schemes)]
    assert [r.weights_fingerprint for r in whole] == [r.weights_fingerprint for r in parts]


def test_rules_reach_single_experts(model_of, tmp_path: Path) -> None:
    folder = model_of("DeepseekV3")
    rules = {"mlp.experts.3": {"skip": True}, "mlp.shared_experts": {"num_bits": 8}}
    scheme = Scheme.from_json({"method": "rtn", "num_bits": 2, "group_size": 32, "overrides": rules})
    report = compress_model(folder, tmp_path / "out", scheme)
    before, after = tensors_of(folder), tensors_of(tmp_path / "out")
    kept = {
        name
        for name in linear_shapes(shapes_of(folder))
        if torch.equal(before[f"{name}.weight"], after[f"{name}.weight"])
    }
    assert kept == {f"model.layers.1.mlp.experts.3.{name}" for name in ("gate_proj", "up_proj", "down_proj")}
    assert report.effective_bits == deployable_size(shapes_of(folder), scheme).effective_bits
    errors = {layer.name: layer.weight_error for layer in report.layers}
    assert errors["model.layers.1.mlp.shared_experts.up_proj"] < 1e-3 < errors["model.layers.1.mlp.experts.2.up_proj"]
    with pytest.raises(FormatError, match="fuses all experts of a layer"):
        compress_model(folder, tmp_path / "packed", scheme, format=CheckpointFormat.PACKED, platform="cuda")
    kinds = mlp_units(linear_shapes(shapes_of(folder)))  # the first layer's MLP has fewer weights: no control of these
    assert [len(kind) for kind in kinds] == [1, 1] and len(kinds[0][0]) == 2 * (8 + 1)


def test_a_budget_gives_the_experts_of_a_layer_one_width(model_of, tmp_path: Path) -> None:
    folder = model_of("DeepseekV2")
    report = compress_model(folder, tmp_path / "out", Scheme(Method.GPTQ, group_size=32, average_bits=4.5), TEXTS)
    assert report.widths is not None and 4 < report.effective_bits <= 4.5
    for modules in (("gate_proj", "up_proj"), ("down_proj",)):
        assert len({width for name, width in report.widths.items() if is_expert(name) and name.endswith(modules)}) == 1
    assert len(set(report.widths.values())) > 1


@pytest.mark.parametrize("method", [Method.GPTAQ, Method.AWQ, Method.SPARSEGPT])
def test_other_methods_take_experts(method: Method, model_of, tmp_path: Path) -> None:
    scheme = Scheme(method, sparsity=0.5) if method is Method.SPARSEGPT else Scheme(method, 3, 32)
    report = compress_model(model_of("DeepseekV3"), tmp_path / "out", scheme, TEXTS)
    plain = Scheme(Method.MAGNITUDE, sparsity=0.5) if method is Method.SPARSEGPT else Scheme(Method.RTN, 3, 32)
    assert report.loss is not None
    assert report.loss < (compress_model(model_of("DeepseekV3"), tmp_path / "plain", plain, TEXTS).loss or 0)


def test_a_stopped_pass_goes_on_with_the_same_bytes(tmp_path: Path, monkeypatch) -> None:
    scheme = Scheme(Method.GPTQ, 3, 32)
    folder = save_model(tmp_path / "model", moe_config("DeepseekV3", first_k_dense_replace=0))
    whole = compress_model(folder, tmp_path / "whole", scheme, TEXTS)
    finish = PartialCheckpoint.finish_layer

    def stop(*arguments: Any) -> None:
        finish(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PartialCheckpoint, "finish_layer", stop)
        compress_model(folder, tmp_path / "out", scheme, TEXTS)
    assert not (tmp_path / "out").exists()
    again = compress_model(folder, tmp_path / "out", scheme, TEXTS)
    assert (again.weights_fingerprint, again.layers, again.fallbacks) == (
        whole.weights_fingerprint,
        whole.layers,
        whole.fallbacks,
    )


@pytest.mark.parametrize("family", ["Qwen2Moe", "DeepseekV3"])
def test_packed_bytes_are_those_computed(family: str, tmp_path: Path) -> None:
    wide = {"hidden_size": 128, "intermediate_size": 256, "moe_intermediate_size": 128}
    wide |= (
        {"shared_expert_intermediate_size": 128} if family == "Qwen2Moe" else {"v_head_dim": 32, "kv_lora_rank": 128}
    )
    wide |= {} if family == "Qwen2Moe" else {"q_lora_rank": 128, "qk_rope_head_dim": 64, "num_experts_per_tok": 2}
    folder = save_model(tmp_path / "model", moe_config(family, **wide))
    scheme = Scheme(Method.RTN, 4, 64)
    reports = {
        form: compress_model(folder, tmp_path / form, scheme, format=form, platform="cuda")
        for form in (CheckpointFormat.PACKED, CheckpointFormat.DEQUANTIZED)
    }
    packed, dense = reports.values()
    assert (packed.size_source, packed.num_bytes) == ("measured", dense.num_bytes)
    shapes = shapes_of(folder)
    entry = json.loads((tmp_path / "packed/config.json").read_text())["quantization_config"]
    assert entry["ignore"] == ["lm_head", *routers_of(shapes)]
    stored, twin = tensors_of(tmp_path / "packed"), tensors_of(tmp_path / "dequantized")
    spec = grid_spec(scheme, torch.bfloat16)
    assert spec is not None
    name = "model.layers.1.mlp.experts.7.down_proj"
    parts = {key.removeprefix(f"{name}."): tensor for key, tensor in stored.items() if key.startswith(f"{name}.")}
    assert torch.equal(dense_weight(parts, spec).bfloat16(), twin[f"{name}.weight"])


def test_what_vllm_loads_of_packed_experts() -> None:
    linear = {f"model.layers.0.mlp.experts.0.{name}": (128, 128) for name in ("gate_proj", "up_proj", "down_proj")}
    for scheme in (Scheme("rtn", 4, 64), Scheme("rtn", 8, 128)):
        assert packed_obstacle(scheme, "cuda", linear) is None
        assert "no kernel for packed experts" in str(packed_obstacle(Scheme("rtn", 4, 64), "cpu", linear))
    for scheme in (Scheme("rtn", 3, 64), Scheme("rtn", 4, 64, symmetric=False)):
        assert "packed experts of 4 or 8 bits" in str(packed_obstacle(scheme, "cuda", linear))
    one = {"model.layers.0.mlp.experts.0.down_proj": {"num_bits": 8}}
    mixed = Scheme.from_json({"method": "rtn", "num_bits": 4, "group_size": 64, "overrides": one})
    assert "fuses all experts" in str(packed_obstacle(mixed, "cuda", linear))


def test_experts_compute_what_the_fused_ones_do() -> None:
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

    config = moe_config("Qwen3Moe")
    config._experts_implementation = "eager"
    fused = Qwen3MoeExperts(config)
    torch.manual_seed(0)
    for parameter in fused.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ours = Experts(fused)
    for index, expert in enumerate(ours):
        gate, up = fused.gate_up_proj[index].data.chunk(2)
        expert.load_state_dict(
            {"gate_proj.weight": gate, "up_proj.weight": up, "down_proj.weight": fused.down_proj[index].data}
        )
    tokens, chosen, weights = torch.randn(30, 64), torch.randint(0, 8, (30, 2)), torch.rand(30, 2)
    torch.testing.assert_close(ours(tokens, chosen, weights), fused(tokens, chosen, weights))


def test_the_nearest_family_is_named() -> None:
    config = json.loads(moe_config("Qwen3Moe").to_json_string())
    with pytest.raises(ModelError, match="nearest: qwen3_moe"):
        shapes_from_config({**config, "model_type": "qwen3_5_moe"})
    with pytest.raises(ModelError, match=r"config.json num_experts is missing"):
        shapes_from_config({key: value for key, value in config.items() if "experts" not in key})
