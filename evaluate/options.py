"""Reads the option that a completion commits to: `temporal_sequences` and `temporal`.

In this order: what follows a correction, the last box, "the answer is (A)", a bold option, a text that is one option
alone, the only option mentioned, the last sentence that keeps exactly one. Where letter and text disagree the letter
wins.
"""

import re
from collections.abc import Mapping

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
    without_denied,
)

_LISTED = re.compile(r"^\s*[(\[]?([A-Z])[)\].:]\s*(.+?)\s*$", re.M)
_NOUNS = r"answer|option|choice|letter"
_BRACED = re.compile(r"\{\s*([A-Za-z])\s*\}")
_BRACKETED = re.compile(r"[(\[]\s*([A-Za-z])\s*[)\]]|\(([A-Z])(?=[.,;:]|\s*$)", re.M)
_MENTION = re.compile(  # a lone A is a choice where it is no article
    r"[(\[]([A-Za-z])[)\]]|\b(?:option|choice)\s+((?-i:[A-Z]))\b|(?<![\w'])((?-i:[A-Z]))\)"
    r"|(?<![\w'])((?-i:[B-HJ-Z]))(?![\w'])"
    r"|(?<![\w'])((?-i:A))(?=[,.;:!?/]|\s*$|\s+(?:is|was|seems|looks|must|or|and|but|works|fits|remains|rather"
    r"|instead|because|since)\b)",
    re.I,
)
_CONCLUDES = re.compile(
    r"\b(?:therefore|thus|so|hence|consequently|must|only|could(?: only)? have|leav\w+|left with|remain\w+|free|fits?"
    r"|correct|right|possible|available|consistent|works|go with|choose|pick|select|the answer)\b|^it(?:'s| is)\b"
    r"|\bbut (?:it|that|this|now)\b",
    re.I,
)
_CLAUSE = re.compile(
    r";\s+|,\s+(?=(?:leaving|so|but|which leaves|therefore|thus|hence|it'?s|it is|and so|making)\b"
    r"|\(?[A-Z]\)?\s+(?:is|fits|works)\b)|\s+(?=but\s+\(?(?-i:[A-Z])\b|(?:rather than|instead of|as opposed to)\b)"
    r"|(?<=\w),\s+(?=\([A-Z]\)\s+(?-i:[a-z]))|(?<=[✗❌✓✔✅])\s+(?=\()|\s*(?:=>|⇒|→)\s*|\s+(?=leaves\b)|,\s+(?=(?:we"
    r"|you|one|this|that)\s+(?:are|is)\s+left\b)|,\s+(?=(?:she|he|they)\s+(?:must|could|can)\b)"
    r"|(?<![\s,-])[\s,-]+(?=not\s+\(?(?-i:[A-Z])\b)",
    re.I,
)
_REASON = re.compile(
    r"(?<=\S),?\s+(?:because|since|(?:even )?though|although|whereas|while|(?:right )?after|as (?:she|he|they|it"
    r"|the|\d\w+|\(?[A-Z]\)? is))\b.*$|(?<=\S)\s+\((?:before|after|since|because|as|she|he|they)\b[^()]*\)",
    re.I | re.S,
)
_REASON_FIRST = re.compile(r"^(?:since|because|as)\b[^,;]*,\s*", re.I)
_NOT_APPLICABLE = re.compile(r"\bn/a\b", re.I)
_DOTTED_TIME = re.compile(r"(?<![A-Za-z])([ap])\.\s?m\b\.?", re.I)
_HOURS = re.compile(r"(?<![\d:])(\d{1,2})(?::00)?\s*(?:-+|to|until|till|through|and)\s*(\d{1,2})(?::00)?\s*([ap]m)\b")
_CLOCK = re.compile(r"(?<![\d:])(\d{1,2}):00(?!\s*[ap]m|\d)")
_EXCEPT = re.compile(
    r"\b(?:all|every\w*|none|nothing|no)\b[^.\n]{0,60}?\b(?:except|besides|other than|apart from|but)\s+(?:for\s+)?"
    r"(?:option\s+|choice\s+)?(?:\((?P<b>[A-Za-z])\)|(?P<l>(?-i:[A-Z]))\b)",
    re.I,
)
_BARE = re.compile(r"^(?:\d+[.)]\s+)?(?:option\s+|choice\s+)?([A-Z])(?=$|[.:,;!)\s\"'}\]])", re.I)
_JOINED = r"(?:or|and|/|&|,)\s*(?:possibly\s+|maybe\s+|option\s+|choice\s+)?"
_REJECTION = re.compile(
    r"\b(?:not|cannot|never|neither|nor|no longer|incorrect|wrong|impossible|invalid|excluded?"
    r"|rules? out|rul(?:ed|ing) out|eliminat\w+|(?:is|are) out|taken|busy|unavailable|rather than|instead of"
    r"|as opposed to|thought)\b|n't\b|[):]\s*no\b|✗|❌",
    re.I,
)
_NOT_REJECTED = re.compile(
    r"(?:\b(?:not|never)|n't)\s+(?:been\s+|be\s+)?(?:taken|busy|ruled out|excluded|eliminated|covered|accounted for"
    r"|occupied|unavailable|seen|(?:in )?(?:clash|conflict|overlap)\w*)\b",
    re.I,
)


