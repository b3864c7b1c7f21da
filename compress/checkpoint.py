"""Checkpoint folders: read a base model, write a compressed one so that it appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress.errors import InputError, ModelError, nearest_name
from compress.families import Shapes, shapes_from_config
from compress.size import read_header, weight_files

CHUNK_BYTES = 1 << 24
# Beside the weights a checkpoint consists of small files: tokenizer, chat template, generation settings.
_COPIED_SUFFIXES = (".json", ".jinja", ".txt", ".model")
_NOT_COPIED = ("config.json", "compression_report.json")
_KEY_NAME = ".key"
_WEIGHT_DTYPES = ("BF16", "F16", "F32", "F64")


def read_config(folder: Path, key: str = "model") -> dict[str, Any]:
    """The folder's config.json. Raises ModelError, about `key` for a missing folder, for a file that is missing or
    no JSON object.
    """
    if not folder.is_dir():
        siblings = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        nearest = nearest_name(folder.name, siblings)
        must = "a folder with config.json and *.safetensors files"
        raise ModelError(key, folder, must, str(folder.parent / nearest) if nearest else None)
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

    Raises ModelError for torn files, and for tensors that are missing, of another shape or no floating-point numbers.
    """
    expected = shapes_from_config(config)
    stored = {name: entry for path in weight_files(folder) for name, entry in read_header(path).items()}
    for name, shape in expected.items():
        dtype, found = stored.get(name, ("", "missing"))
        if found != shape:
            raise ModelError(f"{folder} {name}", found, f"of shape {shape}, as config.json says")
        if dtype not in _WEIGHT_DTYPES:
            raise ModelError(f"{folder} {name}", dtype, f"one of {', '.join(_WEIGHT_DTYPES)}")
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
def whole_folders(outs: Sequence[Path], key: str, *, resumable: bool = True) -> Iterator[list[Path]]:
    """A temporary sibling of each of `outs` to write into, until publish() makes it appear whole.

    When the block ends, by an error too, what was not published is removed. Only a process that is killed or
    interrupted (Ctrl-C) leaves its folders: the next one that asks for the same `key`, which names everything that
    decides the bytes, goes on with them; one with another key removes them. Those of living processes and other hosts
    are left alone. resumable: whether what an interrupt leaves is of use; else it is removed too. Raises InputError
    when one of `outs` exists already.
    """
    folders: list[Path] = []
    interrupted = False
    try:
        for out in outs:
            check_absent(out)
            out.parent.mkdir(parents=True, exist_ok=True)
            folders.append(_take_over(out, key))
        yield folders
    except (KeyboardInterrupt, SystemExit):
        interrupted = resumable
        raise
    finally:
        for folder in [] if interrupted else folders:
            shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, out: Path) -> None:
    """Rename a temporary folder of whole_folders to `out`, synced, without what only unfinished work needs: its key and
    its progress. Raises InputError when `out` exists by now.
    """
    check_absent(out)
    _sync(folder)
    for path in folder.glob(".*"):
        path.unlink()
    _sync_one(folder)
    folder.rename(out)
    _sync_one(out.parent)


def check_parents(out: Path) -> None:
    """Raises InputError when `out` is to lie below a file."""
    for parent in out.parents:
        if parent.exists():
            if not parent.is_dir():
                raise InputError("OUT", out, f"in a folder: {parent} is a file")
            return


def check_absent(out: Path) -> None:
    """Raises InputError when `out` exists: a checkpoint is never written over another."""
    if out.exists() or out.is_symlink():
        raise InputError("OUT", out, "a folder that does not exist yet")


def copy_companions(source: Path, out: Path) -> None:
    """Copy tokenizer, chat template and generation settings."""
    for path in sorted(source.iterdir()):
        if not path.is_file() or path.suffix not in _COPIED_SUFFIXES:
            continue
        if path.name not in _NOT_COPIED and not path.name.endswith(".index.json") and path.name[0] != ".":
            shutil.copyfile(path, out / path.name)


def write_config(out: Path, config: Mapping[str, Any], quantization: Mapping[str, Any] | None) -> None:
    """Write config.json. quantization: its entry, if weights are packed."""
    content = {**config, **({} if quantization is None else {"quantization_config": dict(quantization)})}
    (out / "config.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _temporary_prefix(out: Path) -> str:
    return f".{out.name}.tmp-{socket.gethostname()}-"


def _take_over(out: Path, key: str) -> Path:
    """This process's temporary folder for `out`: what a dead one left of the same key, or an empty one."""
    prefix = _temporary_prefix(out)
    mine = out.parent / f"{prefix}{os.getpid()}"
    for path in sorted(out.parent.glob(f"{prefix}*")):
        owner = path.name.removeprefix(prefix)
        if not owner.isdigit() or (path != mine and Path(f"/proc/{owner}").exists()):
            continue
        key_file = path / _KEY_NAME
        if key_file.exists() and key_file.read_text(encoding="utf-8") == key and not (path != mine and mine.exists()):
            path.rename(mine)
        else:
            shutil.rmtree(path, ignore_errors=True)
    if not mine.exists():
        mine.mkdir()
        (mine / _KEY_NAME).write_text(key, encoding="utf-8")
    return mine


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
