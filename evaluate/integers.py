r"""Reads the integer that a completion commits to: AIME and `arithmetic`.

In this order: the last \boxed{...}, "the answer is N", a text that is N alone, one bold number, a last
sentence that concludes "... = N". A number that is merely mentioned is never taken.
"""

import re

from evaluate.answers import Reading, after_cues, detex, find_bold, find_boxes, plain, sentences

_NUMBER = r"[+-]?\s?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_SCALE = r"(?!(?:or|and|to|hundred|thousand|million|billion|dozen|choose|mod|times|over|plus|minus)\b)"
_WORDS = rf"{_SCALE}[A-Za-z]+\.?(?:\s+{_SCALE}[A-Za-z]+\.?){{0,2}}"
_UNIT = (
    rf"(?:\s*[%°])?(?:(?:\s+|(?=[A-Za-z]{{2}})){_WORDS}(?:\s?/\s?[A-Za-z]+)?(?:\s*(?:\^\s*\{{?\s*[23]\s*\}}?|[²³]))?)?"
)
_QUANTITY = re.compile(rf"^(?:USD|US\$|[$€£])?\s*({_NUMBER}){_UNIT}$")
_DEGREE = re.compile(r"\^?\s*\{?\s*\\(?:circ|degrees?)(?![A-Za-z])\s*\}?")
_MODULUS = re.compile(r"\s*(?:\\pmod\s*\{?\s*\d+\s*\}?|\(?\s*(?:\\b?mod|mod)\s*\{?\s*\d+\s*\}?\s*\)?)\s*$")
_CHOICE = re.compile(r"^\(?[A-E]\)\s*(?=[+-]?\d)")
_LEADING = re.compile(rf"^(?:USD|[$€£])?\s*({_NUMBER})(?![\d^_!(\\])(?!\s*[-+*/^=×·<>]|\.\d|,\d)")
_FILLER = re.compile(
    r"^(?:(?:therefore|thus|simply|just|exactly|indeed|clearly|then|equal to|equals"
    r"|the (?:number|integer|value)(?: of)?|:|=)\s*)+",
    re.I,
)
_HEDGE = re.compile(r"^[^.\n]{0,20}?\b(?:or|and)\s+(?:maybe\s+|possibly\s+)?[$\\({]*[+-]?\d", re.I)
_PLACEHOLDER = re.compile(
    r"^\W*(?:(?:your|my|the|final|an?|integer|numeric(?:al)?)\s+)*(?:answer|number|integer|result|value|[nxNX]|X+|A+)?\W*$",
    re.I,
)
_BETWEEN_CANDIDATES = re.compile(r"^[\s$.,*]*(?:or|and|,|/)[\s$,*]*(?:maybe|possibly|perhaps|also)?[\s$,*]*$", re.I)
_REJECTED = re.compile(r"\b(?:not|isn't|rather than|instead of)\s*[\s$*(\\]*$", re.I)
_CORRECTION = re.compile(r"\b(?:wait|actually|correction|sorry|mistake|instead|no)\b", re.I)
_CONCLUSION = re.compile(
    rf"^(?:therefore|thus|hence|so|consequently|finally|in conclusion|in total|altogether)\b.*?"
    rf"(?:=|\bis|\bare|\bequals|\bget|\bhave)\s*(?:exactly\s+)?({_NUMBER})\s*(?:[A-Za-z][A-Za-z ]*)?\.?$",
    re.I,
)


def parse_integer(text: str) -> str | None:
    """Returns the one integer or decimal that `text` is, typesetting, unit and "x =" aside; None if it is none.

    33.0 is 33; 33.5 stays "33.5" (a committed answer, never an integer's); a list or an expression is None.
    """
    text = _CHOICE.sub("", _MODULUS.sub("", detex(_DEGREE.sub("°", text)))).strip(" .;:,\"'{}")
    if re.search(r",\s*[A-Za-z\\][^=]*=", text):
        return None
    if "=" in text:
        sides = [v for v in (parse_integer(side) for side in text.split("=")) if v is not None]
        return sides[-1] if sides else None
    text = re.sub(r"(?<=\d) (?=\d{3}\b)", "", text).strip()
    match = _QUANTITY.match(text[1:-1] if text.startswith("(") and text.endswith(")") else text)
    return _canonical(match[1]) if match else None


def _canonical(number: str) -> str:
    """025 -> 25, 1,335 -> 1335, 33.0 -> 33, - 7 -> -7."""
    digits = re.sub(r"[,\s+]", "", number)
    whole, _, decimals = digits.partition(".")
    if decimals.strip("0"):
        return f"{int(whole)}.{decimals.rstrip('0')}"
    return str(int(whole))


def read_integer(text: str) -> Reading:
    """Reads the committed integer out of a completion's final text."""
    boxed = _read_boxes(text)
    if boxed is not None and not _corrected_after_boxes(text):
        return boxed
    for rule, reader in (("cue", _read_cues), ("bare", _read_bare), ("bold", _read_bold), ("conclusion", _concluded)):
        value = reader(text)
        if value is not None:
            return Reading(value or None, rule if value else "hedged")
    return boxed or Reading(None, "none_found")


def _read_boxes(text: str) -> Reading | None:
    boxes = [b for b in find_boxes(text) if not _PLACEHOLDER.match(detex(b.text))]
    kept = [b for b in boxes if not _REJECTED.search(text[: b.start])]
    if not kept:
        return None
    value = parse_integer(kept[-1].text) or _read_cues(detex(kept[-1].text))
    if not value:
        return Reading(None, "boxed_not_integer")
    if len(kept) > 1 and _BETWEEN_CANDIDATES.match(text[kept[-2].end : kept[-1].start]):
        other = parse_integer(kept[-2].text)
        return Reading(value, "boxed") if other == value else Reading(None, "hedged")
    return Reading(value, "boxed")


def _corrected_after_boxes(text: str) -> bool:
    """Whether the text takes its last box back and then names another answer."""
    rest = text[find_boxes(text)[-1].end :]
    return bool(_CORRECTION.search(rest)) and bool(_read_cues(rest))


def _read_cues(text: str) -> str | None:
    """The integer after the last marker that names one; "" when that marker names several."""
    for piece in reversed(after_cues(text)):
        sentence = _FILLER.sub("", sentences(piece)[0] if sentences(piece) else "")
        if (value := parse_integer(sentence)) is not None:
            return value
        if match := _LEADING.match(detex(sentence)):
            return "" if _HEDGE.match(detex(sentence)[match.end() :]) else _canonical(match[1])
    return None


def _read_bare(text: str) -> str | None:
    """The integer when the text is nothing else: "33", "$m + n = 33$", "33 minutes"; never a sentence around it."""
    formula, equals, _ = re.sub(r"\\[A-Za-z]+", "", text).rpartition("=")
    return None if equals and re.search(r"[A-Za-z]{3}", formula) else parse_integer(text)


def _read_bold(text: str) -> str | None:
    values = {v for b in find_bold(text) if not b.endswith((".", ")")) and (v := parse_integer(b)) is not None}
    return values.pop() if len(values) == 1 else None


def _concluded(text: str) -> str | None:
    last = sentences(text)[-1:] or [""]
    match = _CONCLUSION.match(detex(plain(last[0])))
    return _canonical(match[1]) if match else None
