"""Reads True, False or Uncertain: FOLIO and `logic`.

In this order: the last box, "the answer is ...", a bold label, what is said of the conclusion, the last
sentence with a label. Synonyms and negations count as a careful reader takes them: "cannot be determined"
is Uncertain, "not true" is False, "not necessarily true" is Uncertain; "true or uncertain" is no answer.
"""

import re

from evaluate.answers import Reading, after_cues, detex, find_bold, find_boxes, plain, sentences

LABELS = ("True", "False", "Uncertain")
_NOUNS = r"answer|label|verdict|truth[ -]value|classification|judge?ment"
_ADVERB = r"(?:(?:\w+ly|so|then|also|thus|hence|indeed|in fact)\s+)?"
_ABLE = r"(?:determin|conclud|infer|prov|establish|verif|decid|deduc|confirm|evaluat|assess|ascertain|deriv)\w*"
_CANNOT = r"(?:can\s?not|can't|could not|couldn't|impossible to|unable to|not possible to|no way to|not able to|cannot)"
_REST = r"(?:(?!\b(?:so|therefore|thus|hence|but|however)\b)[^.;,\n])*"  # of the clause
_CLAIM = r"\b(?:conclusion|statement|claim|hypothesis|assertion|proposition|argument|sentence)\b"

# In order of precedence: a longer phrase takes its words away from the shorter ones below it.
_PHRASES: tuple[tuple[str, str | None], ...] = (
    (r"(?:whether|if)\b[^.;,\n]*?\btrue\b[^.;,\n]*?\bfalse\b(?:,? or uncertain| or not)?", None),
    (r"true\s*[,/|]\s*false\s*[,/|]?\s*(?:and|or)?\s*(?:uncertain|unknown)", None),
    (r"neither\s+(?:\w+\s+)?(?:true|false|prove[nd]|provable|confirmed|verified)\s+nor\s+(?:\w+\s+)?\w+", "Uncertain"),
    (r"(?:could|may|might|can) (?:still )?be (?:either )?(?:true or false|false or true)", "Uncertain"),
    (
        rf"{_CANNOT}\s+(?:be\s+)?{_ADVERB}(?:{_ABLE}|sa(?:y|id)|tell|told|know|known)\b"
        rf"(?:\s+{_ADVERB}(?:to be\s+|as\s+)?"
        r"(?:either\s+)?(?:true|false)(?:\s+or\s+(?:true|false))?)?(?:\s+(?:whether|if|that)\b"
        rf"{_REST})?",
        "Uncertain",
    ),
    (
        rf"(?:(?:not|in|never)\s?(?:enough|sufficient)|(?:lack of|no|without|(?:\w+n't|not) (?:have|provide|give))"
        rf"(?: us)?(?: enough| sufficient| any| direct)?)\s+"
        rf"(?:information|evidence|data|details?)(?:\s+(?:about|on|regarding|whether|that|to)\b{_REST})?",
        "Uncertain",
    ),
    (rf"(?<!that )(?:it is|it's) (?:therefore |thus )?false that\b{_REST}", "False"),
    (rf"(?<!that )(?:it is|it's) (?:therefore |thus )?true that\b{_REST}", "True"),
    (rf"not the case that\b{_REST}\btrue", "False"),
    (rf"not the case that\b{_REST}\bfalse", "True"),
    (r"(?:isn't|not) (?:un(?:certain|known|determined)|indeterminate)", None),
    (
        r"(?:not|isn't|n't be)\s+(?:necessarily|definitely|certainly|provably|conclusively|guaranteed(?: to be)?"
        r"|known to be)\s*(?:true|false|follow)?(?:\s+or\s+(?:true|false))?",
        "Uncertain",
    ),
    (r"(?:does not|doesn't|do not|don't)\s+(?:\w+ly\s+)?follow", "Uncertain"),
    (
        r"(?:may|might) or (?:may|might) not"
        r"|not (?:certain|clear|sure|known|provable|determinable|decidable|verifiable)",
        "Uncertain",
    ),
    (
        rf"(?<!I )(?:\w+n't|not|can\s?not) (?:know|be (?:certain|sure))(?:\s+(?:about|whether|if|that)\b{_REST})?",
        "Uncertain",
    ),
    (
        r"(?:uncertain|unknown|un-?determin(?:ed|able)|in-?determin(?:ate|able)|undecid(?:ed|able)|inconclusive|unclear"
        rf"|unverifiable|unprovable)(?:\s+(?:whether|if|that)\b{_REST})?",
        "Uncertain",
    ),
    (
        rf"(?:not|isn't|is never|no longer|can\s?not be|can't be|cannot possibly be)\s+{_ADVERB}(?:true|correct)",
        "False",
    ),
    (rf"(?:not|isn't|can\s?not be|can't be)\s+{_ADVERB}(?:false|incorrect|untrue)", "True"),
    (r"false|untrue|(?:is|are|be) incorrect|contradict(?:s|ed by) the (?:\w+ )?premises", "False"),
    (r"(?:does not|doesn't) hold", "False"),
    (
        r"true|(?:conclusion|statement|claim) (?:\w+ly )?holds|(?:is|are|be) correct|follows? (?:\w+ )?from"
        r"|entailed by",
        "True",
    ),
)
_EVENT = re.compile("|".join(rf"(?P<p{i}>\b(?:{p})\b)" for i, (p, _) in enumerate(_PHRASES)), re.I)
_REASON = re.compile(
    r",?\s+\b(?:because|since|given that|as (?:the|we|it|there|he|she|they|no)|due to|for the reason)\b", re.I
)
_JOINED = re.compile(r"^\W*(?:or|/|\|)\W*(?:it is |possibly |maybe )?$", re.I)
_SUPPOSED = re.compile(
    r"^\W*(?:if|suppose|assum\w+|for the (?:conclusion|statement) to be|in case)\b(?!.*\b(?:so|then) the\b)", re.I
)
_HEDGED = "hedged"


