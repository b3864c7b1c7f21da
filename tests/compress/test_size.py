"""Sizes: shapes from a config are those of transformers, and bytes are those of files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from compress.errors import ModelError
from compress.families import count_parameters, linear_shapes, shapes_from_config
from compress.scheme import Scheme
from compress.size import deployable_size, measured_size, packed_bytes, read_header

SMALL = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 512,
}


@pytest.mark.parametrize("family", [LlamaConfig, Qwen2Config, Qwen3Config, MistralConfig])
@pytest.mark.parametrize(
    "extra",
    [{}, {"tie_word_embeddings": True}, {"head_dim": 64}, {"attention_bias": True}, {"mlp_bias": True}],
    ids=str,
)
def test_shapes_are_those_of_transformers(family: type, extra: dict) -> None:
    if ("attention_bias" in extra and family in (Qwen2Config, MistralConfig)) or (
        ("mlp_bias" in extra and family is not LlamaConfig) or ("head_dim" in extra and family is Qwen2Config)
    ):
        pytest.skip("this family has no such key")
    config = family(**SMALL, **extra)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del expected["lm_head.weight"]
    shapes = shapes_from_config(json.loads(config.to_json_string()))
    assert shapes == expected
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
    assert set(linear_shapes(shapes)) == linear


def test_a_baseline_has_sixteen_bits() -> None:
    shapes = shapes_from_config(LlamaConfig(**SMALL).to_dict())
    for scheme in (None, Scheme("magnitude", sparsity=0.5), Scheme("sparsegpt", pattern=(2, 4))):
        size = deployable_size(shapes, scheme)
        assert (size.effective_bits, size.num_bytes) == (16, 2 * count_parameters(shapes))


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (Scheme("rtn", 4, 64), 64 * 128 // 2 + 64 * 2 * 2 + 16),
        (Scheme("rtn", 4), 64 * 128 // 2 + 64 * 2 + 16),
        (Scheme("rtn", 3, 32), 64 * 12 * 4 + 64 * 4 * 2 + 16),
        (Scheme("rtn", 2, 64, False), 64 * 128 // 4 + 64 * 2 * 2 + 2 * 16 + 16),
        (Scheme("rtn", 8, 128), 64 * 128 + 64 * 2 + 16),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_bytes_of_one_packed_weight(scheme: Scheme, expected: int) -> None:
    assert packed_bytes(64, 128, scheme) == expected


def test_measured_bytes_are_those_of_the_tensors(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(3, 5, dtype=torch.bfloat16), "b": torch.zeros(7, dtype=torch.int32)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert measured_size(tmp_path, 10).num_bytes == 30 + 28
    assert read_header(tmp_path / "model.safetensors") == {"a": ("BF16", (3, 5)), "b": ("I32", (7,))}


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: b"PK" + data,
        lambda _: b"",
        lambda data: data.replace(b"[3]", b"[4]"),
        lambda data: data.replace(b"[0,12]", b"[4,12]"),
    ],
)
def test_torn_files_are_named(tmp_path: Path, damage) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        read_header(path)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"model_type": "llamma"}, "nearest: llama"),
        ({"model_type": None}, "model_type is missing"),
        ({"hidden_size": "128"}, "hidden_size is 128"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_unknown_models_are_refused(change: dict, key: str) -> None:
    with pytest.raises(ModelError, match=key):
        shapes_from_config({**LlamaConfig(**SMALL).to_dict(), **change})
