"""Where in a completion the answer stands: text tools shared by the four readers.

completion -> final_text (after the last </think>) -> boxes | cues | bold spans | sentences -> a reader
                                                                       (integers, options, labels, spans)
Nothing here knows the reference: what is read never depends on what would be right.
"""

import re
import unicodedata
from dataclasses import dataclass

# Characters that only look different: full-width and mathematical digits and letters, no-break spaces.
_FOLDED = ("<wide>", "<narrow>", "<font>", "<noBreak>")
_PUNCTUATION = str.maketrans("‘’‚′“”„‐‑‒–—−", "''''\"\"\"------")
_SPECIAL_TOKEN = re.compile(r"<[|｜][^|｜<>]{1,40}[|｜]>")
_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.S | re.I)
_STRAY_TAG = re.compile(r"</?(?:think|answer)>", re.I)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox(?:\s*\[[^\]]*\]){0,2})\s*(?:(\{)|(-?\d+|(?<=\s)[A-Za-z](?![A-Za-z])))")
_BOLD = re.compile(r"\*\*(?!\s)([^*\n]+?)\*\*|__(?!\s)([^_\n]+?)__|\\textbf\{([^{}\n]+)\}")
_WRAPPER = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:bf|rm|it|sf|tt)|mbox|operatorname|boxed|fbox)\s*\{")
_TEX_SPACE = re.compile(r"\\[,;:!>]|\\ |~|\\(?:q?quad|displaystyle)(?![A-Za-z])")
_TEX_INVISIBLE = re.compile(r"\\[hv]?phantom\{[^{}]*\}|\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])|\\\\")
_DELIMITER = re.compile(r"(?<!\\)\$+|\\[()\[\]]")
_SENTENCE = re.compile(r"(?<=[.!?])[\"')*\]]*\s+(?=[^a-z\s])|\n+")
_ADJECTIVE = r"(?:(?:final|correct|right|best|only|my|our|the)\s+)*"
_VERB = r"(?:is|are|was|be|would be|must be|should be|will be)"
_HEADING = re.compile(r"^[\W_]*(?:the\s+)?(?:final\s+|correct\s+)?answer[\W_]*$", re.I | re.M)


@dataclass(frozen=True)
class Reading:
    """What a reader found: the answer, or None with the reason, and the id of the rule that decided."""

    answer: str | None
    rule: str


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
    before, opened, _ = text.partition("<think>")
    text = before if opened and before.strip() else text
    tagged = [t for t in _ANSWER_TAG.findall(text) if t.strip()]
    return _STRAY_TAG.sub("", tagged[-1] if tagged else text).strip()


def find_boxes(text: str) -> list[Span]:
    r"""Finds \boxed{...}, \fbox{...}, \framebox{...} and \boxed 33, outermost only, braces balanced."""
    boxes: list[Span] = []
    position = 0
    while match := _BOX.search(text, position):
        position = match.end()
        if match[1]:
            end = _closing_brace(text, match.end())
            boxes.append(Span(text[match.end() : end], match.start(), position := min(end + 1, len(text))))
        else:
            boxes.append(Span(match[2], match.start(), position))
    return boxes


def _closing_brace(text: str, start: int) -> int:
    """Position of the brace that closes the one before `start`; the end of the line when none does."""
    depth, i = 1, start
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] in "{}":
            depth += 1 if text[i] == "{" else -1
            if depth == 0:
                return i
        i += 1
    line_end = text.find("\n", start)
    return len(text) if line_end < 0 else line_end


def detex(text: str) -> str:
    r"""Takes the typesetting off: \text{...} wrappers, nested boxes, thin spaces, math delimiters, escapes."""
    text = _TEX_INVISIBLE.sub("", text)
    while match := _WRAPPER.search(text):
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
    text = re.sub(r"\*+|__+|`|^\s*(?:#+|>)\s*", "", text, flags=re.M)
    return re.sub(r"[ \t]+", " ", _DELIMITER.sub("", text))


def after_cues(text: str, nouns: str = "answer") -> list[str]:
    """Returns what follows each "the answer is", "Answer:" (or another of `nouns`, a regex), in order.

    Each piece starts at the first word after the marker and ends before the next marker or empty line.
    """
    cue = re.compile(
        rf"\b{_ADJECTIVE}(?:{nouns})[\"']?(?:\s+(?:to|for|of|in)\s[^.:\n]{{1,120}}?)?\s*"
        rf"(?:(?:\bis|{_VERB}\b)(?!n't)\s*:?|:|=|-+>?)\s*(?![\s:])",
        re.I,
    )
    text = plain(_HEADING.sub("Answer:", text))
    starts = [m.end() for m in cue.finditer(text)]
    ends = [*(m.start() for m in cue.finditer(text)), len(text)][1:]
    pieces = [re.split(r"\n\s*\n", text[s:e].lstrip())[0] for s, e in zip(starts, ends, strict=True)]
    return [p.strip() for p in pieces if p.strip()]


def sentences(text: str) -> list[str]:
    """Splits plain text at sentence ends and line breaks; empty pieces are dropped."""
    return [s.strip() for s in _SENTENCE.split(plain(text)) if s and s.strip(" \n-*_#.")]
