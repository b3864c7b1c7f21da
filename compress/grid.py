"""A YAML file of schemes: a list of mappings, each with a scheme's keys, `name` and `format`.

A list as a value stands for each of its items, as in a study: `num_bits: [2, 3]` is two schemes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from compress.errors import InputError, SchemeError, nearest_name
from compress.methods import Propagate
from compress.plain_yaml import UnreadableYaml, parse_yaml
from compress.scheme import CheckpointFormat, Scheme

MAX_FILE_BYTES = 1_000_000
_OWN_KEYS = ("name", "format")
_EXAMPLE = "a list of mappings such as `- {method: gptq, num_bits: 4, group_size: 128}`"


@dataclass(frozen=True)
class GridEntry:
    """index: of the entry in its file, from 0. name: of the checkpoint's folder."""

    index: int
    name: str
    scheme: Scheme
    format: CheckpointFormat


def load_grid(path: Path, *, format: CheckpointFormat, propagate: Propagate | None) -> list[GridEntry]:
    """The file's schemes; format and propagate are of those that do not say. Raises InputError that names file, entry,
    key, value and what it must be.
    """
    entries: list[GridEntry] = []
    for index, mapping in enumerate(_read(path)):
        with located(path, index):
            for values in _alternatives(mapping):
                entry = _parse(index, values, format, propagate)
                taken = next((other for other in entries if other.name == entry.name), None)
                if taken is not None:
                    must = f"a name that no other scheme has: entry {taken.index} is called so too"
                    raise SchemeError("name", entry.name, must)
                entries.append(entry)
    return entries


@contextmanager
def located(path: Path, index: int) -> Iterator[None]:
    """Errors about a scheme's key say in which entry of which file it stands."""
    try:
        yield
    except InputError as error:
        where = f"{path}: entry {index}: {error.key}"
        raise type(error)(where, error.value, error.must, error.nearest) from None


def _read(path: Path) -> list[Mapping[str, Any]]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError("SCHEMES", f"{path} (over {MAX_FILE_BYTES} bytes)", _EXAMPLE)
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InputError("SCHEMES", f"{path} ({reason})", "a readable YAML file", _nearby(path)) from None
    except UnreadableYaml as error:
        raise InputError("SCHEMES", f"{path}, but {error}", _EXAMPLE) from None
    if not isinstance(content, list) or not content:
        kind = "empty" if not content else f"a {type(content).__name__}"
        raise InputError("SCHEMES", f"{path} ({kind})", _EXAMPLE)
    for index, mapping in enumerate(content):
        if not isinstance(mapping, dict):
            raise InputError(f"{path}: entry {index}", mapping, "a mapping with a scheme's keys, such as method")
    return content


def _alternatives(mapping: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    known = [*_OWN_KEYS, *(field.name for field in fields(Scheme) if field.name != "pattern")]  # sparsity says it
    for key, value in mapping.items():
        if key not in known:
            raise SchemeError(str(key), "unknown", f"one of {', '.join(known)}", nearest_name(str(key), known))
        if value == []:
            raise SchemeError(key, "[]", "a value, or a list of at least one")
    choices = [value if isinstance(value, list) else [value] for value in mapping.values()]
    for values in product(*choices):
        yield dict(zip(mapping, values, strict=True))


def _parse(index: int, values: Mapping[str, Any], format: CheckpointFormat, propagate: Propagate | None) -> GridEntry:
    scheme_values = {key: value for key, value in values.items() if key not in _OWN_KEYS}
    if "method" not in values:
        raise SchemeError("method", "missing", "given")
    scheme = Scheme.from_json(scheme_values)
    if propagate is not None and scheme.chooses_propagate and "propagate" not in values:
        scheme = Scheme.from_json({**scheme_values, "propagate": str(propagate)})
    return GridEntry(index, _parse_folder(values.get("name", scheme.name)), scheme, _parse_format(values, format))


def _parse_folder(name: object) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[\w][\w.:+@=,-]{0,199}", name):
        raise SchemeError("name", name, "a folder's name of letters, digits and . _ - : + @ = ,")
    return name


def _parse_format(values: Mapping[str, Any], default: CheckpointFormat) -> CheckpointFormat:
    valid = [str(format) for format in CheckpointFormat]
    wanted = values.get("format", str(default))
    if wanted not in valid:
        raise SchemeError("format", wanted, f"one of {', '.join(valid)}", nearest_name(str(wanted), valid))
    return CheckpointFormat(wanted)


def _nearby(path: Path) -> str | None:
    names = [other.name for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    nearest = nearest_name(path.name, names)
    return str(path.parent / nearest) if nearest else None
