"""Twelve schemes in one pass, against one scheme and against twelve runs, by hand on an idle machine:

    python -m tests.benchmarks.compress_grid MODEL --calibration FILE [--num-samples N] [--max-seq-length L]

Times are of compress_models, from checking the request to renaming the folders, in one process that is warm: wall
seconds, and CPU seconds, which other work on the machine disturbs less. --singles K runs K of the twelve alone, spread
over the list, and says what twelve would take.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers

from compress.calibration import Calibration, load_calibration
from compress.methods import Propagate
from compress.pipeline import compress_models
from compress.scheme import Scheme

SCHEMES = [
    *(Scheme("gptq", bits, 64) for bits in (2, 3, 4, 8)),
    *(Scheme("gptq", bits, 64, symmetric=False) for bits in (2, 3, 4)),
    *(Scheme("sparsegpt", sparsity=share) for share in (0.3, 0.5)),
    Scheme("sparsegpt", pattern=(2, 4)),
    Scheme("sparsegpt", 4, 64, sparsity=0.5),
    Scheme("rtn", 4, 64),
]


@dataclass(frozen=True)
class Took:
    wall_s: float
    cpu_s: float

    def __truediv__(self, other: Took) -> str:
        return f"{self.wall_s / other.wall_s:.2f}x wall, {self.cpu_s / other.cpu_s:.2f}x CPU"

    def __str__(self) -> str:
        return f"{self.wall_s:.1f} s wall, {self.cpu_s:.1f} s CPU"


def take(model: Path, schemes: Sequence[Scheme], calibration: Calibration) -> Took:
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        compress_models(model, Path(folder), schemes, calibration)
        return Took(time.perf_counter() - wall, time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--num-samples", type=int, default=128)
    parser.add_argument("--max-seq-length", type=int, default=512)
    parser.add_argument("--singles", type=int, default=len(SCHEMES))
    arguments = parser.parse_args()
    settings = {"num_samples": arguments.num_samples, "max_seq_length": arguments.max_seq_length}
    calibration = load_calibration(arguments.calibration, **settings)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    print(f"{arguments.model.name}, {arguments.num_samples} rows; {versions}, {torch.get_num_threads()} threads")
    take(arguments.model, SCHEMES[-1:], calibration)  # imports and caches
    by_propagate = {
        kind: [replace(s, propagate=kind) if s.needs_calibration else s for s in SCHEMES] for kind in Propagate
    }
    for kind, schemes in by_propagate.items():
        one = take(arguments.model, schemes[2:3], calibration)
        twelve = take(arguments.model, schemes, calibration)
        print(f"propagate {kind}: 1 scheme ({schemes[2].name}) {one}; 12 schemes {twelve}: {twelve / one}", flush=True)
        chosen = [schemes[index * len(schemes) // arguments.singles] for index in range(arguments.singles)]
        alone = [take(arguments.model, [scheme], calibration) for scheme in chosen]
        share = len(schemes) / max(1, len(chosen))
        runs = Took(share * sum(took.wall_s for took in alone), share * sum(took.cpu_s for took in alone))
        said = "12 runs" if len(chosen) == len(schemes) else f"12 runs, extrapolated from {len(chosen)},"
        if chosen:
            print(f"  {said} {runs}: {runs / twelve} of the one pass", flush=True)


if __name__ == "__main__":
    main()
