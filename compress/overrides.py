"""Rules for single modules of a model: which ones, and what is done to them instead. Standard library only.

A pattern names modules by any dotted part of their names (down_proj, mlp, layers.3, model.layers.0.self_attn.q_proj),
with * and ? as in file names; `re:` starts a regular expression; a whole number is a layer, negative from the end.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from compress.errors import SchemeError, nearest_name
from compress.methods import Width
from compress.sparsity import Pattern, parse_sparsity

# Leave as they are: the last layer's MLP; as many weights of MLPs drawn at random (a seed may follow: -7), or of those
# that rounding and pruning hurt least. The last two are controls of the first.
PROTECT_LAST, PROTECT_RANDOM, PROTECT_LOWEST = "protect_last_mlp", "protect_random_mlp", "protect_lowest_mlp"
PRESETS = (PROTECT_LAST, PROTECT_RANDOM, PROTECT_LOWEST)
_KEYS = ("skip", "num_bits", "sparsity")
_MUST = f"{', '.join(PRESETS)}, or a mapping {{pattern or layer: {{{', '.join(_KEYS)}}}}}"


@dataclass(frozen=True)
class Override:
    """What modules that `modules` names get: left as they are (skip), or another num_bits or sparsity."""

    modules: str
    skip: bool = False
    num_bits: Width | None = None
    sparsity: float | None = None
    pattern: Pattern | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values, without what is not set and the pattern's own sparsity; skip: false where nothing else is."""
        values = {key: value for key, value in asdict(self).items() if key in _KEYS and value not in (None, False)}
        if self.pattern:
            values["sparsity"] = f"{self.pattern[0]}:{self.pattern[1]}"
        return values or {"skip": False}


Overrides = str | tuple[Override, ...] | None


def parse_overrides(value: object) -> Overrides:
    """Read a preset's name or {pattern: {skip, num_bits, sparsity}}, later patterns first. Raises SchemeError."""
    match value:
        case None | ():
            return None
        case str():
            if not re.fullmatch(rf"({'|'.join(PRESETS)})|{PROTECT_RANDOM}-\d{{1,9}}", value):
                raise SchemeError("overrides", value, _MUST, nearest_name(value, PRESETS))
            return value
        case tuple() if all(isinstance(item, Override) for item in value):
            return value
        case Mapping():
            return tuple(_parse(str(modules), rule) for modules, rule in value.items()) or None
        case _:
            raise SchemeError("overrides", value, _MUST)


def matching(pattern: str, names: Iterable[str], num_layers: int, key: str) -> list[str]:
    """The modules that the pattern names. Raises SchemeError about `key` when there is none."""
    names = list(names)
    if re.fullmatch(r"-?\d+", pattern):
        index = int(pattern)
        if not -num_layers <= index < num_layers:
            raise SchemeError(key, pattern, f"a layer from 0 to {num_layers - 1}, or from -{num_layers} to -1")
        pattern = f"model.layers.{index % num_layers}"
    found = [name for name in names if _matches(pattern, name, key)]
    if not found:
        parts = {".".join(name.split(".")[start:]) for name in names for start in (0, 3, 4)}
        must = "a pattern of at least one module, such as mlp.down_proj or model.layers.0.*"
        raise SchemeError(key, pattern, must, nearest_name(pattern, sorted(parts | {"self_attn", "mlp"})))
    return found


def short_name(overrides: Overrides, only: str | None) -> list[str]:
    """Words of a scheme's name that tell its rules apart."""
    words = [overrides] if isinstance(overrides, str) else []
    if isinstance(overrides, tuple):
        words.append(f"rules.{_digest(repr(overrides))}")
    if only is not None:
        plain = re.sub(r"[^\w.-]+", "_", only)
        words.append(f"only-{plain}" if plain == only else f"only-{plain}.{_digest(only)}")
    return words


def _matches(pattern: str, name: str, key: str) -> bool:
    if pattern.startswith("re:"):
        try:
            return re.search(pattern[3:], name) is not None
        except re.error as error:
            raise SchemeError(key, pattern, f"a regular expression behind re: ({error})") from None
    return any(fnmatchcase(f".{name}.", f"{head}.{pattern}.{tail}") for head in ("", "*") for tail in ("", "*"))


def _parse(modules: str, rule: object) -> Override:
    where = f"overrides.{modules}"
    if not isinstance(rule, Mapping) or not rule:
        raise SchemeError(where, rule, f"a mapping with {', '.join(_KEYS)}")
    for name in rule:
        if name not in _KEYS:
            must = f"one of {', '.join(_KEYS)}"
            raise SchemeError(f"{where}.{name}", "unknown", must, nearest_name(str(name), _KEYS))
    skip = rule.get("skip", False)
    if not isinstance(skip, bool) or (skip and len(rule) > 1):
        raise SchemeError(f"{where}.skip", skip, "true alone, or left out")
    sparsity, pattern = None, None
    if "sparsity" in rule:
        try:
            sparsity, pattern = parse_sparsity(rule["sparsity"])
        except (SchemeError, TypeError):
            must = "a share in [0, 1), such as 0.5, or n:m such as 2:4"
            raise SchemeError(f"{where}.sparsity", rule["sparsity"], must) from None
    return Override(modules, skip, rule.get("num_bits"), sparsity, pattern)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
