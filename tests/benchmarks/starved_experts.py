"""What to do with an expert that saw few calibration tokens, by hand:

    python -m tests.benchmarks.starved_experts MODEL --calibration A.txt --held-out B.txt

Each expert is given the first k of the tokens that the router sends it, k a share of its columns, and its weights are
solved with the Hessian of those alone, mixed with that of all the layer's tokens (as if m - k more had come, for
several m), or of all alone. The loss is on the held-out tokens that the router sends it, relative to its outputs.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from compress.calibration import calibration_rows, load_calibration
from compress.decoder import Decoder, pass_block
from compress.errors import NumericalError
from compress.experts import SAMPLE_PER_COLUMN, is_sparse
from compress.families import Unit, is_expert, stages_of
from compress.hessian import HessianSum, relative_loss
from compress.scheme import Scheme
from compress.solve import solve_unit

SHARES = (0, 0.125, 0.25, 0.5, 1, 2, 4)
NEEDED = (0.5, 1, 2, 4)
SCHEMES = {"gptq w3": Scheme("gptq", 3, 32), "sparsegpt 50 %": Scheme("sparsegpt", sparsity=0.5)}
ALL: Unit = ("mlp.experts",)


def hessian(inputs: Tensor) -> Tensor:
    total = HessianSum(inputs.shape[1])
    total.add(inputs)
    return total.mean()


def candidates(own: Tensor, everyone: Tensor) -> dict[str, Tensor]:
    """Hessians by name, of inputs [k, C] of its own and [N, C] of all tokens."""
    num_columns, of_all = everyone.shape[1], hessian(everyone)
    found = {"all tokens alone": of_all}
    if len(own):
        found["own alone"] = hessian(own)
    for needed in NEEDED:
        share = min(1.0, len(own) / (needed * num_columns))
        found[f"mixed, m = {needed:g} C"] = share * hessian(own) + (1 - share) * of_all if len(own) else of_all
    return found


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--num-samples", type=int, default=64)
    parser.add_argument("--max-seq-length", type=int, default=128)
    parser.add_argument("--experts", type=int, default=8, help="of each layer, at most")
    options = parser.parse_args()
    from transformers import AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    decoder = Decoder(options.model, torch.float32, torch.device("cpu"))
    texts = [
        load_calibration(path, num_samples=options.num_samples, max_seq_length=options.max_seq_length, seed=0)
        for path in (options.calibration, options.held_out)
    ]
    streams = [list(decoder.embed(calibration_rows(text, tokenizer))) for text in texts]
    losses: dict[tuple[str, float, str], list[float]] = defaultdict(list)
    for index in range(decoder.num_layers):
        tensors = decoder.read_layer(index)
        layer = decoder.layer(index, tensors)
        names = [n.removesuffix(".weight") for n in tensors if is_expert(n)] if is_sparse(layer) else []
        units = [unit for stage in stages_of(names) for unit in stage]
        seen: list[dict[Unit, Tensor]] = []
        for number, batches in enumerate(streams):
            parts: dict[Unit, list[Tensor]] = defaultdict(list)
            for at, batch in enumerate(batches):
                _, batch = pass_block(layer, "self_attn", batch)
                inputs, batches[at] = pass_block(layer, "mlp", batch, [*units, ALL] if units else [])
                for unit, values in inputs.items():
                    parts[unit].append(values)
            seen.append({unit: torch.cat(values) for unit, values in parts.items()})
            streams[number] = batches
        if not units:
            continue
        everyone = seen[0][ALL]
        chosen = [u for u in units if int(u[0].split(".")[2]) < options.experts]
        for unit in chosen:
            parent, _, module = unit[0].rpartition(".")
            own, test = (part.get(unit, everyone[:0]) for part in seen)
            num_columns = layer.get_submodule(unit[0]).in_features
            if len(own) < max(SHARES) * num_columns or len(test) < max(SHARES) * num_columns:
                continue
            sample = everyone[:: max(1, len(everyone) // (SAMPLE_PER_COLUMN * num_columns))]
            of_all = layer.get_submodule(parent).inputs_of(module, sample)
            weights = {name: tensors[f"{name}.weight"].float() for name in unit}
            held_out = hessian(test)
            for share in SHARES:
                for rule, found in candidates(own[: int(share * num_columns)], of_all).items():
                    for scheme_name, scheme in SCHEMES.items():
                        try:
                            solved = solve_unit(weights, found, scheme, torch.bfloat16).weights
                        except NumericalError:
                            continue
                        for name, weight in weights.items():
                            loss = relative_loss(weight, solved[name].weight, held_out)
                            losses[f"{scheme_name}, {block_kind(unit)}", share, rule].append(loss)
    for kind in dict.fromkeys(kind for kind, _, _ in losses):
        rules = list(dict.fromkeys(rule for _, _, rule in losses))
        count = len(next(values for key, values in losses.items() if key[0] == kind))
        print(f"\n{kind}: mean relative loss on held-out tokens, {count} weights")
        print("| k / C | " + " | ".join(rules) + " |\n|---" * 1 + "|---" * len(rules) + "|")
        for share in SHARES:
            found = [losses.get((kind, share, rule)) for rule in rules]
            print(f"| {share:g} | " + " | ".join(f"{mean(values):.5f}" if values else "-" for values in found) + " |")


def block_kind(unit: Unit) -> str:
    return "down" if unit[0].endswith("down_proj") else "gate, up"


if __name__ == "__main__":
    main()
