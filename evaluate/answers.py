"""Where in a completion the answer stands: text tools shared by the four readers.

completion -> final_text (after the last </think>) -> boxes | cues | bold spans | sentences -> a reader
                                                                       (integers, options, labels, spans)
Nothing here knows the reference: what is read never depends on what would be right.
"""

import itertools
import re
import unicodedata
from dataclasses import dataclass

# Characters that only look different: full-width and mathematical digits and letters, no-break spaces.
_FOLDED = ("<wide>", "<narrow>", "<font>", "<noBreak>")
_UNSEEN = dict.fromkeys(
    [0x00AD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), 0x2060, 0xFEFF]
)  # soft hyphen, zero width
_PUNCTUATION = str.maketrans("‘’‚′“”„‐‑‒–—−。", "''''\"\"\"------.")
_SPECIAL_TOKEN = re.compile(r"<[|｜][^|｜<>]{1,40}[|｜]>|</?s>|<(?:eos|bos|pad|end_of_turn)>|\[/?INST\]")
_MOST_WRAPPERS = 100  # a text with more of them is a loop; each costs a pass over it
_HEAD, _TAIL = 2_000, 10_000  # characters of a long text that are read: an answer stands at the beginning or the end
_OPENED, _CLOSED = re.compile(r"<answer>", re.I), re.compile(r"</answer>", re.I)
_STRAY_TAG = re.compile(r"</?(?:think|answer)>", re.I)
_BOX = re.compile(  # "\\x08oxed" and "boxed{" are what is left of \\boxed where a backslash was taken for an escape
    r"(?:\\(?:boxed|fbox|framebox(?:\s*\[[^\]]*\]){0,2})|\x08oxed|(?<![\\A-Za-z])boxed(?=\s*\{))"
    r"\s*(?:(\{)|(-?\d+|(?<=\s)[A-Za-z](?![A-Za-z])))"
)
_BOLD = re.compile(r"\*\*(?!\s)([^*\n]+?)\*\*|__(?!\s)([^_\n]+?)__|\\textbf\{([^{}\n]+)\}")
_WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|sc|up|md|normal)?|math(?:bf|rm|it|sf|tt|bb|cal|normal)|bm|boldsymbol|[mh]box|emph"
    r"|underline|operatorname|boxed|fbox)\s*\{"
)
_TEX_SPACE = re.compile(r"\\\\|\\[,;:!>]|\\ |~|\\(?:q?quad|(?:display|text|script)style|space)(?![A-Za-z])")
_TEX_INVISIBLE = re.compile(
    r"\\[hv]?phantom\{[^{}]*\}|\\(?:text)?color\s*\{[^{}]*\}|\\(?:left|right|[bB]igg?[lr]?|tiny|small|normalsize"
    r"|[lL]arge|LARGE|[hH]uge|bf|rm|it|sf|tt|bfseries|mathstrut|limits|checkmark|blacksquare)(?![A-Za-z])|[_^]\{\s*\}"
)
_DELIMITER = re.compile(r"(?<!\\)\$+|\\[()\[\]]")
_SENTENCE = re.compile(r"(?<=[.!?])[\"')*\]]*\s+(?=[^a-z\s])|\n+")
_ADJECTIVE = r"(?:(?:final|correct|right|best|only|my|our|the)\s+){0,4}"
_VERB = (
    r"(?:is|are|was|be|would be|must be|should be|will be|equals?|becomes|comes (?:out )?to(?: be)?"
    r"|(?:turns|works) out to(?: be)?)"
)
_ELSEWHERE = (  # a model that was trained on several languages may end in another one
    r"答案\s*(?:[是为]\s*:?|:)|\b(?:r[ée]ponse|respuesta|antwort|risposta|resposta)\b(?:\s+\w+)?"
    r"\s*(?::|\b(?:est|es|ist|è|é)\b\s*:?)"
)
_MARKDOWN = re.compile(
    r"\*{2,}|_{2,}|`+(?:[a-z]+\n)?|(?<!\S)\*(?=\S)|(?<=\S)\*(?![\w(\\$])|^[ \t]*\*[ \t]+|^\s*(?:#+|>)\s*", re.M
)
_UNDERLINED = re.compile(r"(?<![\w\\_])_([^_\n]{1,60})_(?![\w_])")
_HEADING = re.compile(r"^[\W_]{0,40}(?:the\s+)?(?:final\s+|correct\s+)?answer[\W_]{0,40}$", re.I | re.M)
_BRACE = re.compile(r"\\.|[{}]", re.S)


