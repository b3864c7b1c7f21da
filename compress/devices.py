"""Where work is done: which device, what goes on there beside the rest, how much memory it took. torch is imported when
it is asked.
"""

from __future__ import annotations

import importlib.util
import resource
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from compress.errors import InputError
from compress.scheme import Platform

if TYPE_CHECKING:
    import torch


def default_platform() -> Platform:
    """cuda where this machine has it."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def parse_device(device: str | None) -> torch.device:
    """The device of that name, or this machine's best. Raises InputError for one that is not there."""
    import torch

    name = device or default_platform()
    try:
        parsed = torch.device(name)
    except RuntimeError:
        raise InputError("device", name, "cpu, cuda or cuda:N") from None
    if parsed.type not in ("cpu", "cuda"):
        raise InputError("device", name, "cpu, cuda or cuda:N")
    if parsed.type == "cuda" and (parsed.index or 0) >= torch.cuda.device_count():
        raise InputError("device", name, f"one of the {torch.cuda.device_count()} CUDA devices that torch sees, or cpu")
    return parsed


def parse_devices(device: str | None) -> list[str]:
    """Names of devices: those given with commas between them, else all CUDA devices that torch sees, else the CPU.

    Raises InputError for one that is not there, and for a CUDA device named twice.
    """
    import torch

    if device is None:
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]
    names = [str(parse_device(name.strip() or "nothing")) for name in device.split(",")]
    if any(name != "cpu" and names.count(name) > 1 for name in names):
        raise InputError("device", device, "each CUDA device once")
    return names


def prepare_device(device: torch.device) -> None:
    """Before a pass: kernels run there, what an earlier pass left in torch's cache is free, the peak counts anew."""
    import torch

    if device.type != "cuda":
        return
    if device.index is not None:  # else it is the current one
        torch.cuda.set_device(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)


def runs_triton(device: torch.device) -> bool:
    """Whether Triton's kernels run there: on CUDA, where it is installed."""
    return device.type == "cuda" and _has_triton()


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


class Aside:
    """Work given to the device beside what follows until its result is asked for; at once where that is no CUDA."""

    def __init__(self, work: Callable[[], torch.Tensor], device: torch.device) -> None:
        self._device, self._done = device, None
        if device.type != "cuda":
            self._result = work()
            return
        import torch

        side = _side_stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            self._result = work()
            self._done = side.record_event()

    def result(self) -> torch.Tensor:
        """What came of it; the device's current stream waits for it."""
        if self._done:
            import torch

            current = torch.cuda.current_stream(self._device)
            current.wait_event(self._done)
            self._result.record_stream(current)
        return self._result


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    import torch

    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A small tensor of the CPU on the device, without a wait for what the device does."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def peak_memory_gib(device: torch.device) -> float:
    """Of the device's tensors on CUDA, of the whole process on a CPU."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
