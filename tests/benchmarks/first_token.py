"""What it brings to count the first token of each row more than once in the Hessians of q, k and v, by hand:

    python -m tests.benchmarks.first_token MODEL --calibration TRAIN.jsonl --held-out TEST.jsonl ...

For each width and weight the held-out negative log-likelihood over the dense model's, nats a token (of the replies
alone where the file has messages), and its paired difference to weight 1 over items with its 95 % interval.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from torch import Tensor
from transformers.utils import logging

from compress.calibration import load_calibration
from compress.methods import Propagate
from compress.pipeline import compress_models
from compress.scheme import CheckpointFormat, Scheme
from tests.benchmarks.order_of_quality import interval
from tests.benchmarks.propagate import held_out_items, item_losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, nargs="+", required=True)
    parser.add_argument("--num-samples", type=int, default=128)
    parser.add_argument("--max-seq-length", type=int, default=512)
    parser.add_argument("--num-items", type=int, default=64, help="of each held-out file")
    parser.add_argument("--num-bits", type=int, nargs="+", default=[4, 3, 2])
    parser.add_argument("--weights", type=float, nargs="+", default=[1, 8, 64], help="the first is compared with")
    parser.add_argument("--propagate", choices=list(Propagate), default="compressed")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    settings = {"num_samples": arguments.num_samples, "max_seq_length": arguments.max_seq_length}
    calibration = load_calibration(arguments.calibration, **settings)
    schemes = [Scheme("gptq", bits, 64, propagate=Propagate(arguments.propagate)) for bits in arguments.num_bits]
    items = {}
    for path in arguments.held_out:
        found = held_out_items(load_calibration(path), arguments.model, arguments.max_seq_length)
        items[path.stem] = found[:: max(1, len(found) // arguments.num_items)]
    dense = {name: item_losses(arguments.model, found) for name, found in items.items()}
    print(f"{arguments.model.name}, calibrated on {arguments.calibration.name}, propagate {arguments.propagate}")
    print("| scheme | held-out | weight | nats over dense | less weight 1 |\n|---|---|---|---|---|")
    plain: dict[tuple[str, str], Tensor] = {}
    for weight in arguments.weights:
        counted = replace(calibration, first_token_weight=weight)
        with tempfile.TemporaryDirectory() as folder:
            compress_models(arguments.model, Path(folder), schemes, counted, formats=CheckpointFormat.DEQUANTIZED)
            for scheme in schemes:
                for name, found in items.items():
                    loss = item_losses(Path(folder) / scheme.name, found)
                    difference = loss - plain.setdefault((scheme.name, name), loss)
                    over = "{:.4f} ({:.4f} to {:.4f})".format(*interval(loss - dense[name]))
                    less = "{:+.4f} ({:+.4f} to {:+.4f})".format(*interval(difference))
                    print(f"| {scheme.name} | {name} | {weight:g} | {over} | {less} |", flush=True)


if __name__ == "__main__":
    main()
