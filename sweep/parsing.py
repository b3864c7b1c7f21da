# ruff: noqa: N818 - a Refusal is turned into a ConfigError before it leaves sweep
"""From a YAML file and `dotted.key=value` overrides to plain values, and from faults to the lines that a user reads."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from compress.errors import InputError, nearest_name
from compress.plain_yaml import UnreadableYaml, parse_yaml
from sweep.errors import ConfigError

MAX_FILE_BYTES = 1_000_000
MAX_DEPTH = 12
MAX_LINES = 3
MAX_VALUE_LENGTH = 70


class Refusal(ValueError):
    """One fault: `key` (dotted, below where it is raised) is `value` and must be `must`; `nearest` is a valid name."""

    def __init__(self, must: str, *, key: str = "", value: object = ..., nearest: str | None = None) -> None:
        super().__init__(must)
        self.must, self.key, self.value, self.nearest = must, key, value, nearest

    @property
    def sentence(self) -> str:
        """KEY is VALUE, must be MUST (nearest: NAME)."""
        is_now = "is not given" if self.value is ... else f"is {show(self.value)}"
        nearest = f" (nearest: {self.nearest})" if self.nearest else ""
        return f"{self.key} {is_now}, must be {self.must}{nearest}".replace("\n", " ")

    @classmethod
    def of(cls, error: InputError, prefix: str, context: str = "") -> Refusal:
        """What compress refuses, under the dotted key where the user wrote it."""
        value = Verbatim(error.value) if isinstance(error.value, str) else error.value
        return cls(error.must + context, key=f"{prefix}{error.key}", value=value, nearest=error.nearest)


@dataclass(frozen=True)
class Verbatim:
    """A value that is printed as it is: words such as `missing`, not data."""

    text: object


def read_study_file(path: Path) -> dict[str, Any]:
    """The file's mapping. Raises ConfigError: no file, not UTF-8, unreadable YAML (line named), no mapping."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: is larger than {MAX_FILE_BYTES} bytes, must be the YAML of a study")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file, must be the YAML of a study{_nearby_file(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read ({reason}), must be the YAML of a study") from None
    mapping = _parse_yaml(text, str(path))
    if not isinstance(mapping, dict):
        kind = "empty" if mapping is None else f"a {_kind(mapping)}"
        raise ConfigError(f"{path}: is {kind}, must be a mapping that starts with a line such as `study: my-study`")
    _check_plain(mapping, str(path))
    return mapping


def apply_overrides(mapping: dict[str, Any], overrides: Sequence[str], label: str) -> list[str]:
    """Set each `dotted.key=value` in place (list indices allowed); the dotted keys that were set.

    Raises ConfigError for text without `=`, an index outside its list, or a path through a plain value.
    """
    keys = []
    source = f"{label} and the command line"
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key or "" in key.split("."):
            must = "dotted.key=value, such as sampling.max_tokens=256"
            raise ConfigError(f"{source}: {show(override)} must be {must}")
        value = _parse_yaml(text, f"{source}: {key}")
        _check_plain(value, source, key)
        _set(mapping, key.split("."), value, source)
        keys.append(key)
    return keys


def config_error(label: str, refusals: Iterable[Refusal], overridden: Sequence[str] = ()) -> ConfigError:
    """The first three faults, one line each; a fault in an overridden key names the command line too."""
    lines = []
    for refusal in refusals:
        here = any(f"{refusal.key}.".startswith(f"{key}.") or key.startswith(f"{refusal.key}.") for key in overridden)
        source = f"{label} and the command line" if here else label
        lines.append(f"{source}: {refusal.sentence}")
    if len(lines) > MAX_LINES:
        lines[MAX_LINES - 1] += f" (and {len(lines) - MAX_LINES} more)"
    return ConfigError("\n".join(lines[:MAX_LINES]))


def refusals_of(error: ValidationError, valid_keys: Mapping[str, Sequence[str]]) -> list[Refusal]:
    """What pydantic found, in the form of our own faults. valid_keys: the keys below each dotted place, "" at the top;
    list indices are written as *."""
    return [_refusal(dict(detail), valid_keys) for detail in error.errors(include_url=False)]


def valid_keys(model: type[BaseModel], place: str = "") -> dict[str, list[str]]:
    """The keys below each dotted place of the YAML, list indices as *: {"": [...], "models.*": ["path", ...]}."""
    keys = {place: list(model.model_fields)}
    for name, field in model.model_fields.items():
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                below = f"{place}.{name}".strip(".") + ("" if part is field.annotation else ".*")
                keys |= valid_keys(part, below)
    return keys


