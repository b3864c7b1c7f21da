"""One scheme's solve of one matrix on a GPU, against the papers' loops over the columns, by hand:

    python -m tests.benchmarks.gpu_solve --matrices FILE --output FOLDER [--references FOLDER] [--tiny]

FILE as for gpu_layer. The loops are those of the papers' own code where --references names a folder with checkouts of
github.com/IST-DASLab's gptq and sparsegpt, else the same steps as written down here. Timed on both sides: from the
Hessian to the final weights, the factor included; ours the median of --repeats after one that is left out, the loop,
which takes seconds, --loop-repeats times. Our factor, which a pass makes once for all schemes, is timed alone too.
Losses are tr((W-Q)H(W-Q)')/tr(WHW') with the undamped H, in fp32 without TF32. Results are lines of FOLDER/solve.jsonl,
written as they come; cases that stand there are not run again. A table of what stands there ends the run.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from compress import columns
from compress.gptq import solve_gptq
from compress.hessian import Factor, HessianSum, attempt_factor, falling_diagonal
from compress.lanes import Pruning
from compress.products import full_precision
from compress.quantizer import GridSpec
from compress.sparsegpt import solve_sparsegpt
from tests.benchmarks.gpu_layer import Results, load_matrices, synchronize

DAMPING, BLOCK = 0.01, 128


@dataclass(frozen=True)
class Case:
    """What is asked: bits of a grid with groups of `group` columns (None: one per row), sparsity or n:m pattern."""

    name: str
    bits: int | None = None
    group: int | None = None
    symmetric: bool = True
    act_order: bool = False
    sparsity: float = 0.0
    pattern: tuple[int, int] | None = None


def cases(group: int) -> list[Case]:
    return [
        Case("gptq w4", 4, group),
        Case("gptq w4 act-order", 4, group, act_order=True),
        Case("gptq w3", 3, group),
        Case("gptq w3 act-order", 3, group, act_order=True),
        Case("sparsegpt 50 %", sparsity=0.5),
        Case("sparsegpt 2:4", sparsity=0.5, pattern=(2, 4)),
        Case("sparsegpt 50 % + w4 per row, asymmetric", 4, None, symmetric=False, sparsity=0.5),
    ]


def factor_of(hessian: Tensor, case: Case) -> tuple[Factor, Tensor | None]:
    order = falling_diagonal(hessian) if case.act_order else None
    return attempt_factor(hessian if order is None else hessian[order][:, order], DAMPING), order


def solve_ours(weight: Tensor, hessian: Tensor, case: Case) -> Tensor:
    used, order = factor_of(hessian, case)
    spec = GridSpec(case.bits, case.group, case.symmetric) if case.bits else None
    if case.sparsity:
        pruning = Pruning(case.sparsity, case.pattern, BLOCK, (weight.shape[0],))
        solved = solve_sparsegpt(weight, used, pruning, spec=spec, block_size=BLOCK)
    else:
        assert spec is not None
        solved = solve_gptq(weight, used, spec, block_size=BLOCK, order=order)
    assert bool(used.is_sound)  # looked at when all was given to the device, as a pass does
    return solved.weight


class References:
    """The papers' own code, from checkouts in a folder."""

    def __init__(self, folder: Path) -> None:
        self.gptq, self.gptq_grids = _load(folder / "gptq", "gptq")
        self.sparsegpt, self.sparsegpt_grids = _load(folder / "sparsegpt", "sparsegpt")

    def solve(self, weight: Tensor, hessian: Tensor, case: Case) -> Tensor:
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)
        solver = self.sparsegpt.SparseGPT(layer) if case.sparsity else self.gptq.GPTQ(layer)
        solver.H = hessian.clone()
        if case.bits:
            solver.quantizer = (self.sparsegpt_grids if case.sparsity else self.gptq_grids).Quantizer()
            solver.quantizer.configure(case.bits, perchannel=True, sym=case.symmetric, mse=False)
        if case.sparsity:
            kept, width = case.pattern or (0, 0)
            solver.fasterprune(case.sparsity, prunen=width - kept, prunem=width, blocksize=BLOCK, percdamp=DAMPING)
        else:
            order = {"actorder": case.act_order, "static_groups": case.act_order}
            solver.fasterquant(blocksize=BLOCK, percdamp=DAMPING, groupsize=case.group or -1, **order)
        return layer.weight.data


