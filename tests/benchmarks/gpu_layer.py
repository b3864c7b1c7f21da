"""Twelve schemes of one decoder layer on a GPU, by hand, on a machine that needs torch, triton and transformers alone:

    python -m tests.benchmarks.gpu_layer --matrices FILE --output FOLDER [--tiny]

FILE is a Python file with make_weight(rows, columns, device=) and make_inputs(columns, sequences, seqlen, device=).
Timed is what compress does to a layer between reading it and writing it: forward, Hessians, factors, sweeps, losses,
copies into pinned host memory (dropped there, no file is written); wall seconds between synchronizations, the first run
left out, median and least of the others. A further run gives the stages' seconds, from CUDA events around them. Results
are lines of FOLDER/layer.jsonl, written as they come; cases that stand there are not run again. --tiny: a layer for
trying the script on a CPU.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from compress import columns, forward, hessian, making, solve, walk
from compress.activations import Activations, Batch
from compress.decoder import fuse_norms
from compress.families import linear_shapes, stages_of
from compress.job import Job, Target
from compress.outbox import Outbox
from compress.report import LayerReport
from compress.scheme import CheckpointFormat, Scheme

SHAPES = {
    "tiny": {"hidden": 64, "inner": 160, "heads": 4, "kv_heads": 2, "group": 32, "sequences": 4, "length": 32},
    "8B": {"hidden": 4096, "inner": 14336, "heads": 32, "kv_heads": 8, "group": 128, "sequences": 128, "length": 2048},
    "70B": {"hidden": 8192, "inner": 28672, "heads": 64, "kv_heads": 8, "group": 128, "sequences": 128, "length": 2048},
}
BATCH_ROWS = 4  # 8192 tokens a forward, as in compress


def schemes_of(group: int, propagate: str) -> list[Scheme]:
    settings: dict[str, Any] = {"group_size": group, "propagate": propagate}
    return [
        *(Scheme("gptq", bits, **settings) for bits in (4, 3, 2, 8)),
        *(Scheme("sparsegpt", bits, sparsity=0.5, **settings) for bits in (4, 3, 2, 8)),
        Scheme("sparsegpt", 4, sparsity=0.3, **settings),
        *(Scheme("sparsegpt", sparsity=share, propagate=propagate) for share in (0.3, 0.5, 0.7)),
    ]


@dataclass
class Host:
    """Stands for a PartialCheckpoint: counts the bytes that would be written, and collects the losses."""

    sizes: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    failure: Exception | None = None

    @property
    def tensors(self) -> Host:
        return self

    def write(self, name: str, tensor: Tensor) -> None:
        self.sizes.append(tensor.numel() * tensor.element_size())

    def finish_layer(self, reports: Sequence[LayerReport], fallbacks: dict[str, int]) -> None:
        self.losses += [report.loss for report in reports if report.loss is not None]

    def fail(self, failure: Exception) -> None:
        raise failure


class Layer:
    """One random layer and what comes into it."""

    def __init__(self, size: str, matrices: ModuleType, device: torch.device) -> None:
        shape = SHAPES[size]
        self.group, self.device = shape["group"], device
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        config = LlamaConfig(
            hidden_size=shape["hidden"],
            intermediate_size=shape["inner"],
            num_attention_heads=shape["heads"],
            num_key_value_heads=shape["kv_heads"],
            num_hidden_layers=1,
            vocab_size=256,
            max_position_embeddings=shape["length"],
        )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=self.dtype, attn_implementation="sdpa").eval()
        self.skeleton = model.model.layers[0]
        self.dense = {
            name: (
                matrices.make_weight(*tensor.shape, device=device.type)
                if tensor.ndim == 2
                else torch.ones(tensor.shape, device=device)
            ).to(self.dtype)
            for name, tensor in self.skeleton.state_dict().items()
        }
        self.shapes = {f"model.layers.0.{name}": tuple(tensor.shape) for name, tensor in self.dense.items()}
        inputs = matrices.make_inputs(shape["hidden"], shape["sequences"], shape["length"], device=device.type)
        self.hidden = inputs.to("cpu", self.dtype)  # the device holds the streams' copies alone
        rotary = type(model.model.rotary_emb)(config=config).to(device)
        places = torch.arange(shape["length"], device=device).unsqueeze(0)
        self.positions = rotary(self.hidden[:1].to(device), places)

    def module(self) -> torch.nn.Module:
        layer = copy.deepcopy(self.skeleton)
        layer.load_state_dict(self.dense, assign=True)
        fuse_norms(layer)
        return layer.requires_grad_(False)

    def run(self, schemes: Sequence[Scheme]) -> tuple[float, list[Host]]:
        """Seconds that the layer takes, and what would be written."""
        names = linear_shapes(self.shapes)
        targets = [
            Target(Path(scheme.name), scheme, CheckpointFormat.DEQUANTIZED, dict.fromkeys(names, scheme))
            for scheme in schemes
        ]
        job = Job(Path(), tuple(targets), {}, self.shapes, None, [[0]], self.device, self.dtype)
        hosts = [Host() for _ in targets]
        makings = [making.Making(target, host) for target, host in zip(targets, hosts, strict=True)]
        stages = stages_of(name.split(".", 3)[3] for name in names)
        activations = Activations(self.device, self.device, None)
        streams = walk._streams(makings)
        for stream in streams:
            parts = self.hidden.split(BATCH_ROWS)
            stream.batches.extend(Batch(part.to(self.device, copy=True), None, self.positions) for part in parts)
        synchronize()
        started = time.perf_counter()
        with Outbox(self.device) as outbox:
            for stream in streams:
                walk._solve_layer(job, outbox, activations, None, stream, 0, stages, self.module(), self.dense, None)
        synchronize()
        return time.perf_counter() - started, hosts


class Stages:
    """Seconds between entering and leaving the functions of a stage, on the device's clock."""

    PLACES = (
        ("forward and Hessians", walk, "measure_layer"),
        ("forward and Hessians", walk, "measure_stage"),
        ("forward and Hessians", walk, "advance"),
        ("of it Hessians", hessian.HessianSum, "add"),
        ("Hessians mirrored", forward.Measured, "statistics"),
        ("factors", hessian, "attempt_factor"),
        ("sweeps", solve, "solve_columns"),
        ("losses", solve, "_measure"),
        ("stored values and copies begun", making.Making, "send"),
    )

    def __init__(self) -> None:
        self._marks: list[tuple[str, Any, Any]] = []

    @contextmanager
    def watch(self) -> Iterator[None]:
        before = [(owner, name, getattr(owner, name)) for _, owner, name in self.PLACES]
        try:
            for (stage, owner, name), (_, _, function) in zip(self.PLACES, before, strict=True):
                setattr(owner, name, self._timed(stage, function))
            yield
        finally:
            for owner, name, function in before:
                setattr(owner, name, function)

    def _timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            start = mark()
            result = function(*arguments, **options)
            self._marks.append((stage, start, mark()))
            return result

        return timed

    def seconds(self) -> dict[str, float]:
        synchronize()
        total: dict[str, float] = {}
        for stage, start, end in self._marks:
            took = start.elapsed_time(end) / 1e3 if torch.cuda.is_available() else end - start
            total[stage] = total.get(stage, 0.0) + took
        return {stage: round(took, 4) for stage, took in total.items()}


