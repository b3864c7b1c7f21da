"""Reads a short answer out of a completion and scores it as SQuAD does: MuSiQue and `recall`.

In this order: the last box, "the answer is ...", the only bold piece, a text of one short line, a sentence
"The ... is X", a short first or last line, the whole text. `exact_match` and `f1_score` are the official ones
(Rajpurkar et al. 2016; Trivedi et al. 2022): lower case, no punctuation, no articles, words compared.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

from evaluate.answers import Reading, after_cues, committed_boxes, detex, find_bold, fold, plain, sentences

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_REFUSAL = re.compile(
    r"^\W*(?:(?:sorry|unfortunately|as an ai[^,]*|the answer|the question|this|it|it's)\W+)?"
    r"(?:i (?:do not|don't|cannot|can't|could not|couldn't|am not|am unable|was not|was unable)\b"
    r"|i'm (?:not|unable|sorry)\b|(?:i have )?no idea\b|(?:cannot|can't|could not) (?:determine|answer)\b"
    r"|(?:cannot|can't|could not) be (?:determined|found|answered)\b"
    r"|(?:is )?(?:ambiguous|too vague)\b"
    r"|(?:is )?(?:unable|not possible|impossible) to (?:determine|answer|say|tell|know)\b"
    r"|(?:there is |there's )?(?:not enough|insufficient|no) (?:information|definitive answer|data)\b"
    r"|(?:is )?(?:not (?:specified|available|known|given|stated|provided)|unknown|unclear|no answer|none|n/?a)\W*$)",
    re.I,
)
_BUT = re.compile(r"^\W*(?:i'm|i am|i do not|i don't|i cannot|i can't|not)\b[^.\n]*?,?\s+but\s+", re.I)
_OPENING = re.compile(
    r"^(?:(?:so|therefore|thus|hence|overall|in (?:short|summary|conclusion):?|probably|possibly|(?:most )?likely"
    r"|i(?:'d| would)? (?:think|believe|guess|say|suppose)(?: that)?"
    r"|based on [^,]{1,60}|as far as i know|in [^,]{1,40}(?=, (?:the|it|this|that|he|she|his|her|its)\b))[,:]?\s+)+",
    re.I,
)
_HEDGE = re.compile(
    r"^(?:(?:(?:most )?likely|probably|possibly|perhaps|presumably|therefore|thus|then|indeed|simply|actually"
    r"|definitely|clearly|in fact)\s+)+",
    re.I,
)
_LED_IN = re.compile(r"^(?:the )?(?:(?:final|correct|right|actual) )*answer(?: is| was|:)\s*", re.I)
_QUOTED = re.compile(r"^\"([^\"]+)\"(?=$|[.,;:]|\s+(?:\(|(?-i:[a-z])))")
_PARTICIPLE = (
    r"(?:named after|named for|married to|(?:\w+ed|born|built|held|found|set|shot|fought|buried|known) (?:in|at|on)"
    r"|(?:owned|founded|directed|written|produced|released|published|performed|sung|made|led"
    r"|created|composed|designed|invented|discovered|recorded|portrayed|played|voiced) by)"
)
_COPULA = re.compile(
    r"^(?:(?:(?:the|it|this|that|these|they|he|she|his|her|their|its|there)\b|(?-i:[A-Z])[^.;:,]{0,60}'s\b).*\s"
    r"(?-i:is|was|are|were|became|would be|belongs to|belonged to|died (?:in|on|at)|refers to|attended"
    r"|studied at|graduated from|lived in|worked (?:at|for)|played for|moved to"
    r"|(?:happened|occurred|took place|ended|began|started|opened|closed) (?:in|on|at)"
    r"|(?:flow|drain|empt(?:y|ie))s? into)"
    r"|(?:it|that|this|he|she)(?:'s)"
    rf"|(?-i:[A-Z])[^.;:,]{{0,60}}\s(?:is|was|are|were)(?=\s+{_PARTICIPLE}\s))\s+"
    rf"(?:(?:called|named(?! after| for)|known as|part of|{_PARTICIPLE}"
    r"|(?:in|at|on)(?=\s+(?:the\s+)?(?-i:[A-Z\d])))\s+)?"
    r"(?P<span>[^;:]+?)\.?$",
    re.I,
)
_SHORT = 8  # words; MuSiQue's longest reference among the study's hundred has 15, nine in ten have at most 5
_CLAUSE = re.compile(
    r"(?:\s\(|[,;])?\s+(?:because|since|as (?:it|he|she|they|the)|according to|as of \d{4})\b.*$"
    r"|[,;]\s+(?:which|who|whose|where|when|and (?:it|he|she|they|its)|i (?:think|believe))\b.*$"
    r"|;\s+(?:it|he|she|they|this|that|the)\b.*$"
    r"|\s+and (?:it|he|she|they) (?:is|was|has|had)\b.*$",
    re.I | re.S,
)
_ASIDE = re.compile(
    r"\s*\[\d+\]|(?:,|\s-)\s+(?:an?|also known as|formerly|not|located|based|born|founded|i (?:think|believe"
    r"|guess))\b.*$|(?:,|\s-)\s+the\s+(?=(?-i:[a-z])).*$|\s-+\s+the\s.*$|\s+\((?-i:(?:[A-Z]\.?){2,6})\)$"
    r"|\s+\((?:located|also|formerly|born|based|founded|in|an?|the|from|now|known|i\.e|as)\b[^()]*\)$"
    r"|\s+\([^()\d\s]+(?:\s+[^()\d\s]+){2,}\)$",
    re.I | re.S,
)
_CONCLUDES = re.compile(r"^(?:so|therefore|thus|hence|in conclusion|overall)\b", re.I)
_IS_THE_ANSWER = re.compile(r"^(.{1,80}?)\s+is the (?:final |correct )?answer\.?$", re.I)
_DATED = re.compile(
    r"^(?:in|on)\s+(?=\d|(?:January|February|March|April|May|June|July|August|September|October|November|December)\b)",
    re.I,
)
_SENTENCE_END = re.compile(
    r"(?<!\b[A-Z])(?<!\b(?:Mr|Ms|Dr|St|Jr|Sr))(?<!\bMrs)[.!?]\s+(?=(?:It|This|That|He|She|They|These|The|In|However"
    r"|So|Therefore|Thus|Hence|Let|Please|Hope|Note|As|Since|According|His|Her|Its|Their|We|I)\b|(?:Wait|Actually|No|Sorry|Correction)\b[,:])"
)
_CORRECTED = re.compile(
    r".*[.!?]\s+(?:(?:(?:no|sorry|correction)[,:]|(?:no )?wait\b[,:]?|actually\b,?)\s*)+"
    r"(?:(?:it|that)(?:'s| is| was| should be)\s+)?",
    re.I | re.S,
)
_NUMBERS = (
    "zero zeroth|one first|two second|three third|four fourth|five fifth|six sixth|seven seventh|eight eighth"
    "|nine ninth|ten tenth|eleven eleventh|twelve twelfth"
)
_NUMBER_WORDS = {word: str(n) for n, words in enumerate(_NUMBERS.split("|")) for word in words.split(" ")}
_ORDINAL_DIGITS = re.compile(r"^(\d+)(?:st|nd|rd|th)$")


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
    boxes = [b for b in (detex(b) for b in committed_boxes(text)) if b]
    if boxes:
        return _reading(boxes[-1], "boxed")
    if (match := _CORRECTED.match(text)) and len(text[match.end() :].split()) <= _SHORT:
        return _reading(plain(text[match.end() :]), "corrected")
    bold = list(dict.fromkeys(b.strip(" :") for b in find_bold(text) if not b.endswith(":")))
    if cues := after_cues(text, "answer|guess"):
        emphasized = [b for b in bold if _HEDGE.sub("", cues[-1]).startswith(b)]
        return _reading(emphasized[-1] if emphasized else _first_statement(cues[-1]), "cue")
    lines = [line.strip().lstrip("-•– ") for line in plain(text).splitlines() if line.strip(" -#•")]
    if len(bold) == 1:
        return _reading(bold[0], "bold")
    if not lines:
        return Reading(None, "none_found")
    if len(lines) == 1:
        return _read_line(lines[0])
    for rule, line in (("first_line", lines[0]), ("last_line", lines[-1])):
        if len(line.split()) <= _SHORT and not line.endswith(":"):
            return _reading(_stated(line) or line, rule)
    return _read_line(lines[-1])


def _read_line(line: str) -> Reading:
    """Of several sentences the last counts when it concludes, else a short first one without a verb, else the last."""
    said = [s.strip() for s in _SENTENCE_END.split(line)]
    if len(said) > 1 and not _REFUSAL.match(said[0]):
        is_answer_first = len(said[0].split()) <= _SHORT and not _stated(said[0]) and not _CONCLUDES.match(said[-1])
        return _read_line(said[0] if is_answer_first or not _stated(said[-1]) else said[-1])
    named = _IS_THE_ANSWER.match(line)
    stated = named[1] if named else _stated(line)
    return _reading(stated, "sentence") if stated else _reading(_OPENING.sub("", _BUT.sub("", line)), "whole_text")


def _stated(line: str) -> str | None:
    """What the one sentence of a line states: X of "The ... is X", "It was written by X"."""
    sentence = _CLAUSE.sub("", _OPENING.sub("", _BUT.sub("", line)))
    match = None if _SENTENCE_END.search(line) else _COPULA.match(sentence)
    return match["span"] if match and len(match["span"].split()) <= _SHORT else None


def _first_statement(piece: str) -> str:
    """What follows a marker: the first sentence of its line without its reasons and asides."""
    line = _SENTENCE_END.split(piece.splitlines()[0].strip())[0]
    line = re.sub(r"^not\b[^\n]{0,80}?\bbut\s+", "", line, flags=re.I)
    if quoted := _QUOTED.match(line):
        return quoted[1]
    if len(line.split()) > _SHORT:
        line = (sentences(line) or [line])[0]
    return _CLAUSE.sub("", line)


def _reading(span: str, rule: str) -> Reading:
    span = re.sub(r"(?<=[\"'])\s*\}$", "", detex(span).strip())
    span = _HEDGE.sub("", _LED_IN.sub("", span))
    span = _ASIDE.sub("", re.sub(r"(?<=\))\.$", "", span)).strip().strip("\"'").rstrip("!").removesuffix(".").strip()
    span = _DATED.sub("", span)
    if not any(map(str.isalnum, span)):
        return Reading(None, "none_found")
    return Reading(None, "refused") if _REFUSAL.match(span) else Reading(span, rule)
