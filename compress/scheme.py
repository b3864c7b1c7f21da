"""A scheme says what is done to the weights: method, bits, sparsity. Standard library only, so that plans import it
without torch.

The methods come in two pairs. rtn and magnitude look at the weights alone; gptq and sparsegpt also use the inputs'
Hessian. Within a pair one solver does bits, sparsity or both: magnitude with num_bits and rtn with sparsity prune by
magnitude and then round; sparsegpt with num_bits and gptq with sparsity prune and round in one sweep over the columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Literal

from compress.errors import SchemeError, nearest_name
from compress.sparsity import Pattern as Pattern
from compress.sparsity import check_pattern
from compress.sparsity import parse_sparsity as parse_sparsity

NUM_BITS = (2, 3, 4, 8)
MAX_GROUP_SIZE = 65536
Platform = Literal["cpu", "cuda"]


class Method(StrEnum):
    RTN = "rtn"
    GPTQ = "gptq"
    SPARSEGPT = "sparsegpt"
    MAGNITUDE = "magnitude"


class CheckpointFormat(StrEnum):
    AUTO = "auto"
    PACKED = "packed"
    DEQUANTIZED = "dequantized"


@dataclass(frozen=True)
class Scheme:
    """What is done to every linear weight of the decoder layers; embeddings, norms and the head stay as they are.

    num_bits: 2, 3, 4 or 8; None leaves 16-bit weights. group_size: input columns that share a scale, None = one scale
    per output channel. sparsity: share of weights set to zero, in [0, 1). pattern: (n, m), n non-zeros of every m
    consecutive inputs; sparsity is then 1 - n/m. act_order: solve columns in order of falling diag(H), with the groups
    where they are, so that nothing more is stored. None becomes True for gptq without sparsity, where it lowered the
    layer loss at every width (by 10 to 27 % on trained models of 1 and 7 M parameters), and False elsewhere: with masks
    it raised it. dampening_frac: share of mean diag(H) added to the diagonal. block_size: columns per mask block and
    per lazy update. Raises SchemeError with key, value and what it must be.
    """

    method: Method
    num_bits: int | None = None
    group_size: int | None = None
    symmetric: bool = True
    sparsity: float = 0.0
    pattern: Pattern | None = None
    act_order: bool | None = None
    dampening_frac: float = 0.01
    block_size: int = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", _parse_method(self.method))
        _check_numbers(self)
        if self.pattern is not None:
            _set_pattern(self, self.pattern)
        if self.act_order is None:
            object.__setattr__(self, "act_order", _default_act_order(self))
        _check_combination(self)

    @property
    def needs_calibration(self) -> bool:
        """Whether the method reads the inputs of each layer."""
        return self.method in (Method.GPTQ, Method.SPARSEGPT)

    @property
    def name(self) -> str:
        """One word that tells schemes apart: gptq-w3-g64-sym, sparsegpt-2:4-w4-g64-sym, magnitude-s0.6."""
        parts = [str(self.method)]
        if self.pattern is not None:
            parts.append(f"{self.pattern[0]}:{self.pattern[1]}")
        elif self.sparsity > 0:
            parts.append(f"s{self.sparsity:g}")
        if self.num_bits is not None:
            group = "channel" if self.group_size is None else f"g{self.group_size}"
            parts += [f"w{self.num_bits}", group, "sym" if self.symmetric else "asym"]
        return "-".join(parts + _unusual_settings(self))

    def to_json(self) -> dict[str, Any]:
        """Plain values, as from_json reads them."""
        return {**asdict(self), "method": str(self.method), "pattern": list(self.pattern) if self.pattern else None}

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any]) -> Scheme:
        """Read a mapping with this class's keys; `sparsity` may also be a pattern such as "2:4".

        Raises SchemeError for an unknown key or an impossible value.
        """
        known = [field.name for field in fields(cls)]
        for key in mapping:
            if key not in known:
                raise SchemeError(key, "unknown", f"one of {', '.join(known)}", nearest_name(key, known))
        values = dict(mapping)
        if isinstance(values.get("sparsity"), str):
            values["sparsity"], values["pattern"] = parse_sparsity(values["sparsity"])
        if isinstance(values.get("pattern"), list):
            values["pattern"] = tuple(values["pattern"])
        return cls(**values)


def check_shape(scheme: Scheme, name: str, num_rows: int, num_columns: int) -> None:
    """Raise SchemeError when a weight [num_rows, num_columns] cannot be cut into this scheme's groups or patterns."""
    if scheme.num_bits and scheme.group_size and num_columns % scheme.group_size:
        raise SchemeError(
            "group_size",
            scheme.group_size,
            f"a divisor of every layer's inputs; {name} has {num_columns}",
            str(_nearest_divisor(num_columns, scheme.group_size)),
        )
    if scheme.pattern and num_columns % scheme.pattern[1]:
        raise SchemeError(
            "sparsity",
            f"{scheme.pattern[0]}:{scheme.pattern[1]}",
            f"n:m with m a divisor of every layer's inputs; {name} has {num_columns}",
        )


