"""What it costs to measure all layers on the dense model's inputs (propagate: dense), by hand:

    python -m tests.benchmarks.propagate MODEL --calibration TRAIN.jsonl --held-out TEST.jsonl

For each scheme both ways: the mean layer loss as each measures it, and the held-out negative log-likelihood per token
(of the replies alone where the file has messages), with the paired difference over items and its 95 % interval.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from compress.calibration import Calibration, load_calibration
from compress.methods import Propagate
from compress.pipeline import compress_models
from compress.scheme import CheckpointFormat, Scheme

SCHEMES = [
    Scheme("gptq", 4, 64),
    Scheme("gptq", 3, 64),
    Scheme("gptq", 2, 64),
    Scheme("sparsegpt", sparsity=0.5),
    Scheme("sparsegpt", pattern=(2, 4)),
    Scheme("sparsegpt", 4, 64, sparsity=0.5),
]
Items = list[tuple[list[int], int]]


def held_out_items(calibration: Calibration, folder: Path, limit: int) -> Items:
    """(tokens, how many of them are not scored): all but the first of a text, the last message of a conversation."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    items = [(tokenizer(text)["input_ids"][:limit], 1) for text in calibration.texts]
    for *prompt, reply in calibration.conversations:
        messages = [dict(message) for message in prompt]
        head = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tokens = tokenizer(head + reply["content"], add_special_tokens=False)["input_ids"][:limit]
        items.append((tokens, len(tokenizer(head, add_special_tokens=False)["input_ids"])))
    return [item for item in items if item[1] < len(item[0])]


@torch.no_grad()
def item_losses(folder: Path, items: Items) -> torch.Tensor:
    """Mean negative log-likelihood of each item's scored tokens, nats."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    losses = []
    for tokens, skipped in items:
        row = torch.tensor([tokens])
        log_probabilities = model(row).logits[0, skipped - 1 : -1].log_softmax(-1)
        losses.append(-log_probabilities.gather(1, row[0, skipped:, None]).mean())
    return torch.stack(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--num-samples", type=int, default=128)
    parser.add_argument("--max-seq-length", type=int, default=512)
    parser.add_argument("--num-items", type=int, default=64, help="held-out items")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    settings = {"num_samples": arguments.num_samples, "max_seq_length": arguments.max_seq_length}
    calibration = load_calibration(arguments.calibration, **settings)
    items = held_out_items(load_calibration(arguments.held_out), arguments.model, arguments.max_seq_length)
    items = items[:: max(1, len(items) // arguments.num_items)]
    baseline = item_losses(arguments.model, items)
    print(f"{arguments.model.name}: {len(items)} held-out items, dense model {float(baseline.mean()):.4f} nats a token")
    print(f"{'scheme':<24}{'layer loss d / c':>20}{'nats d':>9}{'nats c':>9}{'d - c':>9}  95 % interval")
    both = [replace(scheme, propagate=propagate) for scheme in SCHEMES for propagate in Propagate]
    with tempfile.TemporaryDirectory() as folder:
        reports = compress_models(
            arguments.model, Path(folder), both, calibration, formats=CheckpointFormat.DEQUANTIZED
        )
        for index, scheme in enumerate(SCHEMES):
            pair = reports[2 * index : 2 * index + 2]
            dense, compressed = (item_losses(Path(folder) / report.scheme.name, items) for report in pair)
            difference = dense - compressed
            half = 1.96 * float(difference.std()) / math.sqrt(len(items))
            mean = float(difference.mean())
            losses = " / ".join(f"{report.loss:.3g}" for report in pair)
            nats = f"{float(dense.mean()):>9.4f}{float(compressed.mean()):>9.4f}{mean:>+9.4f}"
            print(f"{scheme.name:<24}{losses:>20}{nats}  {mean - half:+.4f} to {mean + half:+.4f}", flush=True)


if __name__ == "__main__":
    main()
