r"""Reads the expression that a completion commits to, and compares it with the reference: MATH-500.

In this order: the last \boxed{...}, "the answer is ...", one bold piece, a text of one line. Two expressions are equal
when they are written alike, typesetting aside, or when math-verify says that they have the same value.
"""

import re

from evaluate.answers import Reading, after_cues, committed_boxes, detex, find_bold, fold, plain, sentences
from evaluate.symbolic import are_equal

_SHORT = 12  # words of a line that can be an expression
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_CHAIN = re.compile(r"([^<>=]+?)(<|\\leq?)[a-z](<|\\leq?)([^<>=]+)")
_CLAUSE = re.compile(r",?\s+\b(?:because|since|where|which|as)\b.*$", re.I | re.S)


def read_expression(text: str) -> Reading:
    """Reads the committed expression, as it is written, out of a completion's final text."""
    boxes = committed_boxes(text)
    if len({written(b) for b in boxes}) > 1:
        return Reading(None, "hedged")
    if boxes:
        return _reading(boxes[-1], "boxed")
    if cues := after_cues(text):
        return _reading(_CLAUSE.sub("", (sentences(cues[-1]) or [""])[0]), "cue")
    bold = {b for b in find_bold(text) if not b.endswith(":")}
    if len(bold) == 1:
        return _reading(bold.pop(), "bold")
    lines = [line for line in plain(text).splitlines() if line.strip()]
    if len(lines) == 1 and len(lines[0].split()) <= _SHORT:
        return _reading(lines[0], "bare")
    return Reading(None, "none_found")


def is_same_expression(answer: str, reference: str) -> bool:
    """Whether the two are written alike or equal in value; a point is no interval and no set, whatever its numbers."""
    given, expected = written(answer), written(reference)
    if given == expected:
        return True
    if _brackets(given) != _brackets(expected) and _brackets(given) and _brackets(expected):
        return False
    interval = _CHAIN.fullmatch(given)
    if interval and _brackets(expected):
        given = _interval(*interval.groups())
        return given == expected or are_equal(given, fold(reference)) is True
    return are_equal(answer, fold(reference)) is True


def written(expression: str) -> str:
    r"""One spelling for what is only typeset otherwise: \dfrac, \left(, spaces, $...$, 1{,}000, a last full stop."""
    text = re.sub(r"\\[dtc]frac\b", r"\\frac", fold(expression)).replace(r"\varnothing", r"\emptyset")
    text = re.sub(r"\s+", "", detex(text)).rstrip(".")
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text


def _brackets(text: str) -> str:
    """The outer brackets of a list, "[)" of [2,5); "" where there are none or nothing is listed."""
    return text[0] + text[-1] if "," in text and text[0] in "([{" and text[-1] in ")]}" else ""


def _interval(low: str, below: str, above: str, high: str) -> str:
    r"""2 \le x < 5 is [2,5)."""
    return f"{'(' if below == '<' else '['}{low},{high}{')' if above == '<' else ']'}"


def _reading(expression: str, rule: str) -> Reading:
    expression = expression.strip().strip("$").strip()
    expression = expression.removesuffix(".").strip()
    return Reading(expression, rule) if written(expression) else Reading(None, "none_found")