def _load(folder: Path, name: str) -> tuple[ModuleType, ModuleType]:
    """The module of that name and its grids', which it imports as `quant`."""
    sys.modules.pop("quant", None)
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name), importlib.import_module("quant")
    finally:
        sys.path.remove(str(folder))


def solve_by_loop(weight: Tensor, hessian: Tensor, case: Case) -> Tensor:
    """GPTQ and SparseGPT as their papers put them, a column at a time: three factorizations, lazy updates, losses."""
    num_columns = weight.shape[1]
    work, damped = weight.clone(), hessian.clone()
    dead = damped.diagonal() == 0
    damped[dead, dead] = 1
    work[:, dead] = 0
    grids = fit_groups(work, case) if case.bits and (case.act_order or case.group is None) else None
    order = (
        torch.argsort(damped.diagonal(), descending=True)
        if case.act_order
        else torch.arange(num_columns, device=work.device)
    )
    if case.act_order:
        work, damped = work[:, order], damped[order][:, order]
    damped.diagonal().add_(DAMPING * damped.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper = torch.linalg.cholesky(inverse, upper=True)
    groups = (order // (case.group or num_columns)).tolist()
    result = torch.zeros_like(work)
    scale = zero = work.new_zeros(work.shape[0], 1)
    for start in range(0, num_columns, BLOCK):
        end = min(start + BLOCK, num_columns)
        block, inner = work[:, start:end].clone(), upper[start:end, start:end]
        errors, losses = torch.zeros_like(block), torch.zeros_like(block)
        pruned = torch.zeros_like(block, dtype=torch.bool)
        if case.sparsity and case.pattern is None:
            cost = block**2 / inner.diagonal() ** 2
            pruned = cost <= cost.flatten().sort().values[int(cost.numel() * case.sparsity) - 1]
        for j in range(end - start):
            column = start + j
            if case.pattern and column % case.pattern[1] == 0:
                width = case.pattern[1]
                cost = block[:, j : j + width] ** 2 / inner.diagonal()[j : j + width] ** 2
                cheapest = cost.topk(width - case.pattern[0], dim=1, largest=False).indices
                pruned[:, j : j + width].scatter_(1, cheapest, True)
            value, fixed = block[:, j], block[:, j].clone()
            if case.sparsity:
                fixed[pruned[:, j]] = 0
            if case.bits:
                if grids is not None:
                    scale, zero = (part[:, groups[column]].unsqueeze(1) for part in grids)
                elif column % case.group == 0:
                    scale, zero = fit(block[:, j : j + case.group], case)
                fixed = nearest(fixed.unsqueeze(1), scale, zero, case).squeeze(1)
            losses[:, j] = (value - fixed) ** 2 / inner[j, j] ** 2
            error = (value - fixed) / inner[j, j]
            block[:, j:] -= error.unsqueeze(1) @ inner[j, j:].unsqueeze(0)
            result[:, column], errors[:, j] = fixed, error
        work[:, end:] -= errors @ upper[start:end, end:]
    return result[:, torch.argsort(order)]


def fit_groups(weight: Tensor, case: Case) -> tuple[Tensor, Tensor]:
    """Scales and zero points [R, G] of groups where they lie."""
    size = case.group or weight.shape[1]
    fitted = [fit(part, case) for part in weight.split(size, dim=1)]
    return torch.cat([scale for scale, _ in fitted], 1), torch.cat([zero for _, zero in fitted], 1)


def fit(values: Tensor, case: Case) -> tuple[Tensor, Tensor]:
    """Scale, as bf16 holds it, and zero point [R, 1] for values [R, g]; codes are 0 to 2^bits - 1."""
    assert case.bits
    low, high = values.amin(1, keepdim=True).clamp(max=0), values.amax(1, keepdim=True).clamp(min=0)
    if case.symmetric:
        high = torch.maximum(high, -low)
        low = -high
    scale = ((high - low) / (2**case.bits - 1)).bfloat16().float()
    scale[scale == 0] = 1
    zero = torch.full_like(scale, 2 ** (case.bits - 1)) if case.symmetric else (-low / scale).round()
    return scale, zero


def nearest(values: Tensor, scale: Tensor, zero: Tensor, case: Case) -> Tensor:
    assert case.bits
    return (((values / scale).round() + zero).clamp(0, 2**case.bits - 1) - zero) * scale


def timed(solve: Callable[[], Tensor], repeats: int, *, warm: bool) -> tuple[Tensor, list[float]]:
    took = []
    for _ in range(repeats + warm):
        synchronize()
        started = time.perf_counter()
        result = solve()
        synchronize()
        took.append(time.perf_counter() - started)
    return result, took[warm:]


def loss(weight: Tensor, solved: Tensor, hessian: Tensor) -> float:
    with full_precision():
        lost, whole = (((part @ hessian) * part).sum(dtype=torch.float64) for part in (weight - solved, weight))
    return float(lost / whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrices", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--loop-repeats", type=int, default=1)
    parser.add_argument("--references", type=Path, help="folder with checkouts of gptq and sparsegpt")
    parser.add_argument("--fp32", action="store_true", help="ours passes errors on in fp32; lines of their own")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32, columns.SWEEP_TF32 = False, not arguments.fp32
    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrices = load_matrices(arguments.matrices)
    loop = References(arguments.references).solve if arguments.references else solve_by_loop
    if device == "cpu":
        torch.cuda.synchronize = synchronize  # the references wait for CUDA, wherever they run
    shapes = [(48, 64), (64, 160)] if arguments.tiny else [(4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336)]
    sequences, length = (8, 32) if arguments.tiny else (128, 2048)
    results = Results(arguments.output / "solve.jsonl")
    held: dict[int, Tensor] = {}
    warmed = False
    for rows, width in shapes:
        for case in cases(32 if arguments.tiny else 128):
            name = f"{rows}x{width}: {case.name}{', fp32' if arguments.fp32 else ''}"
            if name in results:
                continue
            if width not in held:
                held = {width: hessian_of(matrices.make_inputs(width, sequences, length, device=device))}
            hessian, weight = held[width], matrices.make_weight(rows, width, device=device)
            if not warmed:  # CUDA's libraries, for the loop too
                with contextlib.redirect_stdout(io.StringIO()):
                    loop(weight[:64, :256].contiguous(), hessian[:256, :256].contiguous(), case)
                warmed = True
            solved, took = timed(lambda w=weight, h=hessian, c=case: solve_ours(w, h, c), arguments.repeats, warm=True)
            _, factors = timed(lambda h=hessian, c=case: factor_of(h, c)[0].upper, arguments.repeats, warm=False)
            with full_precision(), contextlib.redirect_stdout(io.StringIO()):
                theirs, loop_took = timed(
                    lambda w=weight, h=hessian, c=case: loop(w, h, c), arguments.loop_repeats, warm=False
                )
            ours_s, loop_s = statistics.median(took), statistics.median(loop_took)
            ours_loss, loop_loss = loss(weight, solved, hessian), loss(weight, theirs, hessian)
            results.add(
                name,
                ours_s=round(ours_s, 5),
                factor_s=round(statistics.median(factors), 5),
                ours_all_s=[round(seconds, 5) for seconds in took],
                loop="the papers' code" if arguments.references else "written here",
                loop_s=round(loop_s, 4),
                time_ratio=round(ours_s / loop_s, 5),
                ours_loss=ours_loss,
                loop_loss=loop_loss,
                loss_ratio=round(ours_loss / loop_loss, 5),
                trace_h=float(hessian.diagonal().sum()) * length,
                norm_w=float(weight.norm()),
            )
    print_table(results.path)


def hessian_of(inputs: Tensor) -> Tensor:
    total = HessianSum(inputs.shape[-1])
    for part in inputs.split(max(1, 8192 // inputs.shape[1])):
        total.add(part.flatten(0, 1))
    return total.mean()


def print_table(path: Path) -> None:
    """Markdown of every line in the file."""
    print(
        "| matrix and case | ours, s | of it factor | loop, s | ours / loop | loss, ours | loss, loop | ours / loop |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for line in path.read_text(encoding="utf-8").splitlines():
        r = json.loads(line)
        print(
            f"| {r['case']} | {r['ours_s']:.4f} | {r['factor_s']:.4f} | {r['loop_s']:.2f} | {r['time_ratio']:.4f} | "
            f"{r['ours_loss']:.6f} | {r['loop_loss']:.6f} | {r['loss_ratio']:.4f} |"
        )


if __name__ == "__main__":
    main()
