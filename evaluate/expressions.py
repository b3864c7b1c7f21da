r"""Reads the expression that a completion commits to, and compares it with the reference: MATH-500.

In this order: what follows a correction, the last \boxed{...}, "the answer is ...", one bold piece, a text of one line.
Two expressions are equal when they are written alike, typesetting aside, or when math-verify says that they have the
same value; it is not asked about what it would take for its first number ("2 hours 30 minutes", "2 dozen").
"""

import re
import unicodedata

from evaluate.answers import (
    Reading,
    after_correction,
    after_cues,
    committed_boxes,
    corrected_sentences,
    detex,
    find_bold,
    fold,
    listed_boxes,
    plain,
    sentences,
    without_denied,
)
from evaluate.integers import FILLER, SCALE
from evaluate.symbolic import are_equal

_SHORT = 12  # words of a line that can be an expression
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_CHAIN = re.compile(r"([^<>=]+?)(<|\\leq?)[a-z](<|\\leq?)([^<>=]+)")
_CLAUSE = re.compile(r",?\s+\b(?:because|since|where|which|as)\b.*$", re.I | re.S)
_FORMULA = re.compile(r"(?<!\\)\$([^$\n]+?)(?<!\\)\$|\\\(([^\n]+?)\\\)")
_OPENED, _CLOSED = "\ue000", "\ue001"  # stand for the delimiters of a formula, which `plain` would take off
_LEAD = re.compile(
    rf"^(?:{FILLER}|(?:(?:an?|the)\s+)?(?:(?:half-)?(?:open|closed)\s+)?(?:interval|matrix|vector|point|set|fraction"
    r"|(?:ordered )?(?:pair|triple)|polynomial|function|expression|equation|option|choice)\b\s*)+",
    re.I,
)
_AFTER = re.compile(  # what may follow a formula and leave it the whole answer
    rf"^(?!.*(?:{SCALE}|\b(?:or|times|plus|minus|more|less|of|mod|percent|over)\b))"
    rf"(?:[^\d\\={_OPENED}]|{_OPENED}\^[^{_CLOSED}]*{_CLOSED})*$",
    re.I | re.S,
)
_COMPOUND = re.compile(
    rf"\d\s*{SCALE}|\d\s*(?!(?:and|or)\b)(?:[A-Za-z]{{2,}}|[dhms])\b[^\d\\]*\d+\s*[A-Za-z]{{2,}}", re.I
)
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_BASE = re.compile(r"([\dA-F.]+)_\{?(\w+)\}?")


def read_expression(text: str) -> Reading:
    """Reads the committed expression, as it is written, out of a completion's final text."""
    text = without_denied(text)
    if rest := after_correction(text):
        if marked := _read_marked(rest):
            return marked
        formulas = [s for s in corrected_sentences(rest) if _is_formula(s)]
        if formulas:
            return _reading(formulas[0], "corrected")
    if marked := _read_marked(text):
        return marked
    bold = {b for b in find_bold(text) if not b.endswith(":")}
    if len(bold) == 1:
        return _reading(bold.pop(), "bold")
    lines = [line for line in plain(text).splitlines() if line.strip()]
    if len(lines) == 1 and len(lines[0].split()) <= _SHORT:
        return _reading(lines[0], "bare")
    return Reading(None, "none_found")


def _read_marked(text: str) -> Reading | None:
    """The expression in the last box, or in several that list it, else after the last "the answer is"."""
    boxes = committed_boxes(text)
    if len({written(b) for b in boxes}) > 1:
        listed = listed_boxes(text)
        return _reading(listed, "boxed") if listed else Reading(None, "hedged")
    if boxes:
        return _reading(boxes[-1], "boxed")
    if cues := after_cues(_FORMULA.sub(lambda m: f"{_OPENED}{m[1] or m[2]}{_CLOSED}", text)):
        return _reading(_expression_in((sentences(cues[-1]) or [""])[0]), "cue")
    return None


def _expression_in(sentence: str) -> str:
    """What a sentence names after "the answer is": its formula where it has one, else itself without its reason."""
    sentence = _LEAD.sub("", sentence)
    formula, closed, after = sentence.removeprefix(_OPENED).partition(_CLOSED)
    if sentence.startswith(_OPENED) and closed and _AFTER.match(after):
        return formula
    return _CLAUSE.sub("", sentence.replace(_OPENED, "").replace(_CLOSED, ""))


def _is_formula(text: str) -> bool:
    return not re.search(r"(?<![\\A-Za-z])[A-Za-z]{2,}", re.sub(r"\\text\{[^{}]*\}", "", text))


def is_same_expression(answer: str, reference: str) -> bool:
    """Whether the two are written alike or equal in value; a point is no interval and no set, whatever its numbers."""
    answer, reference = _VULGAR.sub(_fraction, answer), _VULGAR.sub(_fraction, reference)
    given, expected = written(answer), written(reference)
    if given == expected:
        return True
    bases = {base[2] for text in (given, expected) if (base := _BASE.fullmatch(text))}
    if len(bases) > 1 or (_COMPOUND.search(detex(answer)) and not _COMPOUND.search(detex(reference))):
        return False
    if _brackets(given) != _brackets(expected) and _brackets(given) and _brackets(expected):
        return False
    if _brackets(given) == "()" and "," in expected and not _brackets(expected):  # an order that the list has not
        return given[1:-1] == expected or are_equal(answer, f"({fold(reference)})") is True
    interval = _CHAIN.fullmatch(given)
    if interval and _brackets(expected):
        given = _interval(*interval.groups())
        return given == expected or are_equal(given, fold(reference)) is True
    return are_equal(answer, fold(reference)) is True


def written(expression: str) -> str:
    r"""One spelling for what is only typeset otherwise: \dfrac, \left(, spaces, $...$, 1{,}000, a last full stop.

    The end of a row, and what keeps two numbers apart, stays as ";".
    """
    text = re.sub(r"\\[dtc]frac\b", r"\\frac", fold(expression)).replace(r"\varnothing", r"\emptyset")
    text = re.sub(r"\s*\\\\(?![A-Za-z]{2})(?!\s*(?:\\end|$))", ";", text)
    text = re.sub(r"(?<=\d)\s+(?=\d)(?!\d{3}\b)", ";", detex(text))
    text = re.sub(r"\s+", "", text).rstrip(".")
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text


def _fraction(match: re.Match[str]) -> str:
    r"""½ is \frac{1}{2}."""
    return r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", match[0]).split("\u2044"))


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
