"""Where the residual streams of a pass are kept between layers: on the device, in host memory or in files.

Shapes: T positions of a row, C columns/in.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

# Shares of what is free that activations may take; the rest is for a layer, its Hessians and the rows being solved.
DEVICE_SHARE, HOST_SHARE = 0.35, 0.5
# Pinned memory comes in powers of two, so that batches share blocks of this size.
PINNED_BYTES = 1 << 30


@dataclass(frozen=True)
class Batch:
    """hidden [rows, T, C]: what enters the next layer; real [rows, T], None without padding; positions: the rotary
    cosines and sines, or both as complex numbers, as the model's attention wants them. first_token_weight: see
    Calibration.
    """

    hidden: Tensor
    real: Tensor | None
    positions: Tensor | tuple[Tensor, ...]
    first_token_weight: float = 1.0

    @property
    def num_tokens(self) -> int:
        """Positions that are no padding."""
        return self.hidden[..., 0].numel() if self.real is None else int(self.real.sum())

    def weighted(self, inputs: Tensor) -> Tensor:
        """Inputs [rows, T, C] of queries, keys or values, as their Hessian counts them."""
        if self.first_token_weight == 1:
            return inputs
        counted = inputs.clone()
        counted[:, 0] *= self.first_token_weight**0.5
        return counted

    def tokens(self, values: Tensor) -> Tensor:
        """Those of values [rows, T, C] that are no padding, [N, C]; values [N, C] hold none."""
        if values.ndim == 2:
            return values
        return values.flatten(0, 1) if self.real is None else values[self.real]

    def spread(self, tokens: Tensor) -> Tensor:
        """tokens [N, C] in their places, [rows, T, C], zeros in the padding."""
        if self.real is None:
            return tokens.view(*self.hidden.shape[:2], -1)
        values = tokens.new_zeros(*self.hidden.shape[:2], tokens.shape[-1])
        values[self.real] = tokens
        return values


class Activations:
    """Allocates and holds batches in the place that was chosen; on the way through a layer they are on the device. What
    a GPU keeps in host memory is pinned where the system allows that: it comes and goes several times as fast.
    """

    def __init__(self, device: torch.device, place: torch.device, folder: Path | None) -> None:
        self.device, self.place, self._folder, self._num_files = device, place, folder, 0
        self._pins = device.type == "cuda" and place.type == "cpu" and folder is None
        self._block = torch.empty(0, dtype=torch.uint8)

    @property
    def description(self) -> str:
        """device, host or disk."""
        if self._folder is not None:
            return "disk"
        return "device" if self.place == self.device else "host"

    def keep(self, batch: Batch) -> Batch:
        """A batch of its own storage in this place, with the values of `batch`."""
        if self._folder is None:
            hidden = self._room_for(batch.hidden)
        else:
            path = self._folder / f"{self._num_files}"
            self._num_files += 1
            with path.open("wb") as file:  # room is taken now: a full disk is an error here, not a signal later
                os.posix_fallocate(file.fileno(), 0, batch.hidden.numel() * batch.hidden.element_size())
            flat = torch.from_file(str(path), shared=True, size=batch.hidden.numel(), dtype=batch.hidden.dtype)
            hidden = flat.view(batch.hidden.shape)
        hidden.copy_(batch.hidden)
        return replace(batch, hidden=hidden)

    def load(self, stored: Batch) -> Batch:
        """The batch on the device."""
        return replace(stored, hidden=stored.hidden.to(self.device, non_blocking=self._pins))

    def store(self, stored: Batch, batch: Batch) -> None:
        """Have `stored` hold the values of `batch`, for load() alone: what is pinned may still be on its way."""
        stored.hidden.copy_(batch.hidden, non_blocking=self._pins)

    def _room_for(self, hidden: Tensor) -> Tensor:
        if not self._pins:
            return torch.empty_like(hidden, device=self.place)
        num_bytes = hidden.numel() * hidden.element_size()
        if len(self._block) < num_bytes:
            try:
                self._block = torch.empty(max(num_bytes, PINNED_BYTES), dtype=torch.uint8, pin_memory=True)
            except RuntimeError:  # more than the system pins
                self._pins = False
                return self._room_for(hidden)
        room, self._block = self._block[:num_bytes], self._block[num_bytes:]
        return room.view(hidden.dtype).view(hidden.shape)


@contextmanager
def open_activations(
    num_bytes: int, device: torch.device, memory_bytes: int | None, folder: Path, working_bytes: int | None = None
) -> Iterator[Activations]:
    """A place for num_bytes: the device when that leaves it room, else host memory within memory_bytes (None: half of
    what is free), else files below `folder`, which are gone when the block ends. working_bytes: what all else takes on
    the device at most, where that is known.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        if num_bytes <= max(DEVICE_SHARE * free, 0 if working_bytes is None else free - working_bytes):
            yield Activations(device, device, None)
            return
    host = torch.device("cpu")
    if num_bytes <= (host_share_bytes() if memory_bytes is None else memory_bytes):
        yield Activations(device, host, None)
        return
    with tempfile.TemporaryDirectory(prefix=".activations-", dir=folder) as files:
        yield Activations(device, host, Path(files))


def host_share_bytes() -> float:
    """Host memory that activations may take where nothing else is said."""
    return HOST_SHARE * _available_bytes()


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
