"""Whether methods rank as their papers say, on held-out text, by hand:

    python -m tests.benchmarks.order_of_quality MODEL --calibration TRAIN.jsonl --held-out TEST.jsonl

For each scheme the held-out negative log-likelihood over the dense model's, in nats a token (of the replies alone where
the file has messages); then for each expected order the paired difference over items with its 95 % interval: `holds`
or `reversed` when the interval leaves 0 out, else `undecided`.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from transformers.utils import logging

from compress.calibration import load_calibration
from compress.methods import Method, Propagate
from compress.pipeline import compress_models
from compress.scheme import CheckpointFormat, Scheme
from tests.benchmarks.propagate import held_out_items, item_losses

GROUP = 64
# Better first.
ORDERS: dict[str, list[Scheme]] = {
    "4 bits": [Scheme(method, 4, GROUP) for method in ("gptaq", "gptq", "awq", "rtn")],
    "3 bits": [Scheme(method, 3, GROUP) for method in ("gptaq", "gptq", "awq", "rtn")],
    "2 bits": [Scheme(method, 2, GROUP) for method in ("gptaq", "gptq", "awq", "rtn")],
    "3 bits, range": [Scheme("rtn", 3, GROUP, observer=observer) for observer in ("mse", "hqq", "minmax")],
    "2 bits, range": [Scheme("gptq", 2, GROUP, observer=observer) for observer in ("mse", "hqq", "minmax")],
    "50 %": [Scheme(method, sparsity=0.5) for method in ("sparsegpt", "wanda", "magnitude")],
    "60 %": [Scheme(method, sparsity=0.6) for method in ("sparsegpt", "wanda", "magnitude")],
    "60 %, by layer": [Scheme(method, sparsity=0.6) for method in ("alphapruning", "sparsegpt")],
    "50 % and 4 bits": [Scheme(method, 4, GROUP, sparsity=0.5) for method in ("obr", "gptq", "wanda", "magnitude")],
    "budget 2.51": [Scheme("gptq", average_bits=2.51, group_size=GROUP, allocation=a) for a in ("measured", "uniform")],
    "budget 3": [Scheme("gptq", average_bits=3.0, group_size=GROUP, allocation=a) for a in ("measured", "uniform")],
    "budget 2.51, policy": [
        Scheme("gptq", average_bits=2.51, group_size=GROUP, allocation=a) for a in ("measured", "unsloth", "random")
    ],
}


def interval(differences: torch.Tensor) -> tuple[float, float, float]:
    """Mean over items and its 95 % interval."""
    mean, half = float(differences.mean()), 1.96 * float(differences.std()) / math.sqrt(len(differences))
    return mean, mean - half, mean + half


def _propagating(scheme: Scheme, propagate: Propagate | None) -> Scheme:
    if propagate is None or not scheme.needs_calibration or scheme.method is Method.GPTAQ:
        return scheme
    return replace(scheme, propagate=Propagate(propagate))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--num-samples", type=int, default=128)
    parser.add_argument("--max-seq-length", type=int, default=512)
    parser.add_argument("--num-items", type=int, default=64, help="held-out items")
    parser.add_argument("--orders", nargs="*", default=list(ORDERS), help="which of them; default: all")
    parser.add_argument("--propagate", choices=list(Propagate), help="instead of each scheme's own, but for gptaq's")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    settings = {"num_samples": arguments.num_samples, "max_seq_length": arguments.max_seq_length}
    calibration = load_calibration(arguments.calibration, **settings)
    items = held_out_items(load_calibration(arguments.held_out), arguments.model, arguments.max_seq_length)
    items = items[:: max(1, len(items) // arguments.num_items)]
    dense = item_losses(arguments.model, items)
    print(f"{arguments.model.name}: {len(items)} held-out items, dense model {float(dense.mean()):.4f} nats a token\n")
    orders = {name: [_propagating(scheme, arguments.propagate) for scheme in ORDERS[name]] for name in arguments.orders}
    schemes = list(dict.fromkeys(scheme for members in orders.values() for scheme in members))
    losses: dict[Scheme, torch.Tensor] = {}
    print("| scheme | effective bits | layer loss | nats over dense | 95 % |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        reports = compress_models(
            arguments.model, Path(folder), schemes, calibration, formats=CheckpointFormat.DEQUANTIZED
        )
        for scheme, report in zip(schemes, reports, strict=True):
            losses[scheme] = item_losses(Path(folder) / scheme.name, items)
            mean, low, high = interval(losses[scheme] - dense)
            loss = "" if report.loss is None else f"{report.loss:.4g}"
            row = f"| {scheme.name} | {report.effective_bits:.2f} | {loss} | {mean:.4f} | {low:.4f} to {high:.4f} |"
            print(row, flush=True)
    print("\n| order | better | worse | nats apart | 95 % | |\n|---|---|---|---|---|---|")
    for name, members in orders.items():
        for better, worse in pairwise(members):
            mean, low, high = interval(losses[worse] - losses[better])
            verdict = "holds" if low > 0 else "reversed" if high < 0 else "undecided"
            print(f"| {name} | {better.name} | {worse.name} | {mean:+.4f} | {low:+.4f} to {high:+.4f} | {verdict} |")


if __name__ == "__main__":
    main()
