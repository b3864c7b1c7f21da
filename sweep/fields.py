"""What one value of the study's YAML may be: validators whose refusals say what it must be and the nearest name."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BeforeValidator

from compress.errors import nearest_name
from compress.methods import TERNARY
from sweep.parsing import Refusal


def whole(low: int, high: int) -> BeforeValidator:
    """A whole number in [low, high]; 3.0, true and "3" are none."""

    def check(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise Refusal(f"a whole number from {low} to {high}")
        return value

    return BeforeValidator(check)


def number(low: float, high: float, *, above: bool = False) -> BeforeValidator:
    """A finite number in [low, high], or in (low, high] with above=True."""

    def check(value: object) -> object:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not good or not low <= value <= high or (above and value == low):  # type: ignore[operator]
            raise Refusal(f"a number {'above' if above else 'from'} {low:g} to {high:g}")
        return value

    return BeforeValidator(check)


def one_of(names: Sequence[str]) -> BeforeValidator:
    """One of the names; the refusal shows the nearest."""

    def check(value: object) -> object:
        if value not in names:
            raise Refusal(f"one of {', '.join(names)}", nearest=nearest_name(str(value), names))
        return value

    return BeforeValidator(check)


def text(pattern: str, must: str) -> BeforeValidator:
    """Text that the pattern matches in full."""

    def check(value: object) -> object:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise Refusal(must)
        return value

    return BeforeValidator(check)


def check_path(value: object) -> object:
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        raise Refusal("a path")
    try:
        return Path(os.path.normpath(Path(value).expanduser().absolute()))
    except RuntimeError:
        raise Refusal("a path; there is no such home folder") from None


def check_day(value: object) -> object:
    try:
        day = value if type(value) is date else date.fromisoformat(str(value))
    except ValueError:
        raise Refusal("a date such as 2026-11-01") from None
    if not date(2020, 1, 1) <= day <= date(2100, 1, 1):
        raise Refusal("a date from 2020-01-01 to 2100-01-01")
    return day


def choices(is_valid: Callable[[object], bool], must: str) -> BeforeValidator:
    """A value or a list of values, as a tuple without repeats; Scheme judges the values themselves."""

    def check(value: object) -> tuple[Any, ...]:
        values = value if isinstance(value, list | tuple) else [value]
        if not values:
            raise Refusal(f"{must}, or a list of at least one")
        for choice in values:
            if not is_valid(choice):
                raise Refusal(f"{must}, or a list of such", value=choice)
        return tuple(value for index, value in enumerate(values) if value not in values[:index])

    return BeforeValidator(check)


def is_flag_or_none(value: object) -> bool:
    return value is None or is_flag(value)


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_whole_or_none(value: object) -> bool:
    return value is None or is_whole(value)


def is_width_or_none(value: object) -> bool:
    return value == TERNARY or is_whole_or_none(value)


def is_number(value: object) -> bool:
    return isinstance(value, float) or is_whole(value)


def is_number_or_none(value: object) -> bool:
    return value is None or is_number(value)


def is_share(value: object) -> bool:
    return isinstance(value, str) or is_number(value)


def is_flag(value: object) -> bool:
    return isinstance(value, bool)


def spell_out(value: object) -> object:
    """A name alone stands for {name: NAME}."""
    return {"name": value} if isinstance(value, str) else value


def is_text(value: object) -> bool:
    return isinstance(value, str)


def is_rules(value: object) -> bool:
    return isinstance(value, dict) or is_text_or_none(value)


def is_mapping_or_none(value: object) -> bool:
    return value is None or isinstance(value, dict)


def is_text_or_none(value: object) -> bool:
    return value is None or is_text(value)
