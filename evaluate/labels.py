"""Reads True, False or Uncertain: FOLIO and `logic`.

In this order: what follows a correction, the last box, "the answer is ...", a bold label, what is said of the
conclusion, the last sentence with a label. Synonyms and negations count as a careful reader takes them: "cannot be
determined" is Uncertain, "not true" is False, "not necessarily true" is Uncertain; "true or uncertain" is no answer.
"""

import re

from evaluate.answers import Reading, after_correction, after_cues, committed_boxes, detex, find_bold, plain, sentences

LABELS = ("True", "False", "Uncertain")
_NOUNS = r"answer|label|verdict|truth[ -]value|classification|judge?ment"
_ADVERB = r"(?:(?:\w+ly|so|then|also|thus|hence|indeed|in fact)\s+)?"
_ABLE = (
    r"(?:determin|conclud|infer|prov|establish|verif|decid|deduc|confirm|evaluat|assess|ascertain|deriv"
    r"|refut|disprov)\w*"
)
_CANNOT = (
    r"(?:can\s?not|can't|could not|couldn't|impossible to|unable to|(?:not|isn't) possible to|no way to"
    r"|not able to|cannot)"
)
_REST = r"(?:(?!\b(?:so|therefore|thus|hence|but|however)\b)[^.;,\n]){0,300}"  # of the clause
_CLAIM = r"\b(?:conclusion|statement|claim|hypothesis|assertion|proposition|argument|sentence)\b"
_THE_CLAIM = rf"(?:it|(?:the|this|that) {_CLAIM})"
_NEGATION = r"(?:negation|opposite|contrary)\b(?: of [^.;,\n]{0,200}?)?,? (?:is|must be|follows|holds)\b"
_NEVER = r"(?:not|never|(?:cannot|can't|can not|could not) be)"
_MIGHT = r"(?:could|may|might|can)(?: or (?:could|may|might) not)?(?: (?:still|well|also|in fact|(?!only)\w+ly))*"

