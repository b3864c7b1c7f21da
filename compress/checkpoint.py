"""Checkpoint folders: read a base model, write a compressed one so that it appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import InputError, ModelError, nearest_name
from compress.size import Shapes, read_header, shapes_from_config, weight_files

if TYPE_CHECKING:
    from torch import Tensor

MAX_SHARD_SIZE = "4GB"
CHUNK_BYTES = 1 << 24
# Beside the weights a checkpoint consists of small files: tokenizer, chat template, generation settings.
_COPIED_SUFFIXES = (".json", ".jinja", ".txt", ".model")
_NOT_COPIED = ("config.json", "compression_report.json")


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises ModelError when the folder or the file is missing or no JSON object."""
    if not folder.is_dir():
        siblings = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        nearest = nearest_name(folder.name, siblings)
        must = "a folder with config.json and *.safetensors files"
        raise ModelError("model", folder, must, str(folder.parent / nearest) if nearest else None)
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(str(path), error.strerror or "unreadable", "a readable file") from error
    except ValueError as error:
        raise ModelError(str(path), "unreadable", "a JSON object") from error
    if not isinstance(config, dict):
        raise ModelError(str(path), type(config).__name__, "a JSON object")
    return config


def check_weights(folder: Path, config: Mapping[str, Any]) -> Shapes:
    """The shapes that the config promises, once the safetensors files are seen to hold them.

    Raises ModelError for torn files, and for tensors that are missing or of another shape.
    """
    expected = shapes_from_config(config)
    stored = {name: shape for path in weight_files(folder) for name, (_, shape) in read_header(path).items()}
    for name, shape in expected.items():
        if stored.get(name) != shape:
            raise ModelError(f"{folder} {name}", stored.get(name, "missing"), f"of shape {shape}, as config.json says")
    return expected


def weights_fingerprint(folder: Path) -> str:
    """Names weights and architecture by content: sha256 over config.json and every safetensors file, 64 hex digits."""
    digest = hashlib.sha256()
    for path in [folder / "config.json", *weight_files(folder)]:
        digest.update(f"{path.name}:{path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A temporary sibling of `out` to write into; on success everything is synced and renamed to `out`, on an error it
    is removed. What an earlier, killed process of this host left for the same `out` is removed first.

    Raises InputError when `out` exists already.
    """
    check_absent(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(out)
    temporary = out.parent / f"{_temporary_prefix(out)}{os.getpid()}"
    temporary.mkdir()
    try:
        yield temporary
        _sync(temporary)
        check_absent(out)
        temporary.rename(out)
        _sync_one(out.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def check_absent(out: Path) -> None:
    """Raises InputError when `out` exists: a checkpoint is never written over another."""
    if out.exists() or out.is_symlink():
        raise InputError("OUT", out, "a folder that does not exist yet")


def copy_companions(source: Path, out: Path) -> None:
    """Copy tokenizer, chat template and generation settings."""
    for path in sorted(source.iterdir()):
        if not path.is_file() or path.suffix not in _COPIED_SUFFIXES:
            continue
        if path.name not in _NOT_COPIED and not path.name.endswith(".index.json"):
            shutil.copyfile(path, out / path.name)


def write_checkpoint(
    out: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], quantization: Mapping[str, Any] | None
) -> None:
    """Write config.json and the safetensors files (sharded above 4 GB). quantization: the config's entry, if packed."""
    from huggingface_hub import save_torch_state_dict

    config = dict(config)
    if quantization is not None:
        config["quantization_config"] = dict(quantization)
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    ordered = {name: tensors[name].contiguous() for name in sorted(tensors)}
    save_torch_state_dict(ordered, out, max_shard_size=MAX_SHARD_SIZE)
    for path in weight_files(out):
        path.chmod(0o644)  # safetensors writes for the owner alone; a replica may run as someone else


def _temporary_prefix(out: Path) -> str:
    return f".{out.name}.tmp-{socket.gethostname()}-"


def _remove_leftovers(out: Path) -> None:
    prefix = _temporary_prefix(out)
    for path in out.parent.glob(f"{prefix}*"):
        owner = path.name.removeprefix(prefix)
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(path, ignore_errors=True)


def _sync(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        _sync_one(path)
    _sync_one(folder)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
