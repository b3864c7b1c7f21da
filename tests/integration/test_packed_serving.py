"""A packed checkpoint and its dequantized twin in vLLM itself: both load, and say the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compress.pipeline import compress_model
from compress.scheme import CheckpointFormat, Method, Scheme
from tests.compress.tiny_models import save_model, sentences

# In a process of its own, which gives the engine's memory back when it ends.
SCORE = """
import json, sys
from vllm import LLM, SamplingParams

def score(folder, prompts):
    llm = LLM(folder, enforce_eager=True, kv_cache_memory_bytes=1 << 26, max_model_len=128, seed=0, dtype="bfloat16")
    wanted = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1)
    outputs = llm.generate(prompts, wanted, use_tqdm=False)
    scores = [
        [at[token].logprob for token, at in zip(o.prompt_token_ids[1:], o.prompt_logprobs[1:], strict=True)]
        for o in outputs
    ]
    del llm
    return scores

folders, prompts = json.load(sys.stdin)
print("SCORES", json.dumps([score(folder, prompts) for folder in folders]))
"""


@pytest.mark.engine
def test_packed_and_dequantized_twins_score_alike(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=384,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        num_hidden_layers=2,
        vocab_size=384,
        max_position_embeddings=256,
        initializer_range=0.1,
    )
    model = save_model(tmp_path / "model", config)
    folders = []
    for symmetric in (True, False):
        scheme = Scheme(Method.RTN, num_bits=4, group_size=64, symmetric=symmetric, sparsity=0.3)
        for form in (CheckpointFormat.PACKED, CheckpointFormat.DEQUANTIZED):
            folders.append(str(tmp_path / f"{scheme.name}-{form}"))
            compress_model(model, Path(folders[-1]), scheme, format=form, platform="cpu", device="cpu")
    symmetric_packed, symmetric_dense, packed, dense = score(folders, sentences(8))
    twins = max(mean_difference(symmetric_packed, symmetric_dense), mean_difference(packed, dense))
    schemes = mean_difference(symmetric_dense, dense)
    assert twins < 0.02, (twins, schemes)
    assert schemes > 10 * twins, (twins, schemes)


def score(folders: list[str], prompts: list[str]) -> list[list[list[float]]]:
    """Log-probabilities of every prompt token, by folder and prompt."""
    environment = {
        **os.environ,
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_INT4_W4A8": "0",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCORE],
        input=json.dumps([folders, prompts]),
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("SCORES ")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[0].removeprefix("SCORES "))


def mean_difference(first: list[list[float]], second: list[list[float]]) -> float:
    """Mean absolute difference of the log-probabilities, nats."""
    pairs = [(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True)]
    return sum(abs(a - b) for a, b in pairs) / len(pairs)
