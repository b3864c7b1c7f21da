r"""Reads the integer that a completion commits to: AIME and `arithmetic`.

In this order: what follows a correction ("wait, it is N"), the last \boxed{...}, "the answer is N" or "#### N", a text
or a last line that is N alone, one bold number, a last sentence that concludes "... = N" or states "The ... is N".
A number that is merely mentioned is never taken.
"""

import re

from evaluate.answers import (
    Reading,
    after_correction,
    after_cues,
    committed_boxes,
    corrected_sentences,
    detex,
    find_bold,
    find_boxes,
    is_rejected_before,
    plain,
    sentences,
    without_denied,
)

_LONGEST = 1000  # characters of a text that can be one number; longer ones are loops
_MOST_DIGITS = 4000  # Python converts no longer ones
_NUMBER = r"[+-]?\s?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
# words that make another number of the one before them
SCALE = r"(?:hundred|thousand|million|billion|dozen|squared|cubed|factorial|halves|thirds)\b"
_OPERATOR = rf"(?:{SCALE}|(?:choose|mod|times|over|plus|minus|divided|multiplied|(?:more|less) than)\b)"
_SCALE = rf"(?!(?:or|and|to)\b|{_OPERATOR})"
_WORDS = rf"{_SCALE}[A-Za-z]+\.?(?:\s+{_SCALE}[A-Za-z]+\.?){{0,2}}"
_UNIT_WORD = (  # one that can stand between a number and a second one that belongs to it
    r"(?:(?!(?:because|since|for|by|from|as|see|that|with|using|in|of|at|on|if|when|where|which|or|and|to|is)\b)"
    r"[A-Za-z%°]+\.?)"
)
_UNIT = (
    rf"(?:\s*[%°])?(?:(?:\s+|(?=[A-Za-z]{{2}})){_WORDS}(?:\s?/\s?[A-Za-z]+)?(?:\s*(?:\^\s*\{{?\s*[23]\s*\}}?|[²³]))?"
    r"|\s?/\s?[A-Za-z]{2,})?"
)
_QUANTITY = re.compile(rf"^(?:USD|US\$|[$€£])?\s*({_NUMBER}){_UNIT}$")
_DEGREE = re.compile(r"\^?\s*\{?\s*\\(?:circ|degrees?)(?![A-Za-z])\s*\}?")
_MODULUS = re.compile(r"\s*(?:\\pmod\s*\{?\s*\d+\s*\}?|\(?\s*(?:\\b?mod|mod)\s*\{?\s*\d+\s*\}?\s*\)?)\s*$")
_CHOICE = re.compile(r"^\(?[A-E]\)\s*(?=[+-]?\d)")
_ORDINAL = re.compile(r"(?<=\d)\s*\^?\s*\{?\s*(?:\\text\s*\{)?\s*(?:st|nd|rd|th)\s*\}{0,2}\s*$")
_LEADING = re.compile(
    rf"^(?:USD|[$€£])?\s*[\[<(]?({_NUMBER})(?![\d^_(\\²³⁴¼½¾⅓⅔]|!\S|[A-Za-z](?![A-Za-z])|[.:,']\d)"
    rf"(?!\s*(?:[+*/^=×·±<>]|-\s*(?:\d|\\|[A-Za-z]\b)|{_OPERATOR}|(?:%|percent)\s*of\b|x\s*\d|\d+\s*/\s*\d"
    r"|\\(?:choose|pm|times|cdot|div|over|bmod)\b))"
)
FILLER = (  # what may stand between "the answer is" and the answer
    r"(?:(?:therefore|thus|simply|just|exactly|indeed|clearly|then|equal to|equals"
    r"|the (?:number|integer|value)(?: of)?|:|=)\s*)"
)
_FILLER = re.compile(rf"^{FILLER}+", re.I)
_HEDGE = re.compile(
    rf"^(?:[\s,($]*(?:{_UNIT_WORD}[\s,($]+){{0,2}}?or|\s*\$?\s*(?:{_UNIT_WORD}\s+){{0,2}}?(?:and|to|plus|minus|times))"
    r"\s+(?:maybe\s+|possibly\s+)?[$\\({]*[+-]?\d"
    rf"|^\s*{_UNIT_WORD},?\s+(?:and\s+)?\d|^\s*,\s*[$\\({{]*\d|^\s+or so\b|^[\s;,]*alternatively\b"
    r"|^(?:\s*[A-Za-z]+)?\s+and (?:a|one|two|three)[ -](?:half|quarters?|thirds?)\b",
    re.I,
)
_PLACEHOLDER = re.compile(
    r"^\W*(?:(?:your|my|the|final|an?|integer|numeric(?:al)?)\s+)*(?:answer(?: here)?|number|integer|result|value"
    r"|[nxNX]|X+|A+|\\[lc]?dots)?\W*$",
    re.I,
)
_DISPLAYED = re.compile(r"\s*(?:\\\[|\$\$)\s*([^$\n]{0,300}?)\s*(?:\\\]|\$\$)")
_HASHES = re.compile(r"####\s*[$€£]?\s*(.+?)\s*$", re.M)
_IS_THE_ANSWER = re.compile(
    rf"(?:^|[\s$*(])({_NUMBER})[$*)]*\s+is\s+(?:therefore\s+)?(?:the|our|my)"
    r"\s+(?:final\s+|correct\s+|right\s+)*answer\b",
    re.I,
)
_STATEMENT = re.compile(
    rf"^(?:(?:the (?:sum|total|remainder)\b[^?]*|(?:the|this|that|it)\b[^\d?]*)\b(?:is|are|was|were|equals)|it's)"
    rf"\s+(?:(?:exactly|equal to|therefore|thus|then|simply|just|[$€£])\s*)*({_NUMBER})"
    rf"(?:\s+{_SCALE}[A-Za-z]+)?[.!]?$",
    re.I,
)
_CONCLUSION = re.compile(
    rf"^(?:therefore|thus|hence|so|consequently|finally|in conclusion|in total|altogether)\b.*?"
    rf"(?:=|\bis|\bare|\bequals|\bget|\bhave|\btotal of)\s*(?:(?:exactly|therefore|thus|simply|just)\s+)*({_NUMBER})"
    r"\s*(?:[A-Za-z][A-Za-z ]*)?\.?$",
    re.I,
)