_FINAL_ANSWER = re.compile(
    r"^[\W_]{0,40}(?:the\s+)?final answer\b|(?:^|[.!?]\s+)(?:so,?\s+)?(?:the\s+)?(?:final|correct(?:ed)?"
    r"|right) answer\s*"
    r"(?:is\b|:)",
    re.I | re.M,
)
_PLACEHOLDER = re.compile(r"^\W*(?:(?:(?:your|my|the|final)\s+)*answer(?:\s+here)?|\\[lc]?dots)?\W*$", re.I)
_BETWEEN_CANDIDATES = re.compile(r"^[\s$.,*]*(?:or|and|,|/)[\s$,*]*(?:maybe|possibly|perhaps|also)?[\s$,*]*$", re.I)
_REJECTED_BEFORE = re.compile(
    r"(?:\b(?:not|cannot|rather than|instead of|as opposed to|rul(?:e|ed|es|ing) out"
    r"|(?:first|previously|initially|originally|earlier),? (?:i )?(?:claimed|thought|said|wrote|got|had|found"
    r"|gave))|n't)"
    r"(?: (?:be|it was|it is))?\s*[\s$*(\\]*$",
    re.I,
)
_REJECTED_AFTER = re.compile(
    r"^[\s$*)\\\]]*(?:\?|,?\s*(?:(?:but|and|which|that|this|it)\s+)*"
    r"(?:(?:is|was|would be|seems|looks|turn(?:s|ed) out(?: to be)?)\s+(?:\w+ly\s+)?"
    r"(?:wrong|incorrect|invalid|impossible|my (?:first|initial|earlier|original)|not\b(?! (?:only|just)))"
    r"|(?:would )?(?:violates?|contradicts?|fails?)\b|(?:does|can|would)(?: not|n't)\b))",
    re.I,
)
_NAMED_AFTER = re.compile(r"^[\s$*)\\\]]*is (?:therefore )?(?:the|our|my) (?:final |correct |right )*answer\b", re.I)
_WOULD_BE = re.compile(r"\bwould (?:be|have been|become|give|equal)\s*:?[\s$*(\\]*$", re.I)
_COUNTERFACTUAL = re.compile(
    r"\bif\b(?! i\b)[^.\n]{0,80}?\b(?:\w+ed|was|were|had|did)(?:n't)?\b|(?:^|[,(:])\W*(?:had|were)\b", re.I
)
_UNMEANT = re.compile(r"\b(?:wrong|incorrect|mistaken|naive|tempting|first|initial|earlier|previous)\s+$", re.I)
_OTHER_CASE = re.compile(
    r"\b(?:to|for|of|in)\s+(?:an?|the|any)\s+(?:smaller|simpler|easier|different|other|similar|analogous|related)\b",
    re.I,
)
_PIECE = r"(?:[^.,;!?()\n]|[.,](?=\d)|\.(?=\s?[a-z]))"  # of a clause
_NOT_BUT = re.compile(  # "isn't X; it's Y", "not X but Y"
    r"(?P<is>\b(?:is|was|are|were)|\w's|^|(?<=[.!?:]\s))(?:n't|(?:^|\s?\b)not)\s+(?!(?:only|just|merely|simply)\b)"
    rf"{_PIECE}{{1,60}}?(?:(?:,{_PIECE}{{1,40}})?,?\s+but\s+(?:rather\s+)?(?:(?:it|that)(?:'s| is| was)\s+)?"
    r"|[.,;]\s+(?:(?:but|rather,?|instead,?)\s+)?(?:it|that)(?:'s| is| was)\s+)(?!(?:not|also|never)\b)",
    re.I | re.M,
)
_BUT_NOT = re.compile(rf",\s+(?:and\s+)?not\s+{_PIECE}{{1,40}}(?=[.;!?\n]|\Z)|\s+\(not\s[^()\n]{{1,40}}\)", re.I)
_CORRECTION = re.compile(
    r"\b(?:wait|actually|correction|sorry|oops|scratch that|my mistake|on (?:second thoughts?|reflection)"
    r"|let me correct|hold on|edit(?=:)|let me re-?(?:check|compute|calculate|count|consider|do))\b"
    r"|(?:^|[.!?]\s+)no\b(?=[,.: ])",
    re.I | re.M,
)
_CORRECTING = re.compile(
    r"^(?:(?:no|so|then|therefore|thus|hence|but|hmm|i (?:think|meant)|that(?:'s| is| was) (?:\w+ )?(?:wrong"
    r"|incorrect|not right|a mistake)"
    r"|i (?:made|was|got|mis)[^.\n]{0,40}[.:]|(?:it|this|that)(?:'s| is| was| should be| must be| has to be)|should be"
    r"|make (?:that|it)|the (?:\w+ )?(?:answer|one|option|label) (?:is|should be))\b[\s,.:;-]*)+",
    re.I,
)


@dataclass(frozen=True)
class Reading:
    """What a reader found: the answer, or None with the reason, and the id of the rule that decided.

    quote: the piece of text that it was read from, where another opinion on it may be wanted.
    """

    answer: str | None
    rule: str
    quote: str | None = None