def parse_options(options: str | None) -> dict[str, str]:
    """Reads "(A) 6pm to 9pm" lines into {"A": "6pm to 9pm"}; empty when there is no list."""
    return {m[1]: m[2] for m in _LISTED.finditer(options or "")}


def option_letter(reference: str, listed: Mapping[str, str]) -> str | None:
    """Returns the letter that a reference names: "(A)", "A" or the option's own text; None if it names none."""
    match = re.fullmatch(r"\s*[(\[]?([A-Za-z])[)\].]?\s*", reference) or _LISTED.match(reference)
    if match and (not listed or match[1].upper() in listed):
        return match[1].upper()
    texts = [letter for letter, text in listed.items() if _simplify(text) == _simplify(reference)]
    return texts[0] if len(texts) == 1 else None


def _simplify(text: str) -> str:
    """One spelling for times: "between 6:00 p.m. and 9 PM", "6-9pm" and "18:00 to 21:00" are "6pm to 9pm"."""
    text = _DOTTED_TIME.sub(r"\1m", detex(text).lower())
    text = _HOURS.sub(_with_both_halves, text)
    text = _CLOCK.sub(lambda m: _twelve_hours(int(m[1])), text)
    text = re.sub(r"(?<=\d):00\b", "", text)
    text = re.sub(r"(?<=\d)\s+(?=[ap]m\b)", "", text)
    text = re.sub(r"(?<=\d[ap]m)\s*(?:-+|until|till|through|and)\s*(?=\d)", " to ", text)
    return re.sub(r"\s+", " ", text).strip(" .,;:!\"'")


def _with_both_halves(match: re.Match[str]) -> str:
    """ "7-11am" is 7am to 11am, "11 to 1pm" is 11am to 1pm."""
    start, end, half = match.groups()
    other = {"am": "pm", "pm": "am"}[half]
    return f"{start}{half if int(start) % 12 < int(end) % 12 else other} to {end}{half}"


def _twelve_hours(hour: int) -> str:
    return f"{hour % 12 or 12}{'am' if hour % 24 < 12 else 'pm'}"


def read_option(text: str, options: str | None) -> Reading:
    """Reads the committed option's letter out of a completion's final text.

    options: the text that lists the choices, one a line, "(A) ..."; without it any capital letter is a choice.
    """
    listed = parse_options(options)
    text = without_denied(_NOT_APPLICABLE.sub("", text))
    text = _BRACKETED.sub(lambda m: f"({m[1] or m[2]})", _DOTTED_TIME.sub(r"\1m", _without_list(text, listed)))
    if rest := after_correction(text):
        marked = _read_marked(rest, listed)
        if marked and marked.answer:
            return marked
        for sentence in corrected_sentences(rest):
            if letters := _read_alone((_clauses(sentence) or [""])[0], listed):
                return _single(letters, "corrected")
    if marked := _read_marked(text, listed):
        return marked
    bold = {letter for b in find_bold(text) for letter in _committed(b, listed)}
    if len(bold) == 1:
        return Reading(bold.pop(), "bold")
    if letters := _read_alone(plain(text).strip(), listed):
        return _single(letters, "bare")
    return _last_kept(text, listed)