def packed_obstacle(
    scheme: Scheme | None, platform: Platform, shapes: Mapping[str, tuple[int, int]] | None = None
) -> str | None:
    """Why this platform's vLLM would not load the scheme packed, or None when it would.

    shapes: {name: (rows, columns)} of the weights to pack; without them only the scheme itself is judged.
    Source: the kernels of vLLM 0.32 (CPU: int4 weight-only; CUDA: Marlin, for int4 and symmetric int8).
    """
    if scheme is None or scheme.num_bits is None:
        return "there are no codes to pack without num_bits"
    widths = (4,) if platform == "cpu" else (4, 8)
    if scheme.num_bits not in widths:
        allowed = " or ".join(map(str, widths))
        return f"vLLM on {platform} has no kernel for packed {scheme.num_bits}-bit weights, only for {allowed} bits"
    if scheme.num_bits == 8 and not scheme.symmetric:
        return "vLLM on cuda loads packed 8-bit weights only when symmetric"
    if platform == "cpu" and scheme.group_size is not None and scheme.group_size % 2:
        return f"vLLM on cpu needs an even group_size, this is {scheme.group_size}"
    if platform == "cuda" and scheme.group_size not in (None, 32, 64, 128):
        return f"vLLM on cuda packs group_size 32, 64, 128 or per channel, this is {scheme.group_size}"
    row_unit, column_unit = (32, 32) if platform == "cpu" else (64, 128)
    for name, (num_rows, num_columns) in (shapes or {}).items():
        if num_rows % row_unit or num_columns % column_unit:
            return (
                f"vLLM on {platform} packs outputs in multiples of {row_unit} and inputs in multiples of "
                f"{column_unit}; {name} is {num_rows} x {num_columns}"
            )
    return None


def servable(
    scheme: Scheme | None, platform: Platform, shapes: Mapping[str, tuple[int, int]] | None = None
) -> CheckpointFormat:
    """What `auto` writes: PACKED where the platform's vLLM has a kernel, else DEQUANTIZED (see packed_obstacle)."""
    obstacle = packed_obstacle(scheme, platform, shapes)
    return CheckpointFormat.PACKED if obstacle is None else CheckpointFormat.DEQUANTIZED


def _parse_method(value: str) -> Method:
    try:
        return Method(value)
    except ValueError:
        names = [str(method) for method in Method]
        raise SchemeError("method", value, f"one of {', '.join(names)}", nearest_name(str(value), names)) from None


