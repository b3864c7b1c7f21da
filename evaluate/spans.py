"""Reads a short answer out of a completion and scores it as SQuAD does: MuSiQue and `recall`.

In this order: the last box, "the answer is ...", the only bold piece, a text of one short line, a sentence
"The ... is X", a short first or last line, the whole text. `exact_match` and `f1_score` are the official ones
(Rajpurkar et al. 2016; Trivedi et al. 2022): lower case, no punctuation, no articles, words compared.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

from evaluate.answers import (
    Reading,
    after_cues,
    committed_boxes,
    detex,
    find_bold,
    fold,
    plain,
    sentences,
    without_denied,
)

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_REFUSAL = re.compile(
    r"^\W*(?:(?:sorry|\w+ly|as an ai[^,]*|without [^,.]{1,60}?(?:information|context|data)"
    r"|the answer|the question|this|it|it's)\W+)?"
    r"(?:i (?:\w+ly )?(?:do not|don't|cannot|can't|could not|couldn't|was not able to)(?: \w+ly)?"
    r" (?-i:know|have|find|tell|say|see|answer|determine|identify|provide|recall|remember|confirm|verify|give|think"
    r"|access|understand|name|help|assist|be)\b|i (?:am|was) (?:unable\b|not (?-i:[a-z]))|i'm (?:unable|sorry"
    r"|not (?-i:[a-z]))|idk\W*$|(?:i have )?no (?:idea|clue)\b|(?:cannot|can't|could not) (?:determine|answer)\b"
    r"|(?:cannot|can't|could not) be (?:determined|found|answered)\b"
    r"|(?:is )?(?:ambiguous|too vague)\b"
    r"|(?:is )?(?:unable|not possible|impossible) to (?:determine|answer|say|tell|know)\b"
    r"|(?:i have |there is |there's |there isn't )?(?:not enough|enough|insufficient|no)"
    r" (?:information|definitive answer|data)\b"
    r"|(?:the )?(?:provided |given )*(?:passages?|contexts?|information|texts?|documents?|paragraphs?)"
    r"(?: provided| given)? "
    r"(?:do not|does not|don't|doesn't)\b|i(?:'m| am) afraid\b"
    r"|(?:none of )?(?:the |these )(?:provided |given )?passages? (?:mention|provide no|give no|say nothing)\b"
    r"|i (?:would )?need more\b|no information\b"
    r"|(?:(?:could|can) you |please )+(?:provide|clarify|give|share)\b|(?:the )?information is not\b"
    r"|(?:is )?not (?:specified|available|known|given|stated|provided|found|mentioned) (?:in|by|anywhere)\b"
    r"|(?:is )?(?:not (?:specified|available|known|given|stated|provided|found|mentioned)|unknown|unclear|no answer"
    r"|none|null|n/?a)\W*$)",
    re.I,
)
_BUT = re.compile(r"^\W*(?:i'm|i am|i do not|i don't|i cannot|i can't|not)\b[^.\n]*?,?\s+but\s+", re.I)
_OPENING = re.compile(
    r"^(?:(?:(?:sure|certainly|of course|okay|hmm)(?=[,.!])[.!]?|(?:the )?passages?(?: \d+)? (?:says?|states?) that"
    r"|so|therefore|thus|hence|overall|in (?:short|summary|conclusion):?|probably|maybe|perhaps"
    r"|(?:could|might|may) be|possibly|(?:most )?likely"
    r"|i(?:'d| would)? (?:think|believe|guess|say|suppose)(?: that)?"
    r"|(?:based on|according to|from) [^,]{1,60}(?=,)|if i (?:recall|remember)(?: correctly)?|as far as i know"
    r"|in [^,]{1,40}(?=, (?:the|it|this|that|he|she|his|her|its)\b))[,:]?\s+)+",
    re.I,
)
_HEDGE = re.compile(
    r"^(?:(?:[Mm]ost likely|[Ll]ikely|[Pp]robably|[Pp]ossibly|[Pp]erhaps|[Pp]resumably|therefore|thus|then|indeed"
    r"|simply|actually|definitely|clearly|in fact)\s+)+"
)
_LED_IN = re.compile(r"^(?:the )?(?:(?:final|correct|right|actual) )*answer(?: is| was|:)\s*", re.I)
_QUOTED = re.compile(r"^\"([^\"]+)\"(?=$|[.,;:]|\s+(?:\(|(?-i:[a-z])))")
_PARTICIPLE = (
    r"(?:named after|named for|married to|(?:\w+ed|born|built|held|found|set|shot|fought|buried|known) (?:in|at|on)"
    r"|(?:owned|founded|directed|written|produced|released|published|performed|sung|made|led"
    r"|created|composed|designed|invented|discovered|recorded|portrayed|played|voiced) by)"
)
_CHAINED = re.compile(
    rf"^(?!.*\b(?:answer|spouse|name) (?:is|was)\b.*,)(?=[^,]*(?:{_PARTICIPLE}|\s\w+ed\s|\b(?:is|was)\s(?-i:[A-Z])))"
    r"[^,]{1,120},\s+(?:(?:whose|and (?:his|her|its|their))\s[^,.]{1,60}?\s(?:is|was|are|were)|who (?:married|(?:is"
    r"|was)"
    r" (?:married to|born in)))\s+(?:called\s+|named\s+)?(?P<span>(?-i:[A-Z])[^,;:]+?)\.?$",
    re.I,
)
_SOFT = re.compile(r"\b(?<=answer )(?:(?:could|might|may) be|(?:seem|appear)s to be)\b", re.I)
_COPULA = re.compile(
    r"^(?:(?:(?:the|it|this|that|these|they|he|she|his|her|their|its|there)\b|(?-i:[A-Z])[^.;:,]{0,60}'s\b).*\s"
    r"(?-i:is|was|are|were|became|would be|belongs to|belonged to|died (?:in|on|at)|refers to|attended"
    r"|studied at|graduated from|lived in|worked (?:at|for)|play(?:s|ed) for|moved to"
    r"|(?:seem|appear)s? to (?:be|have been)"
    r"|\w+ed (?:in|on|at)|(?:lies|sits|stands) (?:in|on|at)"
    r"|(?:happened|occurred|took place|ended|began|started|opened|closed) (?:in|on|at|during)"
    r"|(?:flow|drain|empt(?:y|ie))s? into)"
    r"|(?:it|that|this|he|she)(?:'s)|(?:he|she|they|it)\s(?:won|speaks?|married|wrote|directed|founded|plays?"
    r"|played|joined)"
    rf"|(?-i:[A-Z])[^.;:,]{{0,60}}\s(?:is|was|are|were)"
    rf"(?=\s+(?:{_PARTICIPLE}\s|(?:in|at|on)\s+(?:the\s+)?(?-i:[A-Z]))))\s+"
    rf"(?:(?:called|named(?! after| for)|known as|part of|a member of|{_PARTICIPLE}"
    r"|(?:in|at|on)(?=\s+(?:the\s+)?(?-i:[A-Z\d])))\s+)?"
    r"(?P<span>[^;:]+?)\.?$",
    re.I,
)
_NUMBERED = re.compile(r"^(?:step )?\d[.):]\s+", re.I)
_SHORT = 8  # words; MuSiQue's longest reference among the study's hundred has 15, nine in ten have at most 5
_CLAUSE = re.compile(
    r"(?:\s\(|[,;])?\s+(?:(?-i:because|since)|(?-i:as) (?:it|he|she|they|the)(?! (?-i:[A-Z]))|according to"
    r"|as of \d{4})\b.*$|[,;]\s+(?:which|who|whose|where|when|and (?:it|he|she|they|its)|i (?:think|believe))\b.*$"
    r"|,?\s+(?:rather than|instead of)\b.*$|;\s+(?:it|he|she|they|this|that|the)\b.*$"
    r"|\s+and (?:it|he|she|they) (?:is|was|has|had)\b.*$",
    re.I | re.S,
)
_SOURCE = r"(?:see\s+)?(?:passage|paragraph|document|doc|source)s?"
_ASIDE = re.compile(
    rf"\s*\[(?:{_SOURCE}\s*)?\d+\]|\s*\({_SOURCE}\s*\d+\)"
    r"|(?:,|\s-)\s+(?:(?-i:an?)|also known as|formerly|not|located|based|born|founded|i (?:think|believe"
    r"|guess))\b.*$|(?:,|\s-)\s+the\s+(?=(?-i:[a-z])).*$|\s-+\s+the\s.*$"
    r"|(?:,|\s-+)\s+(?-i:[a-z]+)\s+of\b.*$|,\s+(?-i:[A-Z])[^,]{1,40}'s\s+(?-i:[a-z])[\w ]*\.?$"
    r"|\s+\((?-i:(?:[A-Z]\.?){2,6})\)$"
    r"|\s+\((?:located|also|formerly|born|based|founded|in|an?|the|from|now|known|i\.e|as)\b[^()]*\)$"
    r"|\s+\([^()\d\s]+(?:\s+[^()\d\s]+){2,}\)$|\s+\([^()]*\bconfiden[^()]*\)$",
    re.I | re.S,
)
_CONCLUDES = re.compile(r"^(?:so|therefore|thus|hence|in conclusion|overall)\b", re.I)
_IS_THE_ANSWER = re.compile(r"^(.{1,80}?)\s+is the (?:final |correct )?answer\.?$", re.I)
_DATED = re.compile(
    r"^(?:(?:\w+ed|born|built)\s+)?(?:in|on)\s+(?=\d|(?:January|February|March|April|May|June|July|August|September"
    r"|October|November|December)\b)",
    re.I,
)
_SENTENCE_END = re.compile(
    r"(?<!\b[A-Z])(?<!\b(?:Mr|Ms|Dr|St|Jr|Sr))(?<!\bMrs)[.!?]\s+(?=(?:It|This|That|He|She|They|These|The|In|However"
    r"|So|Therefore|Thus|Hence|Let|Please|Hope|Note|As|Since|According|His|Her|Its|Their|We|I)\b|(?:Wait|Actually"
    r"|No|Sorry|Correction)\b[,:])"
)
_CORRECTED = re.compile(
    r".*(?<!\bdr)(?<!\bmr)[.!?]\s+(?:(?:(?:no|sorry|correction)[,:.]|(?:no )?wait\b[,:]?|actually\b,?)\s*)+"
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
    text = without_denied(text)
    text = _SOFT.sub("is", re.sub(r"^A:(?=\s)", "Answer:", text, flags=re.M))
    boxes = [b for b in (detex(b) for b in committed_boxes(text)) if b]
    if not boxes and len(sentences(text)) == 1 and _REFUSAL.match(plain(text)) and not _BUT.match(plain(text)):
        return Reading(None, "refused")
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
    lines = [_NUMBERED.sub("", line) for line in lines]
    first = _choose_line(lines)
    for rule, line in (("first_line" if first is lines[0] else "last_line", first), ("last_line", lines[-1])):
        if len(line.split()) <= _SHORT and not line.endswith(":"):
            return _reading(_stated(line) or line, rule)
    return _read_line(lines[-1])


def _choose_line(lines: list[str]) -> str:
    """The first line, or the last where it concludes: a statement after one, a bare answer after a sentence."""
    first, last = lines[0], lines[-1]
    is_sentence = first.endswith(".") and len(first.split()) > 3
    is_led_to = bool(_stated(first) and _stated(last)) or (is_sentence and last[-1].isalnum())
    return last if is_led_to and len(last.split()) <= _SHORT else first


def _read_line(line: str) -> Reading:
    """Of several sentences the last counts when it concludes, else a short first one without a verb, else the last."""
    said = [s.strip() for s in _SENTENCE_END.split(line)]
    if len(said) > 1 and not _REFUSAL.match(said[0]):
        is_answer_first = len(said[0].split()) <= _SHORT and not _stated(said[0]) and not _CONCLUDES.match(said[-1])
        return _read_line(said[0] if is_answer_first or not _stated(said[-1]) else said[-1])
    named = _IS_THE_ANSWER.match(_OPENING.sub("", line))
    stated = named[1] if named else _stated(line)
    if stated:
        return _reading(stated, "sentence")
    return _reading(_CLAUSE.sub("", _OPENING.sub("", _BUT.sub("", line))), "whole_text")


def _stated(line: str) -> str | None:
    """What the one sentence of a line says: X of "The ... is X", "It was written by X", "... by Y, whose ... is X"."""
    if (chained := _CHAINED.search(line)) and len(chained["span"].split()) <= _SHORT:
        return chained["span"]
    sentence = _CLAUSE.sub("", _OPENING.sub("", _BUT.sub("", line)))
    match = None if _SENTENCE_END.search(line) else _COPULA.match(sentence)
    return match["span"] if match and len(match["span"].split()) <= _SHORT else None


def _first_statement(piece: str) -> str:
    """What follows a marker: the first sentence of its line without its reasons and asides."""
    line = _SENTENCE_END.split(piece.splitlines()[0].strip())[0]
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
