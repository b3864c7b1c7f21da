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
    Allocation,
    InputActivations,
    Method,
)

if TYPE_CHECKING:
    from compress.scheme import Scheme

MAX_GROUP_SIZE = 65536


def check_numbers(scheme: Scheme) -> None:
    """Raise SchemeError for a value outside its range."""
    num_bits = scheme.num_bits
    is_whole = isinstance(num_bits, int) and not isinstance(num_bits, bool)
    if num_bits is not None and num_bits != TERNARY and not (is_whole and num_bits in NUM_BITS):
        is_number = _is_number(num_bits)
        nearest = str(min(NUM_BITS, key=lambda bits: abs(bits - num_bits))) if is_number else None
        raise SchemeError("num_bits", num_bits, WIDTHS, nearest)
    if scheme.average_bits is not None and not (_is_number(scheme.average_bits) and 1 <= scheme.average_bits < 16):
        raise SchemeError("average_bits", scheme.average_bits, "a number of bits a parameter, from 1 to below 16")
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
        raise SchemeError("num_bits", "missing", f"{WIDTHS} for {method}, or average_bits")
    if method in PRUNING and not sparse:
        other = "rtn" if method is Method.MAGNITUDE else "gptq"
        raise SchemeError("sparsity", "0", f"above 0 for {method}; for bits alone take {other}")
    if method is Method.AWQ and sparse:
        raise SchemeError("sparsity", f"{scheme.sparsity:g}", "0 for awq; for bits and sparsity take gptq or obr")
    if method is Method.ALPHAPRUNING and scheme.pattern:
        raise SchemeError("sparsity", "n:m", "a share for alphapruning: a pattern leaves no room for ratios by layer")
    if not scheme.has_grid:
        _check_no_grid_settings(scheme)
    if scheme.num_bits == TERNARY and not scheme.symmetric:
        raise SchemeError("symmetric", False, "true for ternary: its values are -1, 0 and 1 times a scale")
    columnwise = method in (Method.GPTQ, Method.GPTAQ, Method.SPARSEGPT, Method.ALPHAPRUNING)
    if scheme.act_order and (not columnwise or not scheme.has_grid or scheme.pattern):
        must = "false unless gptq, gptaq or sparsegpt quantizes, without an n:m pattern"
        raise SchemeError("act_order", True, must)
    _check_budget(scheme)
    _check_activations(scheme)


def _check_no_grid_settings(scheme: Scheme) -> None:
    defaults = {field.name: field.default for field in fields(scheme)}
    for key in ("group_size", "symmetric", "observer", "input_activations"):
        if getattr(scheme, key) != defaults[key]:
            must = "left out when num_bits is: there is no grid to describe"
            raise SchemeError(key, getattr(scheme, key), must)


def _check_budget(scheme: Scheme) -> None:
    if scheme.average_bits is None:
        if scheme.allocation is not Allocation.MEASURED:
            raise SchemeError("allocation", scheme.allocation, "left out without average_bits")
        return
    if scheme.num_bits is not None:
        raise SchemeError("average_bits", scheme.average_bits, "left out beside num_bits: one of them sets the width")
    if scheme.has_rules:
        key = "only" if scheme.only is not None else "overrides"
        raise SchemeError(key, getattr(scheme, key), "left out beside average_bits, which sets every module's width")
    if scheme.sparsity > 0 or not scheme.symmetric:
        key = "sparsity" if scheme.sparsity > 0 else "symmetric"
        raise SchemeError(key, getattr(scheme, key), "left out beside average_bits: it allocates symmetric widths")


def _check_activations(scheme: Scheme) -> None:
    if scheme.input_activations is None:
        return
    if scheme.num_bits != 8 or scheme.group_size is not None or not scheme.symmetric:
        must = "left out unless num_bits is 8, per channel and symmetric: what the engine's kernels take"
        raise SchemeError("input_activations", scheme.input_activations, must)
    if scheme.input_activations is InputActivations.FP8 and (scheme.method is not Method.RTN or scheme.sparsity > 0):
        raise SchemeError("input_activations", "fp8", "with method rtn and no sparsity: fp8 values lie on no even grid")


def _check_whole(key: str, value: object, low: int, high: int, must: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise SchemeError(key, value, f"{must} ({low} to {high})")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
