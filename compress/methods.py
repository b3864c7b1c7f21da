"""The names of what can be done to weights, and the widths they can have. Standard library only."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Literal, TypeVar

from compress.errors import SchemeError, nearest_name

Name = TypeVar("Name", bound=StrEnum)
TERNARY: Literal["ternary"] = "ternary"
NUM_BITS = (2, 3, 4, 5, 6, 7, 8)
WIDTHS = "ternary or 2 to 8"
Width = int | Literal["ternary"]


class Method(StrEnum):
    RTN = "rtn"
    GPTQ = "gptq"
    GPTAQ = "gptaq"
    AWQ = "awq"
    SPARSEGPT = "sparsegpt"
    OBR = "obr"
    WANDA = "wanda"
    MAGNITUDE = "magnitude"
    ALPHAPRUNING = "alphapruning"


class Observer(StrEnum):
    """How a grid is fitted to a group's values: see quantizer.fit_grid."""

    MINMAX = "minmax"
    MSE = "mse"
    HQQ = "hqq"


class InputActivations(StrEnum):
    """What a layer's inputs are rounded to, a token at a time, by the engine."""

    INT8 = "int8"
    FP8 = "fp8"


class Allocation(StrEnum):
    """Who gets the bits of an average_bits budget; uniform and random are controls: see allocation.py."""

    MEASURED = "measured"
    UNSLOTH = "unsloth"
    UNIFORM = "uniform"
    RANDOM = "random"


class Propagate(StrEnum):
    """What a layer's inputs are measured on: the dense model before it, or what this scheme made of it."""

    DENSE = "dense"
    COMPRESSED = "compressed"


DEFAULT_PROPAGATE = Propagate.COMPRESSED
# Methods that round to a grid and need num_bits; those that prune and need sparsity. obr may round what it pruned.
ROUNDING = (Method.RTN, Method.GPTQ, Method.GPTAQ, Method.AWQ)
PRUNING = (Method.SPARSEGPT, Method.OBR, Method.WANDA, Method.MAGNITUDE, Method.ALPHAPRUNING)
WEIGHTS_ALONE = (Method.RTN, Method.MAGNITUDE)


def code_bits(width: Width) -> int:
    """Bits that a code of this width takes in a layout of whole bits: 2 for ternary."""
    return 2 if width == TERNARY else int(width)


def nominal_bits(width: Width) -> float:
    """Bits of information in a code of this width: log2(3) for ternary."""
    return math.log2(3) if width == TERNARY else float(width)


def parse_width(value: str | None) -> Width | None:
    """A width as written on a command line; what is none is left for Scheme to refuse."""
    return int(value) if value is not None and value.isdecimal() else value  # type: ignore[return-value]


def parse_name(key: str, names: type[Name], value: object) -> Name:
    """The member called `value`. Raises SchemeError that shows the nearest name."""
    try:
        return names(str(value))
    except ValueError:
        valid = [str(name) for name in names]
        must = f"one of {', '.join(valid)}"
        if key == "method" and value == TERNARY:
            raise SchemeError(key, value, f"{must}; ternary is a width: num_bits: ternary", "gptq") from None
        raise SchemeError(key, value, must, nearest_name(str(value), valid)) from None
