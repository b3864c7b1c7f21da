"""One kernel for a norm on CUDA in place of transformers' six."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from compress.decoder import fuse_norms

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "vocab_size": 32,
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def norms_of(layer: nn.Module) -> list[Any]:
    return [module for module in layer.modules() if type(module).__name__.endswith("RMSNorm")]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("config", "num_norms"), [(LlamaConfig(**SIZES), 2), (Qwen3Config(**SIZES, head_dim=16), 4)], ids=["llama", "qwen3"]
)
def test_a_fused_norm_is_transformers_own_but_for_the_last_bit(config: Any, num_norms: int, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    build: Any = AutoModelForCausalLM.from_config
    layer = build(config, dtype=torch.bfloat16).model.layers[0].to(device)
    fuse_norms(layer)
    norms = norms_of(layer)
    assert len(norms) == num_norms
    for norm in norms:
        nn.init.normal_(norm.weight, 1.0, 0.2)
        hidden = 3 * torch.randn(50, norm.weight.numel(), dtype=torch.bfloat16, device=device)
        expected = type(norm).forward(norm, hidden)
        found = norm(hidden)
        assert found.dtype == torch.bfloat16
        fused = nn.functional.rms_norm(hidden, hidden.shape[-1:], norm.weight, norm.variance_epsilon)
        torch.testing.assert_close(fused, expected, rtol=2**-6, atol=0)
        torch.testing.assert_close(found, expected, rtol=0 if device == "cpu" else 2**-6, atol=0)
