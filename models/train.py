"""Train the pocket reasoners, score them, and see how they break: python -m models.train --output models

Each model is written to OUTPUT/NAME as soon as it is trained, its scores to OUTPUT/results.jsonl, one line a scheme.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from compress.scheme import Scheme
from models.data import LOSS_BIT, RowPool, save_tokenizer, special_ids, train_tokenizer
from models.evaluation import SCHEMES, Question, break_down, load_questions
from models.modeling import CONTEXT, PocketModel, Shape, save_model
from models.optimizer import Optimizer, schedule

SMALL = Shape("llama", 128, 384, 6, 2, 1)
LARGE = Shape("llama", 256, 768, 8, 4, 2)


@dataclass(frozen=True)
class Run:
    """What is trained, and for how long: num_steps batches of num_rows rows of 1024 tokens."""

    shape: Shape
    num_steps: int
    num_rows: int
    weight_decay: float
    seed: int = 0


RUNS = {
    "pocket-llama-7m": Run(LARGE, 4400, 64, weight_decay=0.03),
    "pocket-qwen3-7m": Run(replace(LARGE, family="qwen3"), 4400, 64, weight_decay=0.03),
    "pocket-llama-1m": Run(SMALL, 3200, 128, weight_decay=0.1),
    "pocket-qwen3-1m": Run(replace(SMALL, family="qwen3"), 3200, 128, weight_decay=0.1),
}


@torch.compile(dynamic=False)
def mean_loss(hidden: Tensor, embedding: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
    """Cross entropy of B x T targets, mean over those `counted`."""
    losses = F.cross_entropy(F.linear(hidden, embedding).float().flatten(0, 1), targets.flatten(), reduction="none")
    return (losses * counted.flatten()).sum() / counted.sum()


def train_model(run: Run, pool: RowPool, device: str) -> PocketModel:
    """Train one model from its seed on rows of `pool`."""
    torch.manual_seed(run.seed)
    model = PocketModel(run.shape).to(device)
    optimizer = Optimizer(model, run.weight_decay)
    positions = torch.arange(CONTEXT, device=device)[None]
    for layer in model.model.layers:  # layer by layer: one compilation serves them all
        layer.compile(dynamic=False)
    started = time.perf_counter()
    for step in range(run.num_steps):
        rows = pool.sample(run.num_rows)
        tokens = (rows & (LOSS_BIT - 1)).long()
        with torch.autocast(device, torch.bfloat16):
            hidden = model(tokens[:, :-1], positions)
            loss = mean_loss(hidden, model.model.embed_tokens.weight, tokens[:, 1:], rows[:, 1:] >= LOSS_BIT)
        loss.backward()
        optimizer.step(schedule(step, run.num_steps))
        if step % 200 == 0 or step == run.num_steps - 1:
            seconds = time.perf_counter() - started
            print(f"  step {step} loss {loss.item():.4f} {seconds:.0f} s, {pool.num_filled} rows", flush=True)
    return model


def report(folder: Path, questions: Sequence[Question], results: Path, device: str, schemes: Sequence[Scheme]) -> None:
    """Append one line of scores for each scheme to `results`, and print it short."""
    for record in break_down(folder, questions, device, schemes):
        with results.open("a") as file:
            file.write(json.dumps(record) + "\n")
        scores = record["scores"]
        assert isinstance(scores, dict)
        cells = [f"{task} {100 * s['accuracy']:.1f} ({s['mean_tokens']:.0f})" for task, s in scores.items()]
        print(f"{folder.name} {record['scheme']}: {', '.join(cells)} [{record['seconds']} s]", flush=True)


def parse_run(text: str) -> tuple[str, Run]:
    """NAME, or NAME:key=value,... to change a setting of the run or of its shape, folder=... to name the result."""
    name, _, changes = text.partition(":")
    run, folder = RUNS[name], name
    for change in filter(None, changes.split(",")):
        key, _, value = change.partition("=")
        if key == "folder":
            folder = value
        elif key == "weight_decay":
            run = replace(run, weight_decay=float(value))
        elif hasattr(run, key):
            run = replace(run, **{key: int(value)})
        else:
            run = replace(run, shape=replace(run.shape, **{key: int(value)}))
    return folder, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), metavar="NAME[:key=value,...]")
    parser.add_argument("--bbh", type=Path, help="BBH's temporal_sequences.json, for the out-of-distribution score")
    parser.add_argument("--num-problems", type=int, default=200, help="questions of each task in the evaluation")
    names = [scheme.name for scheme in SCHEMES]
    parser.add_argument("--schemes", nargs="*", default=names, choices=names, help="compressions to score; default all")
    parser.add_argument("--num-workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    parser.add_argument("--pool-rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    tokenizer = train_tokenizer()
    schemes = [scheme for scheme in SCHEMES if scheme.name in arguments.schemes]
    questions = load_questions(arguments.num_problems, seed=1, bbh=arguments.bbh)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with RowPool(tokenizer, arguments.num_workers, arguments.pool_rows, device, seed=0) as pool:
        for folder, run in map(parse_run, arguments.runs):
            print(f"{folder}: {run}", flush=True)
            model = train_model(run, pool, device)
            save_model(model, arguments.output / folder, special_ids(tokenizer))
            save_tokenizer(tokenizer, arguments.output / folder)
            report(arguments.output / folder, questions, arguments.output / "results.jsonl", device, schemes)


if __name__ == "__main__":
    main()
