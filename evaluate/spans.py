"""Reads a short answer out of a completion and scores it as SQuAD does: MuSiQue and `recall`.

In this order: the last box, "the answer is ...", the only bold piece, a text of one short line, a sentence
"The ... is X", a short first or last line, the whole text. `exact_match` and `f1_score` are the official ones
(Rajpurkar et al. 2016; Trivedi et al. 2022): lower case, no punctuation, no articles, words compared.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

from evaluate.answers import Reading, after_cues, detex, find_bold, find_boxes, fold, plain, sentences

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_REFUSAL = re.compile(
    r"^\W*(?:(?:sorry|unfortunately)\W+)?"
    r"(?:i (?:do not|don't|cannot|can't|could not|couldn't|am not|am unable|was not|was unable)\b"
    r"|i'm (?:not|unable|sorry)\b|(?:it )?(?:cannot|can't|could not) be (?:determined|found|answered)\b"
    r"|(?:there is )?(?:not enough|insufficient|no) information\b|unknown\W*$|n/?a\W*$|none\W*$)",
    re.I,
)
_COPULA = re.compile(
    r"^(?:the|it|this|that|these|they|he|she|his|her|their|its)\b.*?\s(?:is|was|are|were|became)\s+"
    r"(?:(?:called|named|known as|located (?:in|at)|situated in|(?:born|founded|established) (?:in|on))\s+)?"
    r"(?P<span>[^;:]+?)\.?$",
    re.I,
)
_NUMBERS = (
    "zero zeroth|one first|two second|three third|four fourth|five fifth|six sixth|seven seventh|eight eighth"
    "|nine ninth|ten tenth|eleven eleventh|twelve twelfth"
)
_NUMBER_WORDS = {word: str(n) for n, words in enumerate(_NUMBERS.split("|")) for word in words.split(" ")}
_ORDINAL_DIGITS = re.compile(r"^(\d+)(?:st|nd|rd|th)$")
_SHORT = 8  # words; MuSiQue's longest reference among the study's hundred has 15, nine in ten have at most 5
_CLAUSE = re.compile(
    r"(?:,|;|\s\()?\s+(?:because|since|which|who|as (?:it|he|she|they|the)|according to)\b.*$", re.I | re.S
)


def normalize(text: str) -> str:
    """Lower case, punctuation and articles removed, spaces collapsed (the official order)."""
    text = fold(text).lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", text).split())


def exact_match(prediction: str, reference: str) -> bool:
    """Whether the two are equal once normalized."""
    return normalize(prediction) == normalize(reference)


def f1_score(prediction: str, reference: str) -> float:
    """Harmonic mean of word precision and recall, in [0, 1]; where one side has no word, 1 only if neither has."""
    predicted, expected = normalize(prediction).split(), normalize(reference).split()
    if not predicted or not expected:
        return float(predicted == expected)
    num_common = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * num_common / (len(predicted) + len(expected))


def best_f1(prediction: str | None, references: Sequence[str]) -> float:
    """The best F1 over the accepted references; 0 where nothing was answered."""
    return max(f1_score(prediction, r) for r in references) if prediction else 0.0


def contains(text: str, reference: str) -> bool:
    """Whether the reference stands within the text as whole words, both normalized."""
    words = normalize(reference)
    return bool(words) and f" {words} " in f" {normalize(text)} "


def number_words_to_digits(text: str) -> str:
    """The normalized text with its number words as digits: "Third Generation" and "3rd generation" are one."""
    return " ".join(_ORDINAL_DIGITS.sub(r"\1", _NUMBER_WORDS.get(word, word)) for word in normalize(text).split())


def read_span(text: str) -> Reading:
    """Reads the committed short answer out of a completion's final text."""
    boxes = [b for b in (detex(b.text) for b in find_boxes(text)) if b]
    if boxes:
        return _reading(boxes[-1], "boxed")
    bold = list(dict.fromkeys(b.strip(" :") for b in find_bold(text) if not b.endswith(":")))
    if cues := after_cues(text):
        emphasized = [b for b in bold if cues[-1].startswith(b)]
        return _reading(emphasized[-1] if emphasized else _first_statement(cues[-1]), "cue")
    lines = [line.strip() for line in plain(text).splitlines() if line.strip(" -#")]
    if len(bold) == 1:
        return _reading(bold[0], "bold")
    if not lines:
        return Reading(None, "none_found")
    if len(lines) == 1:
        return _read_line(lines[0])
    for rule, line in (("first_line", lines[0]), ("last_line", lines[-1])):
        if len(line.split()) <= _SHORT and not line.endswith(":"):
            return _reading(line, rule)
    return _read_line(lines[-1])


def _read_line(line: str) -> Reading:
    match = _COPULA.match(_CLAUSE.sub("", line)) if len(sentences(line)) == 1 else None
    if match and len(match["span"].split()) <= _SHORT:
        return _reading(match["span"], "sentence")
    return _reading(line, "whole_text")


def _first_statement(piece: str) -> str:
    """What follows a marker, up to the end of its line; of a long line the first sentence without its reasons."""
    line = piece.splitlines()[0].strip()
    if len(line.split()) > _SHORT:
        line = _CLAUSE.sub("", (sentences(line) or [line])[0])
    return line


def _reading(span: str, rule: str) -> Reading:
    span = re.sub(r"(?<=[\"'])\s*\}$", "", detex(span).strip()).strip("\"'").removesuffix(".").strip()
    if not span:
        return Reading(None, "none_found")
    return Reading(None, "refused") if _REFUSAL.match(span) else Reading(span, rule)
