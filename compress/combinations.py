"""Which values a scheme's settings may have, and which settings go together. Standard library only."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING

from compress.errors import SchemeError
from compress.methods import (
    NUM_BITS,
    PRUNING,
    ROUNDING,
    TERNARY,
    WIDTHS,
    Method,
)

if TYPE_CHECKING:
    from compress.scheme import Scheme

MAX_GROUP_SIZE = 65536


def check_numbers(scheme: Scheme) -> None:
    """Raise SchemeError for a value outside its range."""
    num_bits = scheme.num_bits
    if num_bits is not None and num_bits != TERNARY and (isinstance(num_bits, bool) or num_bits not in NUM_BITS):
        is_number = _is_number(num_bits)
        nearest = str(min(NUM_BITS, key=lambda bits: abs(bits - num_bits))) if is_number else None
        raise SchemeError("num_bits", num_bits, WIDTHS, nearest)
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


def check_combination(scheme: Scheme) -> None:
    """Raise SchemeError for settings that do not go together."""
    method, sparse = scheme.method, scheme.sparsity > 0
    if method in ROUNDING and not scheme.has_grid:
        raise SchemeError("num_bits", "missing", f"{WIDTHS} for {method}")
    if method in PRUNING and not sparse:
        other = "rtn" if method is Method.MAGNITUDE else "gptq"
        raise SchemeError("sparsity", "0", f"above 0 for {method}; for bits alone take {other}")
    if not scheme.has_grid:
        _check_no_grid_settings(scheme)
    if scheme.num_bits == TERNARY and not scheme.symmetric:
        raise SchemeError("symmetric", False, "true for ternary: its values are -1, 0 and 1 times a scale")
    columnwise = method in (Method.GPTQ, Method.SPARSEGPT)
    if scheme.act_order and (not columnwise or not scheme.has_grid or scheme.pattern):
        must = "false unless gptq or sparsegpt quantizes, without an n:m pattern"
        raise SchemeError("act_order", True, must)


def _check_no_grid_settings(scheme: Scheme) -> None:
    defaults = {field.name: field.default for field in fields(scheme)}
    for key in ("group_size", "symmetric", "observer"):
        if getattr(scheme, key) != defaults[key]:
            must = "left out when num_bits is: there is no grid to describe"
            raise SchemeError(key, getattr(scheme, key), must)


def _check_whole(key: str, value: object, low: int, high: int, must: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise SchemeError(key, value, f"{must} ({low} to {high})")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
