"""Sparsity as users write it: a share of zeros, or n:m with n non-zeros of every m."""

from __future__ import annotations

import math
import re

from compress.errors import SchemeError

Pattern = tuple[int, int]


def parse_sparsity(value: str | float) -> tuple[float, Pattern | None]:
    """Read 0.5, "0.5" or "2:4" (2 non-zeros of 4) as (sparsity, pattern).

    Raises SchemeError when it is neither.
    """
    must = "a share in [0, 1), such as 0.5, or n:m with n non-zeros of m, such as 2:4"
    if isinstance(value, bool):
        raise SchemeError("sparsity", value, must)
    if isinstance(value, str):
        if match := re.fullmatch(r"\s*(\d{1,4}):(\d{1,4})\s*", value):
            pattern = (int(match[1]), int(match[2]))
            check_pattern(pattern)
            return 1 - pattern[0] / pattern[1], pattern
        try:
            value = float(value)
        except ValueError:
            raise SchemeError("sparsity", value, must) from None
    if not (math.isfinite(value) and 0 <= value < 1):
        raise SchemeError("sparsity", value, must)
    return float(value), None


def check_pattern(pattern: Pattern) -> None:
    """Raise SchemeError unless pattern is (n, m) with 1 <= n < m <= 128."""
    must = "n:m with n non-zeros of m, 1 <= n < m <= 128"
    if not isinstance(pattern, tuple):
        raise SchemeError("pattern", pattern, must)
    whole = len(pattern) == 2 and all(isinstance(part, int) and not isinstance(part, bool) for part in pattern)
    if not whole or not 1 <= pattern[0] < pattern[1] <= 128:
        raise SchemeError("sparsity", ":".join(map(str, pattern)), must)
