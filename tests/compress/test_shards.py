"""Safetensors files a tensor at a time, against the safetensors library."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.shards import TensorReader, TensorWriter

TENSORS = {
    "b.weight": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
    "a.codes": torch.tensor([[-(2**31), 7]], dtype=torch.int32),
    "a.shape": torch.tensor([3, 5]),
    "c.weight": torch.randn(4, 5, generator=torch.Generator().manual_seed(0)),
}
LAYOUT = {name: tensor.to("meta") for name, tensor in TENSORS.items()}


def write(folder: Path, max_shard_bytes: int, names: list[str]) -> None:
    with TensorWriter(folder, LAYOUT, max_shard_bytes) as writer:
        for name in names:
            writer.write(name, TENSORS[name])
        assert all(torch.equal(writer.read(name), TENSORS[name]) for name in names)


@pytest.mark.parametrize(("max_shard_bytes", "num_files"), [(1000, 1), (50, 2), (1, 4)])
def test_files_are_what_the_library_reads(tmp_path: Path, max_shard_bytes: int, num_files: int) -> None:
    write(tmp_path, max_shard_bytes, list(TENSORS))
    paths = sorted(tmp_path.glob("*.safetensors"))
    assert len(paths) == num_files
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o644 & ~current_umask()}
    found = {name: tensor for path in paths for name, tensor in load_file(path).items()}
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    index = tmp_path / "model.safetensors.index.json"
    assert index.exists() == (num_files > 1)
    if num_files > 1:
        weight_map = json.loads(index.read_text())["weight_map"]
        assert all(name in load_file(tmp_path / file) for name, file in weight_map.items())


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_any_order_and_any_number_of_writers_give_the_same_bytes(tmp_path: Path) -> None:
    names = list(TENSORS)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "a", 50, names)
    write(tmp_path / "b", 50, names[:2])  # another writer goes on where this one ended
    write(tmp_path / "b", 50, names[:1:-1])
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()} for folder in "ab")
    assert first == second


def test_reader_finds_tensors_in_any_file(tmp_path: Path) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "one.safetensors")
    save_file({"y": torch.zeros(3)}, tmp_path / "two.safetensors")
    reader = TensorReader(tmp_path)
    assert torch.equal(reader.read("y"), torch.zeros(3)) and torch.equal(reader.read("x"), torch.ones(2))
