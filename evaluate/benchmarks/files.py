"""Reads publishers' files: JSON, JSON Lines or Parquet, from the user's disk or from the Hugging Face hub."""

import json
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from evaluate.errors import BadInput
from evaluate.json_files import parse_json, read_text


@dataclass(frozen=True)
class HubFile:
    """One file of a dataset repository on the Hugging Face hub."""

    repo: str
    filename: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hub:{self.repo}/{self.filename}"


@dataclass(frozen=True)
class Row:
    """One record of a file, and where it stands ("folio.jsonl: line 3") for messages."""

    where: str
    value: Mapping[str, Any]

    def text(self, *keys: str) -> str:
        """Returns the first of `keys` that the row has, as text; whole numbers are written out. Raises BadInput."""
        key = next((k for k in keys if self.value.get(k) is not None), None)
        if key is None:
            others = f" (or {', '.join(repr(k) for k in keys[1:])})" if keys[1:] else ""
            held = ", ".join(map(repr, self.value)) or "nothing"
            raise BadInput(
                f"{self.where}: key {keys[0]!r}{others} is missing, must be a text; the row has {held[:120]}"
            )
        value = self.value[key]
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
            return str(int(value))
        if not isinstance(value, str) or not value.strip():
            raise BadInput(f"{self.where}: key {key!r} is {_short(value)}, must be a text that is not empty")
        return value

    def text_or(self, default: str, *keys: str) -> str:
        """Returns what `text` does, or `default` where the row has none of `keys`. Raises BadInput."""
        return self.text(*keys) if any(self.value.get(k) is not None for k in keys) else default

    def key_of(self, value: str, *defaults: str) -> str:
        """Returns the key that holds `value`, alone or in a list, else the first of `defaults` that the row has."""
        holds = (k for k, v in self.value.items() if str(v) == value or (isinstance(v, list) and value in v))
        return next(holds, next((k for k in defaults if k in self.value), defaults[-1]))

    def texts(self, key: str) -> tuple[str, ...]:
        """Returns a list of texts; a missing key is an empty list. Raises BadInput."""
        value = self.value.get(key) or []
        if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(v, str) for v in value):
            raise BadInput(f"{self.where}: key {key!r} is {_short(value)}, must be a list of texts")
        return tuple(value)

    def rows(self, key: str) -> list["Row"]:
        """Returns a list of objects as rows of their own; a missing key is an empty list. Raises BadInput."""
        value = self.value.get(key) or []
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise BadInput(f"{self.where}: key {key!r} is {_short(value)}, must be a list of objects")
        return [_row(f"{self.where}: {key} {i}", item) for i, item in enumerate(value)]


def read_rows(path: Path, list_key: str = "examples") -> list[Row]:
    """Reads the records of one file: a JSON list, a JSON object with the list under `list_key`, or JSON Lines.

    Raises BadInput naming the file, and the line where there is one.
    """
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    text = read_text(path)
    rows = _json_rows(path, text, list_key)
    rows = _line_rows(path, text) if rows is None else rows
    if not rows:
        raise BadInput(f"{path}: holds no problem, must hold at least one; give a file in its publisher's format")
    return rows


def _json_rows(path: Path, text: str, list_key: str) -> list[Row] | None:
    """Rows of one JSON document; None when the text is JSON Lines. Raises BadInput where it is neither."""
    if not text.strip():
        return []
    try:
        document = parse_json(text)
    except ValueError as error:
        if path.suffix != ".jsonl" and not _is_json(text.lstrip().partition("\n")[0]):
            line = getattr(error, "lineno", 1)
            raise BadInput(
                f"{path}: line {line}: no valid JSON ({_fault(error)}); mend it or fetch the file again"
            ) from None
        return None
    if isinstance(document, dict) and list_key not in document:
        return None
    items = document[list_key] if isinstance(document, dict) else document
    if not isinstance(items, list):
        raise BadInput(f"{path}: holds {type(items).__name__}, must hold a list of problems")
    return [_row(f"{path}: item {i}", item) for i, item in enumerate(items)]


def _is_json(line: str) -> bool:
    try:
        parse_json(line)
    except ValueError:
        return False
    return True


def _line_rows(path: Path, text: str) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except ValueError as error:
            raise BadInput(
                f"{path}: line {number}: no valid JSON ({_fault(error)}); mend the line or fetch the file again"
            ) from None
        rows.append(_row(f"{path}: line {number}", value))
    return rows


def _row(where: str, value: object) -> Row:
    if not isinstance(value, dict):
        raise BadInput(f"{where}: is {_short(value)}, must be an object with keys")
    return Row(where, value)


def _fault(error: ValueError) -> str:
    """What is wrong, and in which column; the line is named apart."""
    return f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)


def _short(value: object) -> str:
    return json.dumps(value, default=str)[:60]


def _parquet_rows(path: Path) -> list[Row]:
    import pyarrow.parquet as parquet

    try:
        records = parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from None
    return [Row(f"{path}: row {i}", record) for i, record in enumerate(records)]


def fetch(hub: HubFile, name: str) -> Path:
    """Returns the path of one file of the hub in its cache; it is downloaded where it is not there yet.

    name: the benchmark's, for the message. Raises BadInput with the way out when the hub cannot be reached.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError

    way_out = f"give a file of your own: {name}=FILE"
    download = partial(hf_hub_download, hub.repo, hub.filename, repo_type="dataset", revision=hub.revision)
    with suppress(EntryNotFoundError):
        return Path(download(local_files_only=True))
    try:
        _probe(constants.ENDPOINT)
        return Path(download())
    except GatedRepoError:
        raise BadInput(
            f"{hub}: gated, accept its terms on https://huggingface.co/datasets/{hub.repo} and set HF_TOKEN; "
            f"or {way_out}"
        ) from None
    except (HfHubHTTPError, EntryNotFoundError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        raise BadInput(f"{hub}: cannot be fetched ({reason}); {way_out}") from None


def _probe(url: str) -> None:
    """Raises OSError at once where no host answers; the hub's own client would try for half a minute, aloud."""
    parts = urlsplit(url)
    if parts.hostname and not getproxies():
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), timeout=10).close()


def checksum(path: Path) -> str:
    """First 16 hexadecimal digits of a file's SHA-256."""
    return sha256(path.read_bytes()).hexdigest()[:16]
