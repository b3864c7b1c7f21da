"""Tokens per second through all that a trial uses, against vLLM alone on the same requests; by hand, on a GPU:

    python -m tests.benchmarks.serve_throughput --tokenizer FOLDER --output FOLDER [--tiny]

The model is random, of the shape of Qwen2.5-1.5B, with the tokenizer of the folder and no token that ends a text: every
answer is as long as it was asked to be. That is between a quarter and seven quarters of --max-tokens, by its seed; or
all the same, where vLLM alone works in lockstep: all answers of a batch end together, as no model's do. The raw side is
LLM.generate on the rendered prompts, with the same sampling, seeds and lengths, in a process of its own; the other side
is an engine in Ray Serve, HTTP, the client, the graders and a file of answers. Both engines start with the same
settings, graphs and compiling included; each does a short round first, then --rounds that count. One engine differs
from the next start of the same by up to a tenth, so the two sides take turns, --starts times each. Processor seconds of
each process and the card's energy stand beside. Results are lines of OUTPUT/serve.jsonl; the table is of all lines
there, so that a run that was cut goes on. --tiny: a model for trying the script on a CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import psutil
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

from compress.checkpoint import weights_fingerprint
from evaluate.benchmarks import Benchmark, load_benchmark
from evaluate.client import Client
from evaluate.errors import BadInput
from evaluate.replies import Reply
from evaluate.runner import run_benchmarks
from evaluate.schema import Endpoint, Prompting, Sampling
from evaluate.spec import Request, make_requests, make_spec
from evaluate.throughput import read_joules
from sweep.cluster import start_cluster
from sweep.leases import lease, start_pool
from sweep.replica import ServedCheckpoint
from sweep.serving import EngineSettings, end_engine, serve_checkpoint

# What vLLM alone does, in a process that gives the card back when it ends.
RAW = """
import json, sys, time
from vllm import LLM, SamplingParams

