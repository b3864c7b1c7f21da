"""A small study that every test of sweep may change: two model folders with nothing but a config.json."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

STUDY = """
study: small
models:
  - {path: models/alpha}
  - {path: models/beta}
space:
  - {method: rtn, num_bits: [8, 4, 3], group_size: 64}
  - {method: sparsegpt, sparsity: [0.5, 2:4]}
benchmarks: [temporal, recall]
num_problems: 10
sampling: {max_tokens: 256}
engine: {engine_kwargs: {max_model_len: 1024}}
"""
CONFIG = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: study.yaml, models/alpha (llama), models/beta (qwen3), and no cache of the Hub's."""
    for name, family in (("alpha", "llama"), ("beta", "qwen3")):
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(CONFIG | {"model_type": family}))
    (tmp_path / "study.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-cache"))
    return tmp_path


@pytest.fixture
def write_study(workdir: Path) -> Callable[[str], Path]:
    """Replace study.yaml's text; the path that the command line would be given."""

    def write(text: str) -> Path:
        (workdir / "study.yaml").write_text(text)
        return Path("study.yaml")

    return write
