"""From one completion to one verdict, by answer type.

finish_reason -> truncated | error      (what the server says; a tag in the text never decides)
final text    -> a reader -> Reading    (answers, integers, options, labels, spans)
Reading       -> correct | incorrect | no_answer, with the id of the rule that read it

Truncated, missing and unreadable completions are no verdicts about an answer and say so.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import assert_never

from evaluate.answers import Reading, final_text
from evaluate.integers import parse_integer, read_integer
from evaluate.labels import LABELS, canonical_label, read_label
from evaluate.options import option_letter, parse_options, read_option
from evaluate.schema import Grade, Outcome
from evaluate.spans import exact_match, f1_score, read_span

GRADER_VERSION = "1"  # raised whenever a stored answer could be graded differently

_TRUNCATED = frozenset({"length", "max_tokens", "max_length"})
_BROKEN_OFF = frozenset({"abort", "aborted", "cancelled", "error", "content_filter"})


class AnswerType(StrEnum):
    """What kind of answer a benchmark asks for; each has its own reader."""

    INTEGER = "integer"
    OPTION = "option"
    LABEL = "label"
    SPAN = "span"


def grade(
    answer_type: AnswerType,
    completion: str | None,
    finish_reason: str | None,
    reference: str | tuple[str, ...],
    options: str | None = None,
) -> Grade:
    """Grades one completion against the accepted reference or references.

    completion: the raw text, thinking included; None when the server returned none.
    options: the text that lists the choices, for AnswerType.OPTION.
    F1 is given for AnswerType.SPAN alone: 0 where nothing was answered, None where the request failed.
    """
    is_span = answer_type is AnswerType.SPAN
    reason = (finish_reason or "stop").lower()
    if reason in _TRUNCATED:
        return Grade(Outcome.TRUNCATED, None, "finish_length", 0.0 if is_span else None)
    if completion is None or reason in _BROKEN_OFF:
        return Grade(Outcome.ERROR, None, "null_completion" if completion is None else f"finish_{reason}")
    text = final_text(completion)
    reading = _read(answer_type, text, options) if text else Reading(None, "empty")
    if reading.answer is None:
        return Grade(Outcome.NO_ANSWER, None, reading.rule, 0.0 if is_span else None)
    accepted = (reference,) if isinstance(reference, str) else reference
    is_correct = any(_equals(answer_type, options)(reading.answer, r) for r in accepted)
    f1 = max(f1_score(reading.answer, r) for r in accepted) if is_span else None
    return Grade(Outcome.CORRECT if is_correct else Outcome.INCORRECT, reading.answer, reading.rule, f1)


def invalid_reference(answer_type: AnswerType, reference: str, options: str | None = None) -> str | None:
    """Returns what a reference must be when it cannot be one, else None; checked before anything is asked."""
    match answer_type:
        case AnswerType.INTEGER:
            value = parse_integer(reference)
            return None if value is not None and "." not in value else "an integer"
        case AnswerType.OPTION:
            listed = parse_options(options)
            return (
                None
                if option_letter(reference, listed)
                else f"one of the options {', '.join(listed) or '(A), (B), ...'}"
            )
        case AnswerType.LABEL:
            return None if canonical_label(reference) else f"one of {', '.join(LABELS)}"
        case AnswerType.SPAN:
            return None if reference.strip() else "a text that is not empty"
        case _:
            assert_never(answer_type)


def _read(answer_type: AnswerType, text: str, options: str | None) -> Reading:
    match answer_type:
        case AnswerType.INTEGER:
            return read_integer(text)
        case AnswerType.OPTION:
            return read_option(text, options)
        case AnswerType.LABEL:
            return read_label(text)
        case AnswerType.SPAN:
            return read_span(text)
        case _:
            assert_never(answer_type)


def _equals(answer_type: AnswerType, options: str | None) -> Callable[[str, str], bool]:
    match answer_type:
        case AnswerType.INTEGER:
            return lambda answer, reference: answer == parse_integer(reference)
        case AnswerType.OPTION:
            listed = parse_options(options)
            return lambda answer, reference: answer == option_letter(reference, listed)
        case AnswerType.LABEL:
            return lambda answer, reference: answer == canonical_label(reference)
        case AnswerType.SPAN:
            return exact_match
        case _:
            assert_never(answer_type)