def parse_integer(text: str) -> str | None:
    """Returns the one integer or decimal that `text` is, typesetting, unit and "x =" aside; None if it is none.

    33.0 is 33; 33.5 stays "33.5" (a committed answer, never an integer's); a list or an expression is None.
    """
    if len(text) > _LONGEST:
        return None
    text = re.sub(r"(?<![\d.])\.(?=\d)", "0.", text)
    text = re.sub(r"(?<!\\)[ $]+$", "", text.lstrip(" $")).replace("\\equiv", "=").replace("≡", "=")
    text = detex(_ORDINAL.sub("", _DEGREE.sub("°", text)))
    text = _CHOICE.sub("", _MODULUS.sub("", text)).strip(" .;:,!\"'{}" if text.endswith(" !") else " .;:,\"'{}")
    if re.search(r",\s*[A-Za-z\\][^=]*=|\b(?:or|and)\b.*=", text):
        return None
    if "=" in text:
        sides = [v for v in (parse_integer(side) for side in text.split("=")) if v is not None]
        return sides[-1] if sides else None
    text = re.sub(r"(?<=\d) (?=\d{3}\b)", "", text).strip()
    match = _QUANTITY.match(text[1:-1].strip() if re.match(r"\(.*\)$|\[.*\]$|<.*>$", text) else text)
    return _canonical(match[1]) if match else None


def _canonical(number: str) -> str:
    """025 -> 25, 1,335 -> 1335, 33.0 -> 33, - 7 -> -7."""
    digits = re.sub(r"[,\s+]", "", number)
    whole, _, decimals = digits.partition(".")
    if decimals.strip("0"):
        return f"{'-' if whole == '-0' else ''}{int(whole)}.{decimals.rstrip('0')}"
    return str(int(whole)) if len(whole) < _MOST_DIGITS else whole


