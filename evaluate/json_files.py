"""Reads what others wrote: texts and JSON, with one line that names file and line where they are none."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from evaluate.errors import BadInput


def read_text(path: Path) -> str:
    """Returns the text of a UTF-8 file, a byte order mark left out. Raises BadInput naming the file and the line."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except IsADirectoryError:
        raise BadInput(f"{path}: is a folder, must be a file") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    if content[:2] == b"\x1f\x8b":
        raise BadInput(f"{path}: is packed by gzip; unpack it first: gunzip {path}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{path}: line {line}: is no UTF-8 text ({error.reason}); save the file as UTF-8") from None


def parse_json(text: str | bytes, *, unique_keys: bool = False) -> Any:
    """Parses JSON. Raises ValueError, also where it is nested too deeply, and where a key must be unique and is not."""
    try:
        return json.loads(text, object_pairs_hook=_unique if unique_keys else None)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = Counter(key for key, _ in pairs)
    if twice := [key for key, count in counts.items() if count > 1]:
        raise ValueError(f"key {twice[0]!r} stands there twice")
    return dict(pairs)