def canonical_label(text: str) -> str | None:
    """Returns the label that a data set means; "Unknown" is how FOLIO v0.0's train split says Uncertain."""
    word = text.strip().strip(".").capitalize()
    return "Uncertain" if word == "Unknown" else word if word in LABELS else None


def classify(fragment: str) -> str | None:
    """Returns the label that one sentence states last, "hedged" when it joins two by "or", None when it states none."""
    stated = _statements(fragment)
    reason = next((m for m in _REASON.finditer(fragment) if stated and m.start() >= stated[0][0].end()), None)
    stated = [s for s in stated if reason is None or s[0].start() < reason.start()]
    if len(stated) > 1:
        (one, a), (two, b) = stated[-2:]
        if a != b and _JOINED.match(fragment[one.end() : two.start()]):
            return _HEDGED
    return stated[-1][1] if stated else None


def _statements(fragment: str) -> list[tuple[re.Match[str], str]]:
    """The phrases that state a label, with it, in order; those that state none (None in the table) are passed over."""
    events = [(m, _PHRASES[int((m.lastgroup or "p0")[1:])][1]) for m in _EVENT.finditer(fragment)]
    return [(m, label) for m, label in events if label is not None]


def read_label(text: str) -> Reading:
    """Reads the committed label out of a completion's final text."""
    boxes = [detex(b.text) for b in find_boxes(text)]
    for rule, pieces in (("boxed", boxes), ("cue", after_cues(text, _NOUNS))):
        for piece in reversed(pieces):
            if label := _marked(piece):
                return _reading(label, rule)
    if label := _marked(text) if len(text.split()) <= 3 else None:
        return _reading(label, "bare")
    bold = {
        label
        for b in find_bold(text)
        if len(b.split()) <= 8 and not b.endswith(":") and b.lower() != "neither" and (label := _marked(b))
    }
    if len(bold) == 1:
        return _reading(bold.pop(), "bold")
    said = [s for s in sentences(text) if not _SUPPOSED.match(s)]
    about = [label for s in said if re.search(_CLAIM, s, re.I) and (label := classify(s))]
    if about:
        return _reading(about[-1], "conclusion")
    others = [label for s in said if (label := classify(s))]
    return _reading(others[-1], "last_sentence") if others else Reading(None, "none_found")


def _reading(label: str, rule: str) -> Reading:
    return Reading(None, _HEDGED) if label == _HEDGED else Reading(label, rule)


def _marked(piece: str) -> str | None:
    """The label of a marked piece: a lone T, F or U, the one that it opens with, else what its first sentence says."""
    piece = plain(detex(piece)).strip(" .\"'")
    if piece.lower() == "neither":
        return "Uncertain"
    if re.fullmatch(r"[TFU]", piece):
        return {"T": "True", "F": "False", "U": "Uncertain"}[piece]
    opening = re.match(r"^(?:\(?[A-C][).:]\s*)?(true|false|uncertain|unknown)\b(?!\s*(?:or|/|\|)\s*\w)", piece, re.I)
    if opening:
        return canonical_label(opening[1])
    first = (sentences(piece) or [""])[0]
    return classify(first)