@dataclass(frozen=True)
class Span:
    """A piece of text and where it stands."""

    text: str
    start: int
    end: int


def fold(text: str) -> str:
    """Replaces characters that only look different from ASCII ones: full-width digits, curly quotes, dashes."""
    if text.isascii():
        return text
    text = text.translate(_UNSEEN)
    folded = (unicodedata.normalize("NFKC", c) if unicodedata.decomposition(c).startswith(_FOLDED) else c for c in text)
    return unicodedata.normalize("NFC", "".join(folded)).translate(_PUNCTUATION)


def thinking_of(completion: str) -> str | None:
    """Returns the text up to the last </think>, all of it when a thought was opened and never closed, else None."""
    if "</think>" in completion:
        return completion.rpartition("</think>")[0]
    return completion if "<think>" in completion else None


def final_text(completion: str) -> str:
    """Returns what was said after the last </think>; all of it when no thought was closed.

    A pair of <answer> tags narrows it to what stands between them; a thought opened again and never
    closed is cut off.
    """
    text = fold(_SPECIAL_TOKEN.sub("", completion.rpartition("</think>")[2]))
    before, opening, _ = text.partition("<think>")
    text = before if opening and before.strip() else text
    inside = [t for piece in _CLOSED.split(text)[:-1] for t in _OPENED.split(piece, maxsplit=1)[1:]]
    tagged = [t for t in inside if t.strip()]
    return _STRAY_TAG.sub("", tagged[-1] if tagged else text).strip()


def both_ends(text: str) -> str:
    """Returns what is read of a text: all of it, or its first 2,000 and last 10,000 characters, however long it is."""
    return text if len(text) <= _HEAD + _TAIL else f"{text[:_HEAD]}\n\n{text[-_TAIL:]}"


def find_boxes(text: str) -> list[Span]:
    r"""Finds \boxed{...}, \fbox{...}, \framebox{...} and \boxed 33, outermost only, braces balanced."""
    boxes: list[Span] = []
    position, closing = 0, _closing_braces(text)
    while match := _BOX.search(text, position):
        position = match.end()
        if match[1]:
            end = closing.get(match.end(), _line_end(text, match.end()))
            boxes.append(Span(text[match.end() : end], match.start(), position := min(end + 1, len(text))))
        else:
            boxes.append(Span(match[2], match.start(), position))
    return boxes


def listed_boxes(text: str) -> str:
    r"""Returns the list that boxes joined by "and" or commas are, "1,-2" of "\boxed{1} and \boxed{-2}"; else ""."""
    meant = _committed(text, _PLACEHOLDER)
    gaps = [text[one.end : other.start] for one, other in itertools.pairwise(meant)]
    return "" if any(re.search(r"\bor\b|/", gap) for gap in gaps) else ",".join(box.text for box in meant)


def committed_boxes(text: str, placeholder: re.Pattern[str] = _PLACEHOLDER) -> list[str]:
    r"""Returns the content of the last box that is meant: one, none, or several that "or" or a comma joins.

    Left aside are boxes that echo the prompt ("\boxed{your answer}"), that are taken back before ("not \boxed{4}")
    or after ("\boxed{4} is wrong"), and that are asked about ("\boxed{4}?"); where others are left, also those of
    another question ("if order mattered, it would be \boxed{4}").
    """
    return [box.text for box in _committed(text, placeholder)]


def _committed(text: str, placeholder: re.Pattern[str]) -> list[Span]:
    kept = [
        box
        for box in find_boxes(text)
        if not placeholder.match(detex(box.text))
        and not is_rejected_before(text, box.start)
        and not _REJECTED_AFTER.match(text[box.end :])
    ]
    kept = [b for b in kept if not _is_hypothetical(text, b.start)] or kept
    kept = [b for b in kept if _NAMED_AFTER.match(text[b.end : b.end + 80])] or kept
    meant = kept[-1:]
    for box in reversed(kept[:-1]):
        if not _BETWEEN_CANDIDATES.match(text[box.end : meant[0].start]):
            break
        meant.insert(0, box)
    return meant


def _is_hypothetical(text: str, position: int) -> bool:
    """Whether the answer at a position is one to another question: "if order mattered, it would be 4"."""
    before, after = text[max(0, position - 200) : position], text[position : position + 100]
    sentence = re.split(r"[.;\n]", before)[-1] + re.split(r"[.;\n]", after)[0]
    return bool(_WOULD_BE.search(before) and _COUNTERFACTUAL.search(sentence))


def is_rejected_before(text: str, position: int) -> bool:
    """Whether what stands at a position is taken back by the words before it: "not 4", "it can't be 4"."""
    return bool(_REJECTED_BEFORE.search(text[max(0, position - 40) : position]))


