"""Reads True, False or Uncertain: FOLIO and `logic`.

In this order: what follows a correction, the last box, "the answer is ...", a bold label, what is said of the
conclusion, the last sentence with a label. Synonyms and negations count as a careful reader takes them: "cannot be
determined" is Uncertain, "not true" is False, "not necessarily true" is Uncertain; "true or uncertain" is no answer.
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
    plain,
    sentences,
)
from evaluate.label_phrases import CLAIM, PHRASES

LABELS = ("True", "False", "Uncertain")
_NOUNS = r"answer|label|verdict|truth[ -]value|classification|judge?ment"
_EVENT = re.compile("|".join(rf"(?P<p{i}>\b(?:{p})\b)" for i, (p, _) in enumerate(PHRASES)), re.I)
_REASON = re.compile(
    r",?\s+\b(?:because|since|given that|as (?:the|we|it|there|he|she|they|no)|due to|for the reason|even if"
    r"|(?:even )?though|although|while|whereas|despite|rather than|instead of|as opposed to|regardless of|no matter)\b",
    re.I,
)
_QUOTED = re.compile(r"\"[^\"\s]+\s[^\"]+\"|(?<!\w)'[^'\s]+\s[^']+'(?!\w)")
_JOINED = re.compile(r"^\W*(?:or|/|\|)\W*(?:it is |possibly |maybe )?$|^\s*(?:,|and)\s*$", re.I)
_CONTRAST = re.compile(r"^\W*(?:and|but)?\W*$", re.I)
_SUPPOSED = re.compile(
    r"^\W*(?:if|suppose|assum\w+|for the (?:conclusion|statement) to be|in case)\b(?!.*\b(?:so|then) the\b)"
    r"|^\W*(?:(?:the|all|both|these|those)\s+)*(?:premises?|facts?)\b(?!.*\b(?:conclusion|statement|so|therefore"
    r"|whether|open|silent|answer|information|do not|don't|cannot|can't|neither|nothing|insufficient|enough|evidence"
    r"|both|not sufficient|contradict (?:it|this)(?=\W*$))\b|.*:\s*(?:true|false|uncertain|unknown)\b)"
    r"|\bwould (?:need|require|have to|only)\b|\?\W*$",
    re.I,
)
_CONCLUDES = re.compile(
    rf"{CLAIM}|\b(?:therefore|thus|hence|so|overall|consequently)[,:]?\s+(?:it|this|that|true|false|uncertain"
    rf"|unknown)\b"
    r"|^\W*(?:it|this|that)(?:'s| is)\b",
    re.I,
)
_LONE = {  # what a marked piece may be in whole, and no word in a sentence
    **{"T": "True", "F": "False", "U": "Uncertain", "neither": "Uncertain", "correct": "True", "incorrect": "False"},
    **{"wrong": "False", "entailment": "True", "contradiction": "False", "neutral": "Uncertain", "unsure": "Uncertain"},
    **{"entailed": "True", "contradicted": "False"},
}
_NOT = re.compile(r"\\(?:neg|lnot|not)(?![A-Za-z])\s*|¬\s*")
_HEDGED = "hedged"


def canonical_label(text: str) -> str | None:
    """Returns the label that a data set means; "Unknown" is how FOLIO v0.0's train split says Uncertain."""
    word = text.strip().strip(".").capitalize()
    return "Uncertain" if word == "Unknown" else word if word in LABELS else None


def classify(fragment: str) -> str | None:
    """Returns the label that one sentence states last, "hedged" when it joins two by "or", None when it states none."""
    unquoted = _QUOTED.sub('""', fragment)
    fragment = unquoted if _statements(unquoted) else fragment
    stated = _statements(fragment)
    reason = next((m for m in _REASON.finditer(fragment) if stated and m.start() >= stated[0][0].end()), None)
    stated = [s for s in stated if reason is None or s[0].start() < reason.start()]
    if len(stated) > 1:
        (one, a), (two, b) = stated[-2:]
        if a != b and _JOINED.match(fragment[one.end() : two.start()]):
            return _HEDGED
    return stated[-1][1] if stated else None


