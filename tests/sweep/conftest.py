"""A small study that every test of sweep may change: two model folders with nothing but a config.json, or with
random weights and every checkpoint of studies.make_study."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/alpha and models/beta with weights, and a store with every checkpoint of studies.make_study."""
    import torch

    from sweep.space import grid
    from tests.sweep.studies import make_study, save_weights, store_checkpoint

    folder = tmp_path_factory.mktemp("compressed")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        torch.set_num_threads(1)  # layers this small are slower on several
        for seed, (name, family) in enumerate((("alpha", "llama"), ("beta", "qwen3"))):
            model = folder / "models" / name
            model.mkdir(parents=True)
            (model / "config.json").write_text(json.dumps(CONFIG | {"model_type": family}))
            save_weights(model, seed)
        study = make_study()
        for trial in grid(study):
            store_checkpoint(study, trial)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def stored(workdir: Path, compressed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a copy of `compressed`: checkpoints are found by content, wherever they stand."""
    shutil.copytree(compressed, workdir, dirs_exist_ok=True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return workdir


@pytest.fixture(scope="package")
def local_ray() -> Iterator[None]:
    """One Ray with two GPUs that are none, for every test here that asks for it; workers find this checkout."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).resolve().parents[2])
        quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        ray.init(address="local", num_cpus=4, num_gpus=2, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


@pytest.fixture
def write_study(workdir: Path) -> Callable[[str], Path]:
    """Replace study.yaml's text; the path that the command line would be given."""

    def write(text: str) -> Path:
        (workdir / "study.yaml").write_text(text)
        return Path("study.yaml")

    return write