def read_integer(text: str) -> Reading:
    """Reads the committed integer out of a completion's final text."""
    text = without_denied(text)
    if rest := after_correction(text):
        marked = _read_boxes(rest) or _read_rule("cue", _read_cues(rest))
        if marked and marked.answer is not None:
            return marked
        values = [v for s in corrected_sentences(rest) if (v := parse_integer(s)) is not None]
        if values:
            return Reading(values[0], "corrected")
    if boxed := _read_boxes(text):
        return boxed
    for rule, reader in (
        ("cue", _read_cues),
        ("bare", _read_bare),
        ("last_line", _read_last_line),
        ("bold", _read_bold),
        ("conclusion", _concluded),
    ):
        if reading := _read_rule(rule, reader(text)):
            return reading
    has_box = any(not _PLACEHOLDER.match(detex(b.text)) for b in find_boxes(text))
    return Reading(None, "boxed_rejected" if has_box else "none_found")


def last_number(text: str) -> str | None:
    """Returns the last number that a text mentions, committed to or not, None where it is denied; a lenient rule."""
    text = detex(plain(text))
    found = list(re.finditer(rf"(?<![\w.]){_NUMBER}(?!\w)", text))
    return _canonical(found[-1][0]) if found and not is_rejected_before(text, found[-1].start()) else None


def _read_rule(rule: str, value: str | None) -> Reading | None:
    """A reading by a rule that returns the integer, "" where it names several, None where it finds none."""
    return None if value is None else Reading(value or None, rule if value else "hedged")


def _read_boxes(text: str) -> Reading | None:
    boxes = committed_boxes(text, _PLACEHOLDER)
    if not boxes:
        return None
    values = [parse_integer(b) or _read_cues(detex(b)) for b in boxes]
    if set(values) == {None} and (value := _read_cues(text[find_boxes(text)[-1].end :])):
        return Reading(value, "cue")
    if len(set(values)) > 1:
        return Reading(None, "hedged")
    return Reading(values[0], "boxed", boxes[-1]) if values[0] else Reading(None, "boxed_not_integer", boxes[-1])


def _read_cues(text: str) -> str | None:
    """The integer after the last marker that names one; "" when that marker names several."""
    hashes = [v for m in _HASHES.finditer(text) if (v := parse_integer(m[1])) is not None]
    if hashes:
        return hashes[-1]
    for piece in reversed(after_cues(text)):
        sentence = _FILLER.sub("", (sentences(piece) or [""])[0])
        sentence = re.sub(r"(?<=\d)!$", "", re.split(r",\s+where\b", sentence)[0])
        if (value := parse_integer(sentence)) is not None:
            return value
        if match := _LEADING.match(detex(sentence)):
            return "" if _HEDGE.match(detex(sentence)[match.end() :]) else _canonical(match[1])
    stated = _IS_THE_ANSWER.findall(plain(text))
    return _canonical(stated[-1]) if stated else None


def _read_bare(text: str) -> str | None:
    """The integer when the text is nothing else: "33", "$m + n = 33$", "33 minutes"; never a sentence around it."""
    formula, equals, _ = re.sub(r"\\[A-Za-z]+", "", text).rpartition("=")
    return None if equals and re.search(r"[A-Za-z]{3}", formula) else parse_integer(plain(text))


def _read_last_line(text: str) -> str | None:
    """The integer where the last or the first of several lines holds a number and nothing else."""
    lines = [line.strip(" .$") for line in plain(text).splitlines() if line.strip()]
    alone = [line for line in (*lines[-1:], *lines[:1]) if re.fullmatch(_NUMBER, line)]
    return _canonical(alone[0]) if alone else None


def _read_bold(text: str) -> str | None:
    values = {v for b in find_bold(text) if not b.endswith((".", ")")) and (v := parse_integer(b)) is not None}
    return values.pop() if len(values) == 1 else None


def _concluded(text: str) -> str | None:
    last = detex(plain((sentences(_DISPLAYED.sub(r" \1", text))[-1:] or [""])[0]))
    match = _CONCLUSION.match(last) or _STATEMENT.match(last)
    return _canonical(match[1]) if match else None