def without_denied(text: str) -> str:
    """The text without what it denies beside what it says: "isn't X; it's Y", "not X but Y", "Y, not X" are Y."""
    return _BUT_NOT.sub("", _NOT_BUT.sub(r"\g<is> ", text))


def after_correction(text: str) -> str:
    """Returns what a text says once it has taken itself back ("Wait, that's wrong. It's 33."): "33."; "" if never.

    A final answer that is named after the last box takes the box back.
    """
    starts = [m.end() for m in _CORRECTION.finditer(text)]
    boxed = [box.end for box in find_boxes(text)[-1:]]
    starts += [m.start() for end in boxed for m in _FINAL_ANSWER.finditer(text, end)]
    return _CORRECTING.sub("", plain(text[max(starts) :]).strip(" ,.:;!-\n")) if starts else ""


def corrected_sentences(rest: str) -> list[str]:
    """The first and the last sentence after a correction, without what leads to the answer: "so it must be"."""
    said = sentences(rest)
    return [_CORRECTING.sub("", s) for s in dict.fromkeys((*said[:1], *said[-1:]))]


def _closing_brace(text: str, start: int) -> int:
    """Position of the brace that closes the one before `start`; the end of the line when none does."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.start()
    return _line_end(text, start)


def _closing_braces(text: str) -> dict[int, int]:
    """Where the brace that ends before a position is closed, for all that are."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.end())
        elif brace[0] == "}" and opened:
            closing[opened.pop()] = brace.start()
    return closing


def _line_end(text: str, start: int) -> int:
    line_end = text.find("\n", start)
    return len(text) if line_end < 0 else line_end


def detex(text: str) -> str:
    r"""Takes the typesetting off: \text{...} wrappers, nested boxes, thin spaces, math delimiters, escapes."""
    text = _TEX_INVISIBLE.sub("", text)
    for _ in range(_MOST_WRAPPERS):
        if (match := _WRAPPER.search(text)) is None:
            break
        end = _closing_brace(text, match.end())
        text = f"{text[: match.start()]} {text[match.end() : end]} {text[end + 1 :]}"
    text = _TEX_SPACE.sub(" ", _DELIMITER.sub("", text.replace("{,}", ",").replace(",\\!", ",")))
    text = re.sub(r"\\([%$&#_{}])", r"\1", text)
    return re.sub(r"[*_`]{2,}|`", "", re.sub(r"\s+", " ", text)).strip()


def find_bold(text: str) -> list[str]:
    r"""Contents of **bold**, __bold__ and \textbf{bold} pieces, in order."""
    return [next(g for g in m.groups() if g is not None).strip() for m in _BOLD.finditer(text)]


def plain(text: str) -> str:
    """Takes Markdown emphasis and math delimiters off, so that a marker and its answer stand side by side."""
    text = _MARKDOWN.sub("", _UNDERLINED.sub(r"\1", text))
    return re.sub(r"[ \t]+", " ", _DELIMITER.sub("", text))


def after_cues(text: str, nouns: str = "answer") -> list[str]:
    """Returns what follows each "the answer is", "Answer:" (or another of `nouns`, a regex), in order.

    Each piece starts at the first word after the marker and ends before the next marker or empty line. Left aside are
    wrong answers ("a common wrong answer is"), those to a simpler case and to a question that is only supposed.
    """
    cue = re.compile(
        rf"(?:\b{_ADJECTIVE}(?:{nouns}|final (?:result|value))[\"']?(?:\s+(?:to|for|of|in)\s"
        rf"(?:\"[^\"\n]{{1,200}}\"|[^.:\n]{{1,120}}?))?\s*"
        rf"(?:(?:\bis|{_VERB}\b)(?!n't)\s*:?|'s\b|:|=|→|⇒|-+>?)|\bans\.?\s*(?:[:=]|(?<=\.)(?=\s))"
        rf"|{_ELSEWHERE})\s*(?![\s:])",
        re.I,
    )
    text = plain(_HEADING.sub("Answer:", text))
    found = list(cue.finditer(text))
    ends = [*(m.start() for m in found), len(text)][1:]
    pieces = [
        re.split(r"\n\s*\n", text[m.end() : end].lstrip())[0]
        for m, end in zip(found, ends, strict=True)
        if not _UNMEANT.search(text[max(0, m.start() - 20) : m.start()])
        and not _OTHER_CASE.search(m[0])
        and not _is_hypothetical(text, m.end())
    ]
    return [p.strip() for p in pieces if p.strip()]


def sentences(text: str) -> list[str]:
    """Splits plain text at sentence ends and line breaks; empty pieces are dropped."""
    return [s.strip() for s in _SENTENCE.split(plain(text)) if s and s.strip(" \n-*_#.")]