asked = json.load(sys.stdin)
llm = LLM(asked["model"], **asked["engine_kwargs"])
for round in asked["rounds"]:
    lengths = zip(round["seeds"], round["lengths"])
    wanted = [SamplingParams(**asked["sampling"], seed=seed, max_tokens=length) for seed, length in lengths]
    started = time.perf_counter()
    outputs = llm.generate(round["prompts"], wanted, use_tqdm=False)
    seconds = time.perf_counter() - started
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    print("ROUND", json.dumps({"seconds": seconds, "tokens": tokens}), flush=True)
"""
ALONE, OURS = "vLLM alone", "Ray Serve and client"
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}<|assistant|>\n"


@dataclass(frozen=True)
class Round:
    """What is asked at once: the first problems of a benchmark, with seeds from one seed."""

    num_requests: int
    max_tokens: int
    seed: int
    spread: bool = False

    def length(self, seed: int) -> int:
        """Tokens of the answer to a request with this seed."""
        if not self.spread:
            return self.max_tokens
        return random.Random(seed).randint(self.max_tokens // 4, 7 * self.max_tokens // 4)

    @property
    def benchmark(self) -> Benchmark:
        return load_benchmark("temporal", num_problems=self.num_requests)

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.max_tokens, temperature=0.6, top_p=0.95, seed=self.seed)


def make_model(folder: Path, tokenizer_folder: Path, *, tiny: bool) -> None:
    """Writes a random model that never ends a text by itself."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    vocab_size = len(tokenizer)
    tokenizer.chat_template = TEMPLATE
    tokenizer.add_special_tokens({"eos_token": "<|never|>"})  # behind all that the model can say
    tokenizer.save_pretrained(folder)
    shape: dict[str, Any] = {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    }
    if tiny:
        shape |= {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen2Config(
        **shape, vocab_size=vocab_size, max_position_embeddings=4096, eos_token_id=None, bos_token_id=None
    )
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.generation_config.eos_token_id = model.generation_config.bos_token_id = None
    model.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()


def run_raw(model: Path, short: Round, rounds: list[Round], engine_kwargs: dict[str, Any], output: Path) -> None:
    """Records seconds and tokens of each round by vLLM alone."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    asked: dict[str, Any] = {"model": str(model), "engine_kwargs": engine_kwargs, "rounds": []}
    for part in (short, *rounds):
        spec = make_spec(
            Endpoint("http://127.0.0.1:1/v1", "model"), [part.benchmark], part.sampling, Prompting.CHAT, {}
        )
        requests = list(make_requests([part.benchmark], part.sampling, spec, None))
        prompts = [
            tokenizer.apply_chat_template([{"role": "user", "content": request.prompt}], tokenize=False)
            for request in requests
        ]
        seeds = [request.seed for request in requests]
        asked["rounds"].append({"prompts": prompts, "seeds": seeds, "lengths": [part.length(seed) for seed in seeds]})
        asked["sampling"] = {"temperature": part.sampling.temperature, "top_p": part.sampling.top_p, "ignore_eos": True}
    done = subprocess.run(
        [sys.executable, "-c", RAW], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    lines = [line.removeprefix("ROUND ") for line in done.stdout.splitlines() if line.startswith("ROUND ")]
    assert len(lines) == 1 + len(rounds), done.stdout[-2000:] + done.stderr[-4000:]
    for part, line in zip(rounds, lines[1:], strict=True):
        record(output, ALONE, {**json.loads(line), "spread": part.spread})


def run_ours(
    model: Path, short: Round, rounds: list[tuple[Round, int]], engine_kwargs: dict[str, Any], output: Path
) -> None:
    """Records the same of each (round, concurrency) through Ray Serve, client and graders."""
    fingerprint = weights_fingerprint(model)
    served = ServedCheckpoint(model, "random", fingerprint)
    with start_cluster(None, 1) as cluster:
        pool = start_pool("throughput", 1)  # ends with its last handle
        settings = EngineSettings(
            num_gpus=1 if torch.cuda.is_available() else 0,
            num_cpus=os.cpu_count() or 1,
            start_timeout_s=500,
            engine_kwargs=engine_kwargs,
            host=cluster.engine_host,
            log_folder=output / "logs",
            owner="throughput",
        )
        with lease("throughput", "throughput", "random") as slot:
            with serve_checkpoint(served, slot, settings) as endpoint, TemporaryDirectory() as answers:
                _ask(endpoint, short, short.num_requests, Path(answers) / "short")
                for number, (part, concurrency) in enumerate(rounds):
                    record(output, OURS, _ask(endpoint, part, concurrency, Path(answers) / str(number)))
            end_engine(slot)
        del pool


def _ask(endpoint: Endpoint, part: Round, concurrency: int, folder: Path) -> dict[str, Any]:
    benchmarks = [part.benchmark]  # its questions are invented here, which takes a second
    before, start_j = processor_seconds(), joules()
    started = time.perf_counter()
    with patch("evaluate.runner._asker", partial(_asker, part)):  # a run has one limit for all
        running = run_benchmarks(endpoint, benchmarks, part.sampling, folder, concurrency=concurrency)
        summary = asyncio.run(running)
    seconds, end_j = time.perf_counter() - started, joules()
    used = Counter(processor_seconds())
    used.subtract(before)
    assert not summary.num_errors
    lines = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    tokens = sum(line.get("completion_tokens") or 0 for line in lines)
    return {
        "seconds": seconds,
        "tokens": tokens,
        "concurrency": concurrency,
        "spread": part.spread,
        "processor_s": {name: round(value, 1) for name, value in used.most_common(6) if value > 0.1},
        "joules_per_question": None if start_j is None or end_j is None else (end_j - start_j) / part.num_requests,
    }


def _asker(part: Round, client: Client, *_: object) -> Callable[[Request], Awaitable[Reply]]:
    return lambda request: client.complete(request.prompt, request.seed, part.length(request.seed))


def processor_seconds() -> dict[str, float]:
    """Of this process and each below it, by name."""
    used: Counter[str] = Counter()
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.Error):
            name = "this process" if process == me else " ".join(process.cmdline())[:40]
            times = process.cpu_times()
            used[name] += times.user + times.system
    return dict(used)


def joules() -> float | None:
    try:
        return read_joules([0])
    except BadInput:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--num-requests", type=int, default=1024)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    model = arguments.output.resolve() / "model"
    make_model(model, arguments.tokenizer, tiny=arguments.tiny)
    engine_kwargs: dict[str, Any] = {
        "max_model_len": 2048,
        "max_num_seqs": arguments.max_num_seqs,
        "max_num_batched_tokens": 8192,
        "enable_prefix_caching": False,
        "dtype": "bfloat16",
    }
    if torch.cuda.is_available():
        engine_kwargs["gpu_memory_utilization"] = 0.6
    else:
        engine_kwargs |= {"enforce_eager": True, "kv_cache_memory_bytes": 1 << 28, "enable_chunked_prefill": False}
    short = Round(arguments.max_num_seqs // 2, 32, seed=0)
    rounds = [
        Round(arguments.num_requests, arguments.max_tokens, seed, spread)
        for spread in (True, False)
        for seed in range(1, 1 + arguments.rounds)
    ]
    asked = [(part, factor * arguments.max_num_seqs) for part in rounds for factor in (2, 1)]
    output = arguments.output.resolve()
    for _ in range(arguments.starts):
        run_raw(model, short, rounds, engine_kwargs, output)
        run_ours(model, short, asked, engine_kwargs, output)
    print_table(output)


def print_table(output: Path) -> None:
    lines = [json.loads(line) for line in (output / "serve.jsonl").read_text().splitlines()]
    print("| lengths | at once | vLLM alone, tokens/s | a trial's way | ratio of the medians |\n|---|---|---|---|---|")
    for spread, words in ((True, "spread"), (False, "all the same")):
        sides: dict[Any, list[float]] = defaultdict(list)
        for line in lines:
            if line["spread"] == spread:
                sides[line.get("concurrency")].append(line["tokens"] / line["seconds"])
        alone = sides.pop(None)
        for concurrency, ours in sides.items():
            ratio = statistics.median(ours) / statistics.median(alone)
            print(f"| {words} | {concurrency} | {in_words(alone)} | {in_words(ours)} | {ratio:.3f} |")


def in_words(speeds: list[float]) -> str:
    return f"{statistics.median(speeds):,.0f} ({', '.join(f'{speed:,.0f}' for speed in speeds)})"


def record(output: Path, side: str, result: dict[str, Any]) -> None:
    line = json.dumps({"side": side, "tokens_per_s": round(result["tokens"] / result["seconds"]), **result})
    with (output / "serve.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line, flush=True)


if __name__ == "__main__":
    main()