# In order of precedence: a longer phrase takes its words away from the shorter ones below it.
_PHRASES: tuple[tuple[str, str | None], ...] = (
    (r"(?:whether|if)\b[^.;,\n]{0,200}?\btrue\b[^.;,\n]{0,200}?\bfalse\b(?:,? or uncertain| or not)?", None),
    (r"true\s*[,/|]\s*false\s*[,/|]?\s*(?:and|or)?\s*(?:uncertain|unknown)", None),
    (
        r"neither\s+(?:\w+\s+){0,2}?(?:true|false|prove[nds]?|provable|confirm(?:ed)?|verif(?:y|ied)|support(?:ed)?"
        r"|entail(?:ed)?|impl(?:y|ied)|establish(?:ed)?|follows?|contradict(?:s|ed)?|refuted?|disprove[nds]?)"
        r"(?:\s+(?:from|by)(?:\s+the\s+(?:\w+\s+)?premises)?)?,?\s+nor\s+"
        r"(?:(?:is|are|does|do|has been)\s+)?(?:\w+ly\s+)?\w+"
        rf"(?:\s+(?:by\s+the\s+(?:\w+\s+)?premises|(?:the|this)\s+{_CLAIM}))?",
        "Uncertain",
    ),
    (r"(?:true|false|uncertain|unknown) (?:is|would be) (?:wrong|incorrect|not (?:right|correct))", None),
    (r"not true,? (?:and|nor|or) (?:not )?false", "Uncertain"),
    (rf"{_MIGHT} be (?:either\b|(?:true|false))(?: (?:true|false))?(?: or (?:true|false))?", "Uncertain"),
    (r"possibly (?:true|false)", "Uncertain"),
    (rf"{_NEGATION} (?:\w+ )?false", "True"),
    (rf"{_NEGATION}(?: (?:\w+ )?true| from)?", "False"),
    (rf"(?:not|never) (?:the case|true|correct) that {_THE_CLAIM} (?:\w+ly )?follows\b{_REST}", "Uncertain"),
    (rf"{_NEVER} (?:the case|true|correct) that {_THE_CLAIM}{_REST}\b(?:false|untrue)", "True"),
    (rf"{_NEVER} (?:the case|true|correct) that {_THE_CLAIM}{_REST}", "False"),
    (r"not (?:merely|just|simply|only) (?:uncertain|unknown)|not (?:merely|just|simply) (?:true|false)", None),
    (r"not only(?= true| false)", None),
    (rf"(?:wrong|incorrect|a mistake|premature) to (?:say|call|conclude|claim|assume|state)\b{_REST}", None),
    (
        rf"(?:nothing|no(?:ne of the)? (?:\w+ )?premises?)\b[^.;,\n]{{0,60}}?\b(?:tells?|says?|states?|lets?|allows?"
        rf"|mentions?|indicates?|specif(?:y|ies)|establish(?:es)?|determines?|implies|imply|addresses)\b{_REST}"
        r"|premises? (?:is|are|remains?) silent|remains? (?:an )?open\b(?: question)?",
        "Uncertain",
    ),
    (rf"impossible for {_THE_CLAIM} to be (?:\w+ )?true|no way (?:that )?{_THE_CLAIM} (?:is|can be) true", "False"),
    (rf"impossible for {_THE_CLAIM} to be (?:\w+ )?false", "True"),
    (
        rf"(?:do(?:es)? not|don't|doesn't) (?:tell|say|specify|state|indicate|establish|show|settle)(?: us)?"
        rf" (?:whether|if)\b{_REST}",
        "Uncertain",
    ),
    (rf"(?:truth|{_CLAIM})[^.;,\n]{{0,40}} depends on\b{_REST}", "Uncertain"),
    (
        rf"{_CANNOT}\s+(?:be\s+)?{_ADVERB}(?:{_ABLE}|sa(?:y|id)|tell|told|know|known)\b"
        rf"(?:\s+{_ADVERB}(?:to be\s+|as\s+)?"
        r"(?:either\s+)?(?:true|false)(?:\s+or\s+(?:true|false))?)?"
        rf"(?:\s+(?:(?:whether|if|that)\b|{_THE_CLAIM}){_REST})?"
        rf"(?:,? (?:n?or|and) (?:(?:that|whether|if) )?{_THE_CLAIM} (?:is|are) (?:not )?(?:true|false))?",
        "Uncertain",
    ),
    (
        rf"(?:(?:not|isn't|in|never)\s?(?:enough|sufficient)"
        rf"|(?:lack of|no|without|(?:\w+n't|not) (?:have|provide|give))"
        rf"(?: us)?(?: enough| sufficient| any| direct)?)\s+"
        rf"(?:information|evidence|data|details?|info)(?:\s+(?:about|on|regarding|whether|that|to)\b{_REST})?",
        "Uncertain",
    ),
    (
        r"(?:determin|check|evaluat|decid|verify|assess|examin|analy[sz]|consider|see|find out)(?:e|ing)?"
        rf" (?:whether|if)\b{_REST}",
        None,
    ),
    (rf"(?<!that )(?:it is|it's) (?:therefore |thus )?false that\b{_REST}", "False"),
    (rf"(?<!that )(?:it is|it's) (?:therefore |thus )?true that\b{_REST}", "True"),
    (rf"not the case that\b{_REST}\btrue", "False"),
    (rf"not the case that\b{_REST}\bfalse", "True"),
    (r"(?:isn't|not) (?:un(?:certain|known|determined)|indeterminate)", None),
    (
        r"(?:not|isn't|n't be)\s+(?:necessarily|definitely|definitively|certainly|provably|conclusively"
        r"|guaranteed(?: to be)?|known to be)\s*(?:true|false|follow)?(?:\s+or\s+(?:true|false))?",
        "Uncertain",
    ),
    (r"(?:does not|doesn't|do not|don't)\s+(?:\w+ly\s+)?follow", "Uncertain"),
    (r"(?:not|isn't)\s+(?:\w+ly\s+)?(?:entailed|implied|deducible|derivable|prove[nd])(?: by\b)?", "Uncertain"),
    (
        r"(?:may|might) or (?:may|might) not"
        r"|(?<!I'm )(?<!I am )not (?:certain|clear|sure|known|provable|determinable|decidable|verifiable)"
        rf"(?:\s+(?:whether|if|that)\b{_REST})?",
        "Uncertain",
    ),
    (
        rf"(?<!I )(?:\w+n't|not|can\s?not) (?:know|be (?:certain|sure))(?:\s+(?:about|whether|if|that)\b{_REST})?",
        "Uncertain",
    ),
    (
        r"(?:uncertain|unknown|un-?determin(?:ed|able)|in-?determin(?:ate|able)|undecid(?:ed|able)|inconclusive|unclear"
        rf"|unverifiable|unprovable|unprove[nd])(?:\s+(?:whether|if|that)\b{_REST})?",
        "Uncertain",
    ),
    (
        rf"(?:not|isn't|is never|no longer|can\s?not be|can't be|cannot possibly be)\s+{_ADVERB}(?:true|correct)",
        "False",
    ),
    (rf"(?:not|isn't|can\s?not be|can't be)\s+{_ADVERB}(?:false|incorrect|untrue)", "True"),
    (
        r"(?:not|n't) (?:supported|confirmed) (?:n?or|or) (?:contradicted|refuted|denied)"
        r"|(?:not|n't) contradicted\b[^.;\n]{0,60}(?:\bnot|n't|\bnor) (?:supported|entailed|implied|confirmed)",
        "Uncertain",
    ),
    (r"(?:not|isn't|n't)\s+(?:\w+ly\s+)?(?:contradict\w*|refuted?|disprove[nd]?|inconsistent|ruled out)\b", None),
    (
        r"false|untrue|(?:is|are|be) (?:incorrect|inaccurate)|contradict(?:s|ed by) (?:the (?:\w+ )?)?premises?"
        rf"|(?:contradict|refute|disprove|negate|rule out)s? (?:the|this) {_CLAIM}|refuted|disprove[nd]"
        rf"|inconsistent with|{_CLAIM} (?:is|leads to) a contradiction"
        rf"|{_CLAIM} (?:is|must be) (?:\w+ly )?(?:wrong|impossible)",
        "False",
    ),
    (r"(?:does not|doesn't|fails to|cannot|can't) hold(?: true)?", "False"),
    (
        r"true|(?:conclusion|statement|claim) (?:\w+ly )?holds|(?:is|are|be) correct|follows? (?:\w+ )?from"
        rf"|premises (?:\w+ly )?(?:entail|imply|guarantee|prove) (?:the|this) {_CLAIM}|consequence of"
        r"|(?:is|are) derivable"
        r"|can be (?:\w+ly )?(?:derived|inferred|deduced|prove[nd]|concluded) from"
        rf"|{_CLAIM} (?:\w+ly )?follows(?! (?:if|only))"
        r"|(?:entailed|guaranteed) by|(?:is|has been) (?:\w+ly )?prove[nd]"
        rf"|{_CLAIM} (?:is|must be) (?:\w+ly )?(?:right|accurate)",
        "True",
    ),
)
_EVENT = re.compile("|".join(rf"(?P<p{i}>\b(?:{p})\b)" for i, (p, _) in enumerate(_PHRASES)), re.I)
_REASON = re.compile(
    r",?\s+\b(?:because|since|given that|as (?:the|we|it|there|he|she|they|no)|due to|for the reason|(?:even )?though"
    r"|although|while|whereas|despite)\b",
    re.I,
)
_QUOTED = re.compile(r"\"[^\"\s]+\s[^\"]+\"|(?<!\w)'[^'\s]+\s[^']+'(?!\w)")
_JOINED = re.compile(r"^\W*(?:or|/|\|)\W*(?:it is |possibly |maybe )?$|^\s*(?:,|and)\s*$", re.I)
_CONTRAST = re.compile(r"^\W*(?:and|but)?\W*$", re.I)
_SUPPOSED = re.compile(
    r"^\W*(?:if|suppose|assum\w+|for the (?:conclusion|statement) to be|in case)\b(?!.*\b(?:so|then) the\b)"
    r"|^\W*(?:(?:the|all|both|these|those)\s+)*(?:premises?|facts?)\b(?!.*\b(?:conclusion|statement|so|therefore|whether)\b|.*:\s*(?:true|false|uncertain|unknown)\b)"
    r"|\bwould (?:need|require|have to|only)\b|\?\W*$",
    re.I,
)
_CONCLUDES = re.compile(
    rf"{_CLAIM}|\b(?:therefore|thus|hence|so|overall|consequently),?\s+(?:it|this|that)\b"
    r"|^\W*(?:it|this|that)(?:'s| is)\b",
    re.I,
)
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
    events = [(m, _PHRASES[int((m.lastgroup or "p0")[1:])][1]) for m in _EVENT.finditer(fragment)]
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
        first = next(iter(sentences(rest)), "")
        if label := _opening(first) or (
            classify(first) if re.match(rf"(?:the|this|that)\s+{_CLAIM}", first, re.I) else None
        ):
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
    if label := canonical_label(first.strip(" .!:*\"'")):
        return Reading(label, "first_sentence")
    about = [label for s in said if _CONCLUDES.search(s) and (label := classify(s))]
    if about:
        return _reading(about[-1], "conclusion")
    others = [label for s in said if (label := classify(s))]
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
    piece = plain(detex(piece)).strip(" .\"'")
    if piece.lower() == "neither":
        return "Uncertain"
    if re.fullmatch(r"[TFU]", piece):
        return {"T": "True", "F": "False", "U": "Uncertain"}[piece]
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
