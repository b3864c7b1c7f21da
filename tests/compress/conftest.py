"""Tiny random models, made once for all tests of compress."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compress.tiny_models import save_model


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untied head, grouped-query attention, every layer packable on a CPU."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        num_hidden_layers=2,
        vocab_size=384,
        max_position_embeddings=256,
    )
    return save_model(tmp_path_factory.mktemp("models") / "llama", config)


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tied head, q and k norms, attention wider than the hidden size."""
    from transformers import Qwen3Config

    config = Qwen3Config(
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        num_hidden_layers=2,
        vocab_size=384,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    return save_model(tmp_path_factory.mktemp("models") / "qwen3", config)