def _check_numbers(scheme: Scheme) -> None:
    num_bits = scheme.num_bits
    if num_bits is not None and (isinstance(num_bits, bool) or num_bits not in NUM_BITS):
        nearest = str(min(NUM_BITS, key=lambda bits: abs(bits - num_bits))) if _is_number(num_bits) else None
        raise SchemeError("num_bits", num_bits, "2, 3, 4 or 8", nearest)
    if scheme.group_size is not None:
        must = "a whole number, or left out for one scale per channel"
        _check_whole("group_size", scheme.group_size, 2, MAX_GROUP_SIZE, must)
    if not isinstance(scheme.symmetric, bool):
        raise SchemeError("symmetric", scheme.symmetric, "true or false")
    if not isinstance(scheme.act_order, bool | None):
        raise SchemeError("act_order", scheme.act_order, "true, false, or left out")
    if not _is_number(scheme.sparsity) or not 0 <= scheme.sparsity < 1:
        raise SchemeError("sparsity", scheme.sparsity, "in [0, 1), or n:m such as 2:4")
    if not _is_number(scheme.dampening_frac) or not 0 < scheme.dampening_frac <= 1:
        raise SchemeError("dampening_frac", scheme.dampening_frac, "in (0, 1]")
    _check_whole("block_size", scheme.block_size, 8, 4096, "a whole number of columns")


def _check_combination(scheme: Scheme) -> None:
    method, sparse = scheme.method, scheme.sparsity > 0
    if method in (Method.RTN, Method.GPTQ) and scheme.num_bits is None:
        raise SchemeError("num_bits", "missing", f"2, 3, 4 or 8 for {method}")
    if method in (Method.SPARSEGPT, Method.MAGNITUDE) and not sparse:
        other = "gptq" if method is Method.SPARSEGPT else "rtn"
        raise SchemeError("sparsity", "0", f"above 0 for {method}; for bits alone take {other}")
    if scheme.num_bits is None and (scheme.group_size is not None or not scheme.symmetric):
        key = "group_size" if scheme.group_size is not None else "symmetric"
        raise SchemeError(key, getattr(scheme, key), "left out when num_bits is: there is no grid to describe")
    if scheme.act_order and (not scheme.needs_calibration or scheme.num_bits is None or scheme.pattern):
        raise SchemeError("act_order", True, "false unless gptq or sparsegpt quantizes, without an n:m pattern")


def _set_pattern(scheme: Scheme, pattern: Pattern) -> None:
    check_pattern(pattern)
    sparsity = 1 - pattern[0] / pattern[1]
    if scheme.sparsity not in (0.0, sparsity):
        raise SchemeError("sparsity", scheme.sparsity, f"{sparsity:g}, as the pattern {pattern[0]}:{pattern[1]} says")
    if scheme.block_size % pattern[1]:
        raise SchemeError("block_size", scheme.block_size, f"a multiple of the pattern's {pattern[1]}")
    object.__setattr__(scheme, "pattern", (pattern[0], pattern[1]))
    object.__setattr__(scheme, "sparsity", sparsity)


def _check_whole(key: str, value: object, low: int, high: int, must: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise SchemeError(key, value, f"{must} ({low} to {high})")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _nearest_divisor(number: int, wanted: int) -> int:
    divisors = [size for size in range(2, min(number, 4096) + 1) if number % size == 0] or [number]
    return min(divisors, key=lambda size: abs(size - wanted))


def _default_act_order(scheme: Scheme) -> bool:
    return scheme.method is Method.GPTQ and scheme.sparsity == 0


def _unusual_settings(scheme: Scheme) -> list[str]:
    defaults = {field.name: field.default for field in fields(Scheme)}
    words = []
    if scheme.act_order != _default_act_order(scheme):
        words.append("actorder" if scheme.act_order else "inorder")
    if scheme.needs_calibration and scheme.dampening_frac != defaults["dampening_frac"]:
        words.append(f"damp{scheme.dampening_frac:g}")
    if scheme.needs_calibration and scheme.block_size != defaults["block_size"]:
        words.append(f"block{scheme.block_size}")
    return words