def mark() -> Any:
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def load_matrices(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("matrices", path)
    assert spec and spec.loader, f"{path} is no Python file"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Results:
    """Lines of JSON that outlive the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._done = {json.loads(line)["case"] for line in lines}

    def __contains__(self, case: str) -> bool:
        return case in self._done

    def add(self, case: str, **values: Any) -> None:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        line = json.dumps({"case": case, **values, "device": device, "torch": torch.__version__})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)


def measure(layer: Layer, schemes: Sequence[Scheme], repeats: int, *, stages: bool) -> dict[str, Any]:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    runs = [layer.run(schemes) for _ in range(repeats + 1)]
    hosts = runs[-1][1]
    took = [seconds for seconds, _ in runs[1:]] or [runs[0][0]]
    values: dict[str, Any] = {
        "median_s": round(statistics.median(took), 4),
        "min_s": round(min(took), 4),
        "first_s": round(runs[0][0], 4),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else None,
        "copied_gb": round(sum(sum(host.sizes) for host in hosts) / 1e9, 3),
        "losses": {
            scheme.name: round(sum(host.losses) / len(host.losses), 7)
            for scheme, host in zip(schemes, hosts, strict=True)
        },
    }
    if stages:
        watched = Stages()
        with watched.watch():
            values["watched_s"] = round(layer.run(schemes)[0], 4)
        values["stages_s"] = watched.seconds()
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrices", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    matrices, device = load_matrices(arguments.matrices), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = Results(arguments.output / "layer.jsonl")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {device}", flush=True)
    size = "tiny" if arguments.tiny else "8B"
    group = SHAPES[size]["group"]
    dense, compressed = schemes_of(group, "dense"), schemes_of(group, "compressed")
    in_order = [replace(scheme, act_order=False) for scheme in dense]
    cases: list[tuple[str, list[Scheme], int, bool]] = [
        ("12 dense", dense, arguments.repeats, True),
        ("1 dense, gptq w4", dense[:1], arguments.repeats, True),
        ("1 dense, sparsegpt 50 %", dense[10:11], arguments.repeats, True),
        ("12 dense, no act-order", in_order, arguments.repeats, True),
        ("12 dense, errors passed on in fp32", dense, arguments.repeats, False),
        ("12 compressed", compressed, min(arguments.repeats, 2), True),
        ("1 compressed, gptq w4", compressed[:1], arguments.repeats, True),
    ]
    layer = None
    for name, schemes, repeats, tf32 in cases:
        if f"{size}: {name}" not in results:
            columns.SWEEP_TF32 = tf32
            layer = layer or Layer(size, matrices, device)
            results.add(f"{size}: {name}", **measure(layer, schemes, repeats, stages=True))
    columns.SWEEP_TF32 = True
    del layer
    if size == "8B" and "70B: 12 dense" not in results:
        results.add("70B: 12 dense", **measure(Layer("70B", matrices, device), dense, 0, stages=False))


if __name__ == "__main__":
    main()