def _without_list(text: str, listed: Mapping[str, str]) -> str:
    """The text without the lines that repeat the list of options, where it repeats all of it."""
    lines = text.splitlines()
    repeated = [i for i, line in enumerate(lines) if (m := _LISTED.match(line)) and listed.get(m[1]) == m[2]]
    is_whole = listed and {_LISTED.sub(r"\1", lines[i]) for i in repeated} >= set(listed)
    return "\n".join(line for i, line in enumerate(lines) if i not in repeated) if is_whole else text


def _read_marked(text: str, listed: Mapping[str, str]) -> Reading | None:
    """The option of the last box, else of the last "the answer is" that names one."""
    boxes = [letter for b in committed_boxes(text) for letter in _committed(detex(b), listed)]
    if boxes:
        return _flagged(_single(boxes, "boxed"), detex(committed_boxes(text)[-1]), listed)
    for piece in reversed(after_cues(text, _NOUNS)):
        if letters := _committed(piece, listed):
            return _flagged(_single(letters, "cue"), piece, listed)
    return None


def _read_alone(text: str, listed: Mapping[str, str]) -> list[str]:
    """Letters of a first line that names options and says nothing else; [] where it says more."""
    line = text.partition("\n")[0]
    letters = _whole(line, listed)
    return [*letters, *_letters(line, listed)] if letters and _is_alone(line, letters, listed) else []


def spelled_options(text: str, options: str | None) -> list[str]:
    """Returns the letters of the options whose own text stands in `text`, in the order in which they stand."""
    return _texts(text, parse_options(options))


def _flagged(reading: Reading, piece: str, listed: Mapping[str, str]) -> Reading:
    """The reading marked "_inconsistent" when the first line spells out another option than the letter's."""
    spelled = _texts((sentences(piece) or [""])[0], listed)
    if reading.answer is None or not spelled or reading.answer in spelled:
        return reading
    return Reading(reading.answer, f"{reading.rule}_inconsistent", piece)


def _single(letters: list[str], rule: str) -> Reading:
    return Reading(letters[0], rule) if len(set(letters)) == 1 else Reading(None, "hedged")


def _committed(piece: str, listed: Mapping[str, str]) -> list[str]:
    """Letters that a marked piece of text opens with, several when it hedges; else the option that it spells out."""
    piece = _BRACED.sub(r"(\1)", detex(piece))
    stated = [s for s in sentences(piece) if not s.endswith("?")]
    piece = piece if len(stated) == len(sentences(piece)) or not stated else "\n".join(stated)
    if letters := _whole(piece, listed):
        return letters
    first = (_clauses(piece) or [""])[0]
    if _REJECTION.match(first):
        return []
    mentioned = _letters(first, listed) or _texts(first, listed)
    return mentioned[:1] if _is_rejected(first) else list(dict.fromkeys(mentioned))


def _whole(text: str, listed: Mapping[str, str]) -> list[str]:
    """Letters when the text begins with one: "A", "(A) 6pm to 9pm", "A or B"; [] when it begins otherwise."""
    text = text.strip().lstrip("\"'“”-: ")
    match = re.match(r"[(\[]([A-Za-z])[)\]]", text) or _BARE.match(text)
    if not match or not _is_choice(match[1], listed):
        return []
    rest = text[match.end() :].lstrip(" .:,;)-")
    is_bracketed = not match[0][0].isalnum()
    if not is_bracketed and rest and not _follows_bare(text, match, rest, listed):
        return []
    joined = re.match(rf"{_JOINED}(?:[(\[]([A-Za-z])[)\]]|([A-Z])\b)", text[match.end() :].lstrip())
    other = (joined[1] or joined[2]).upper() if joined else None
    return [match[1].upper(), *([other] if other and _is_choice(other, listed) else [])]


