"""How fast answers come while the queue is full, and what the GPUs draw meanwhile; kept in throughput.json.

Measured while a model is asked, so no part of summary.json, which the answers alone determine.
"""

import ctypes
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from evaluate.errors import BadInput
from evaluate.json_files import parse_json
from evaluate.schema import Answer
from evaluate.store import write_json

THROUGHPUT = "throughput.json"


@dataclass(frozen=True)
class Throughput:
    """tokens_per_s: completion tokens, None for too few answers; joules_per_question: None where not measured."""

    tokens_per_s: float | None
    concurrency: int
    joules_per_question: float | None = None

    def write(self, folder: Path) -> None:
        """Keeps it beside the answers; a run too short to measure leaves an earlier measurement alone."""
        if self.tokens_per_s is not None or self.joules_per_question is not None:
            write_json(folder / THROUGHPUT, asdict(self))


def read_throughput(folder: Path) -> Throughput | None:
    """Returns what was measured in a folder, None where nothing was. Raises BadInput for another file's content."""
    path = folder / THROUGHPUT
    if not path.exists():
        return None
    try:
        values = parse_json(path.read_text())
        read = Throughput(values["tokens_per_s"], values["concurrency"], values.get("joules_per_question"))
        if all(x is None or x > 0 for x in (read.tokens_per_s, read.joules_per_question)):
            return read
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise BadInput(f"{path}: holds no throughput; delete it and run again")


class ThroughputMeter:
    """Counts answers as they come."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self._times: list[tuple[float, int]] = []
        self._tokens = 0

    def count(self, answer: Answer) -> None:
        """Takes one new answer into account, now."""
        self._tokens += answer.completion_tokens or 0
        self._times.append((time.monotonic(), self._tokens))

    @property
    def num_answers(self) -> int:
        return len(self._times)

    def tokens_per_s(self) -> float | None:
        """From the answer that ends the ramp-up to the last one that had a full queue behind it; None for few."""
        if len(self._times) < 3 * self.concurrency:
            return None
        (first, before), (last, after) = self._times[self.concurrency - 1], self._times[-self.concurrency]
        return (after - before) / (last - first) if last > first else None


def read_joules(gpus: Sequence[int]) -> float:
    """Energy that these GPUs of this machine drew since their driver was loaded, in J, other work on them included.

    gpus: as nvidia-smi numbers them. Raises BadInput where NVML, a GPU or its counter (Volta and later) is missing.
    """
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        raise BadInput("energy: no NVIDIA driver (libnvidia-ml.so.1) here; leave --energy-gpus out") from None
    _check(nvml.nvmlInit_v2(), "NVML does not start")
    total_mj = 0
    try:
        for gpu in gpus:
            handle, energy_mj = ctypes.c_void_p(), ctypes.c_ulonglong()
            _check(nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(gpu), ctypes.byref(handle)), f"no GPU {gpu} here")
            code = nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(energy_mj))
            _check(code, f"GPU {gpu} has no energy counter")
            total_mj += energy_mj.value
    finally:
        nvml.nvmlShutdown()
    return total_mj / 1000


def _check(code: int, what: str) -> None:
    if code:
        raise BadInput(f"energy: {what} (NVML error {code}); leave --energy-gpus out")
