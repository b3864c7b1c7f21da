"""One model, three checkpoints of it, and the settings that every engine of these tests is started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.pipeline import compress_model
from compress.scheme import CheckpointFormat, Method, Scheme

MODEL = Path(__file__).parents[2] / "models" / "pocket-llama-1m"
SCHEMES = (Scheme(Method.RTN, num_bits=4, group_size=64), Scheme(Method.MAGNITUDE, sparsity=0.5))
STUDY = f"""
study: small
models: [{{path: {MODEL}}}]
space:
  - {{method: rtn, num_bits: 4, group_size: 64}}
  - {{method: magnitude, sparsity: 0.5}}
benchmarks: [temporal, recall]
num_problems: 8
sampling: {{max_tokens: 200}}
calibration: {{num_samples: 16, max_seq_length: 128}}
format: dequantized
engine:
  engine_kwargs:
    {{max_model_len: 768, enforce_eager: true, kv_cache_memory_bytes: 134217728, max_num_seqs: 32, dtype: bfloat16}}
concurrency: 32
"""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """The base model, its 4-bit and its half pruned twin, all of one layout."""
    folder = tmp_path_factory.mktemp("checkpoints")
    made = []
    for scheme in SCHEMES:
        made.append(folder / scheme.name)
        compress_model(MODEL, made[-1], scheme, format=CheckpointFormat.DEQUANTIZED, platform="cpu", device="cpu")
    return MODEL, *made