def _follows_bare(text: str, match: re.Match[str], rest: str, listed: Mapping[str, str]) -> bool:
    """Whether a bare capital is a choice and no article: punctuation, a line break, its option or "or B" follows."""
    letter, after = match[1], text[match.end() : match.end() + 1]
    if not letter.isupper():
        return False
    spelled = _simplify(listed.get(letter, "\0"))
    is_joined = re.match(rf"{_JOINED}[(\[]?[A-Z]\b", rest) is not None
    return (
        after in ".:,;)\n"
        or _simplify(rest).startswith(spelled)
        or is_joined
        or re.match(r"\W|because|since|as\b", rest) is not None
    )


def _is_alone(line: str, letters: list[str], listed: Mapping[str, str]) -> bool:
    """Whether the line holds nothing but its letters and the text of the option that they name."""
    rest = _simplify(
        re.sub(r"[(\[]?\b[A-Za-z]\b[)\]]?|\b(?:option|choice|either|or|and)\b", " ", line, flags=re.I)
    ).strip("-:, ")
    return not rest or rest == _simplify(listed.get(letters[0], ""))


def _is_choice(letter: str, listed: Mapping[str, str]) -> bool:
    return letter.upper() in listed if listed else letter.isupper()


def _letters(text: str, listed: Mapping[str, str]) -> list[str]:
    found = (next(filter(None, m.groups())) for m in _MENTION.finditer(text))
    return [letter.upper() for letter in found if _is_choice(letter, listed)]


def _texts(text: str, listed: Mapping[str, str]) -> list[str]:
    """Letters of the options whose own text stands in `text`, in the order in which they stand."""
    simple = _simplify(text)
    spans = [
        (m.start(), letter)
        for letter, option in listed.items()
        for m in re.finditer(rf"(?<![\w:]){re.escape(_simplify(option))}(?!\w)", simple)
    ]
    return [letter for _, letter in sorted(spans)]


def _clauses(text: str) -> list[str]:
    told = [_REASON_FIRST.sub("", sentence) for sentence in sentences(text)]
    return [_REASON.sub("", clause) for sentence in told for clause in _CLAUSE.split(sentence)]


def _last_kept(text: str, listed: Mapping[str, str]) -> Reading:
    """The only option that is not rejected; else the one of the last clause that concludes; else a last one alone."""
    excepted = [letter.upper() for m in _EXCEPT.finditer(text) if _is_choice(letter := m["b"] or m["l"], listed)]
    if excepted:
        return Reading(excepted[-1], "excepted")
    for rule, find in (("letter", _letters), ("text", _texts)):
        mentioned = [(c, found) for c in _clauses(text) if (found := find(c, listed))]
        kept = [(c, set(found)) for c, found in mentioned if not _is_rejected(c)]
        if len({letter for _, found in kept for letter in found}) == 1:
            return Reading(next(iter(kept[0][1])), f"only_{rule}")
        concluding = [found for c, found in kept if _CONCLUDES.search(c)]
        ends = [k for k in kept[-1:] if k[0] == mentioned[-1][0]] + [k for k in kept[:1] if k[0] == mentioned[0][0]]
        alone = [found for c, found in ends if _stands_alone(c, found, listed)]
        if decided := (concluding[-1:] or alone[:1]):
            return _single(sorted(decided[0]), f"last_{rule}")
        if mentioned:
            return Reading(None, "undecided")
    return Reading(None, "none_found")


def _is_rejected(clause: str) -> bool:
    """Whether a clause speaks against what it mentions; "not taken" speaks for it."""
    return _REJECTION.search(_NOT_REJECTED.sub("free", clause)) is not None


def _stands_alone(clause: str, found: set[str], listed: Mapping[str, str]) -> bool:
    return len(found) == 1 and _is_alone(clause, sorted(found), listed)
