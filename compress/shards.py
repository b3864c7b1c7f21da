"""Safetensors files a tensor at a time: read from a base model, written into a checkpoint of known layout.

A writer lays its files out in full before the first tensor comes, so that a full disk is met at once and any order of
writing gives the same bytes. Layout: 8 bytes little-endian header length, a JSON header, then the data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from compress.size import read_header, weight_files

MAX_SHARD_BYTES = 4_000_000_000
_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
}
Layout = Mapping[str, Tensor]


class TensorReader:
    """The tensors of a folder's safetensors files, each read when it is asked for. Raises ModelError for torn files."""

    def __init__(self, folder: Path) -> None:
        self._paths = {name: path for path in weight_files(folder) for name in read_header(path)}
        self._files: dict[Path, Any] = {}

    @property
    def names(self) -> Sequence[str]:
        return list(self._paths)

    def read(self, name: str) -> Tensor:
        from safetensors import safe_open

        path = self._paths[name]
        if path not in self._files:
            self._files[path] = safe_open(path, framework="pt")
        tensor: Tensor = self._files[path].get_tensor(name)
        return tensor


@dataclass(frozen=True)
class _Place:
    path: Path
    offset: int
    num_bytes: int


class TensorWriter:
    """Files in `folder` for tensors like those of `layout` (shapes and dtypes count, values do not; meta will do), in
    shards of max_shard_bytes. Files that are there from an earlier writer of the same layout are kept as they are.

    Raises OSError when the disk has no room for all of it.
    """

    def __init__(self, folder: Path, layout: Layout, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        shards = _split(layout, max_shard_bytes)
        self._layout = layout
        self._places: dict[str, _Place] = {}
        self._files: dict[Path, int] = {}
        try:
            for number, names in enumerate(shards, 1):
                stem = "model" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}"
                self._lay_out(folder / f"{stem}.safetensors", {name: layout[name] for name in names})
        except BaseException:
            self.close()
            raise
        if len(shards) > 1:
            weight_map = {name: place.path.name for name, place in self._places.items()}
            total = sum(place.num_bytes for place in self._places.values())
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def __enter__(self) -> TensorWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])

    def write(self, name: str, tensor: Tensor) -> None:
        """Put one tensor, of the layout's shape and dtype, into its place."""
        place, data = self._places[name], _bytes_of(tensor)
        assert data.nbytes == place.num_bytes, name
        written = 0
        while written < place.num_bytes:
            written += os.pwrite(self._files[place.path], data[written:], place.offset + written)

    def read(self, name: str) -> Tensor:
        """A tensor that was written."""
        place, like = self._places[name], self._layout[name]
        data = bytearray(os.pread(self._files[place.path], place.num_bytes, place.offset))
        return torch.frombuffer(data, dtype=like.dtype).reshape(like.shape)

    def _lay_out(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in sorted(tensors, key=lambda name: -tensors[name].element_size()):  # wide values first: aligned
            tensor = tensors[name]
            start, end = end, end + tensor.numel() * tensor.element_size()
            entry = {"dtype": _DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
            header[name] = entry
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        for name, entry in header.items():
            if name != "__metadata__":
                start, stop = entry["data_offsets"]
                self._places[name] = _Place(path, 8 + len(text) + start, stop - start)
        descriptor = self._files[path] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if os.fstat(descriptor).st_size == 8 + len(text) + end:
            return
        try:
            os.posix_fallocate(descriptor, 0, 8 + len(text) + end)
        except OSError as error:
            reason = f"{os.strerror(error.errno or 0)}, where {(8 + len(text) + end) / 1e9:.3f} GB are wanted"
            raise OSError(error.errno, reason, str(path)) from None
        os.pwrite(descriptor, len(text).to_bytes(8, "little") + text, 0)


def _bytes_of(tensor: Tensor) -> memoryview:
    data: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(data)


def _split(layout: Layout, max_bytes: int) -> Sequence[Sequence[str]]:
    """Names in order, cut where the next tensor would make a shard too large."""
    shards: list[list[str]] = [[]]
    room = max_bytes
    for name, tensor in layout.items():
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and size > room:
            shards.append([])
            room = max_bytes
        shards[-1].append(name)
        room -= size
    return shards