def _statements(fragment: str) -> list[tuple[re.Match[str], str]]:
    """The phrases that state a label, with it, in order.

    Those that state none (None in the table) are passed over, and what a label is set against: "unknown, not false".
    """
    events = [(m, PHRASES[int((m.lastgroup or "p0")[1:])][1]) for m in _EVENT.finditer(fragment)]
    stated: list[tuple[re.Match[str], str]] = []
    for event, label in events:
        is_contrast = stated and event[0].lower().startswith("not ")
        if label is not None and not (is_contrast and _CONTRAST.match(fragment[stated[-1][0].end() : event.start()])):
            stated.append((event, label))
    return stated


def read_label(text: str) -> Reading:
    """Reads the committed label out of a completion's final text."""
    if rest := after_correction(text):
        marked = _read_marked(rest)
        if marked and marked.answer:
            return marked
        for sentence in corrected_sentences(rest):
            is_about = re.match(rf"(?:the|this|that)\s+{CLAIM}", sentence, re.I)
            if label := _opening(sentence) or (classify(sentence) if is_about else None):
                return _reading(label, "corrected")
    if marked := _read_marked(text):
        return marked
    if label := _marked(text) if len(text.split()) <= 3 else None:
        return _reading(label, "bare")
    bold = {
        label
        for b in find_bold(text)
        if len(b.split()) <= 8 and not b.endswith(":") and b.lower() != "neither" and (label := _marked(b))
    }
    if len(bold) == 1 and bold & {classify(s) for s in sentences(text)}:
        return _reading(bold.pop(), "bold")
    said = [s for s in sentences(text) if not _SUPPOSED.search(s)]
    first = next(iter(sentences(text)), "")
    label = canonical_label(first.strip(" .!:*\"'"))
    if label and not after_correction(text):
        return Reading(label, "first_sentence")
    if last := canonical_label((said or [""])[-1].strip(" .!:*\"'")):
        return Reading(last, "last_sentence")
    about = [found for s in said if _CONCLUDES.search(s) and (found := classify(s))]
    if about:
        return _reading(about[-1], "conclusion")
    if label:
        return Reading(label, "first_sentence")
    others = [found for s in said if (found := classify(s))]
    return _reading(others[-1], "last_sentence") if others else Reading(None, "none_found")


def _read_marked(text: str) -> Reading | None:
    """The label of the last box, else of the last "the answer is" that has one."""
    labels = {label for b in committed_boxes(text) if (label := _marked(b))}
    if labels:
        return _reading(labels.pop() if len(labels) == 1 else _HEDGED, "boxed")
    for piece in reversed(after_cues(text, _NOUNS)):
        if label := _marked(piece):
            return _reading(label, "cue")
    return None


def _reading(label: str, rule: str) -> Reading:
    return Reading(None, _HEDGED) if label == _HEDGED else Reading(label, rule)


def _marked(piece: str) -> str | None:
    """The label of a marked piece: a lone T, F or U, the one that it opens with, else what its first sentence says."""
    piece = plain(detex(_NOT.sub("not ", piece))).strip(" .\"'")
    if label := _LONE.get(piece if len(piece) == 1 else piece.lower()):
        return label
    said = [s for s in sentences(piece) if not s.endswith("?")] or [""]
    return _opening(said[0]) or classify(said[0])


def _opening(sentence: str) -> str | None:
    """The label that a sentence opens with, unless "or" joins another to it."""
    opening = re.match(
        r"^\W*(?:(?:[A-C]|\d)[).:]\s*)?(true|false|uncertain|unknown)\b"
        r"(?!\s*(?:or|/|\|)\s*\w|\s*(?:,|and)\s*(?:true|false|uncertain|unknown)\b)",
        sentence,
        re.I,
    )
    return canonical_label(opening[1]) if opening else None