def show(value: object) -> str:
    """A value as YAML would write it, on one line and cut to a readable length; a path as short as it can be."""
    if isinstance(value, Path):
        return str(value.relative_to(Path.cwd()) if value.is_relative_to(Path.cwd()) else value)
    if isinstance(value, Verbatim):
        text = str(value.text)
    else:
        text = json.dumps(value, default=str, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= MAX_VALUE_LENGTH else text[: MAX_VALUE_LENGTH - 3] + "..."


def _refusal(detail: dict[str, Any], valid_keys: Mapping[str, Sequence[str]]) -> Refusal:
    place = [str(part) for part in detail["loc"]]
    key = ".".join(place)
    match detail["type"]:
        case "extra_forbidden":
            above = ".".join("*" if part.isdigit() else part for part in place[:-1])
            here = valid_keys.get(above, ())
            elsewhere = [f"{where}.{place[-1]}" for where, names in valid_keys.items() if where and place[-1] in names]
            nearest = elsewhere[0] if elsewhere else nearest_name(place[-1], here)
            return Refusal(f"one of {', '.join(here)}", key=key, value=Verbatim("an unknown key"), nearest=nearest)
        case "missing":
            return Refusal("given", key=key, value=Verbatim("missing"))
        case "value_error" if isinstance(cause := detail["ctx"]["error"], Refusal):
            value = detail["input"] if cause.value is ... and not cause.key else cause.value
            full_key = ".".join(filter(None, [key, cause.key]))
            return Refusal(cause.must, key=full_key, value=value, nearest=cause.nearest)
        case "model_type" | "model_attributes_type":
            names = ", ".join(valid_keys.get(".".join("*" if part.isdigit() else part for part in place), ()))
            return Refusal(f"a mapping with the keys {names}", key=key, value=detail["input"])
        case "tuple_type":
            return Refusal("a list", key=key, value=detail["input"])
        case "dict_type":
            return Refusal("a mapping", key=key, value=detail["input"])
        case _:
            must = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            return Refusal(must, key=key, value=detail["input"])


def _parse_yaml(text: str, label: str) -> Any:
    try:
        return parse_yaml(text)
    except UnreadableYaml as error:
        raise ConfigError(f"{label}: {error}") from None


def _check_plain(mapping: object, label: str, place: str = "") -> None:
    """Refuse keys that are no text, numbers that are not finite, other objects, and nesting without end."""
    todo: list[tuple[str, Any, int]] = [(place, mapping, 0)]
    seen: set[int] = set()
    while todo:
        key, value, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise config_error(label, [Refusal(f"nested at most {MAX_DEPTH} deep", key=key, value=Verbatim("deeper"))])
        if isinstance(value, dict | list):
            if id(value) in seen:
                raise config_error(label, [Refusal("written out", key=key, value=Verbatim("a YAML alias"))])
            seen.add(id(value))
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            for name, child in pairs:
                if isinstance(value, dict) and not isinstance(name, str):
                    raise config_error(label, [Refusal("a name", key=f"{key}.{name}".strip("."), value=name)])
                todo.append((f"{key}.{name}".strip("."), child, depth + 1))
        elif isinstance(value, float) and not math.isfinite(value):
            raise config_error(label, [Refusal("a finite number", key=key, value=value)])
        elif not isinstance(value, str | int | float | date | None):
            raise config_error(label, [Refusal("text, a number, true, false or null", key=key, value=str(value))])


def _set(mapping: dict[str, Any], path: list[str], value: Any, source: str) -> None:
    node: Any = mapping
    for depth, name in enumerate(path):
        key, last = ".".join(path[: depth + 1]), depth == len(path) - 1
        if isinstance(node, list):
            if not name.isdecimal() or int(name) >= len(node):
                must = f"an index from 0 to {len(node) - 1}" if node else "left out: the list is empty"
                raise ConfigError(f"{source}: {key} must end in {must}")
            if last:
                node[int(name)] = value
            else:
                node = node[int(name)]
        elif isinstance(node, dict):
            if last:
                node[name] = value
            else:
                if node.get(name) is None:
                    node[name] = {}
                node = node[name]
        else:
            above = ".".join(path[:depth])
            raise ConfigError(f"{source}: {key} cannot be set: {above} is {show(node)}, must be a mapping")


def _kind(value: object) -> str:
    return {list: "list", str: "text", bool: "true or false"}.get(type(value), "plain value")


def _nearby_file(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("conf")
    names = [str(other) for other in folder.glob("*.yaml")] if folder.is_dir() else []
    nearest = nearest_name(str(path), names)
    return f" (nearest: {nearest})" if nearest else ""
