"""What kinds of answers there are: how each is read, when it is right, and what its reference must be."""

import re
from enum import StrEnum
from typing import assert_never

from evaluate.answers import Reading
from evaluate.expressions import is_same_expression, read_expression
from evaluate.integers import parse_integer, read_integer
from evaluate.labels import LABELS, canonical_label, read_label
from evaluate.options import option_letter, parse_options, read_option
from evaluate.spans import exact_match, read_span

_ANNOTATION = re.compile(r"<<[^<>\n]*>>")  # GSM8K's calculator notes, which models repeat


class AnswerType(StrEnum):
    """What kind of answer a benchmark asks for; each has its own reader."""

    INTEGER = "integer"
    NUMBER = "number"
    EXPRESSION = "expression"
    OPTION = "option"
    LABEL = "label"
    SPAN = "span"


SYMBOLIC = frozenset({AnswerType.INTEGER, AnswerType.NUMBER, AnswerType.EXPRESSION})  # may ask math-verify: slow


def read(answer_type: AnswerType, text: str, options: str | None) -> Reading:
    """Reads the committed answer out of a completion's final text."""
    match answer_type:
        case AnswerType.INTEGER:
            return read_integer(text)
        case AnswerType.NUMBER:
            reading = read_integer(_ANNOTATION.sub("", text))
            is_expression = reading.rule == "boxed_not_integer"
            return Reading(reading.quote, "boxed_expression") if is_expression else reading
        case AnswerType.EXPRESSION:
            return read_expression(text)
        case AnswerType.OPTION:
            return read_option(text, options)
        case AnswerType.LABEL:
            return read_label(text)
        case AnswerType.SPAN:
            return read_span(text)
        case _:
            assert_never(answer_type)


def is_right(answer_type: AnswerType, answer: str, reference: str, options: str | None) -> bool:
    """Whether an answer, as `read` returned it, is what the reference asks for."""
    match answer_type:
        case AnswerType.INTEGER:
            return answer == parse_integer(reference)
        case AnswerType.NUMBER:
            value = parse_integer(answer)
            return is_same_expression(answer, reference) if value is None else value == parse_integer(reference)
        case AnswerType.EXPRESSION:
            return is_same_expression(answer, reference)
        case AnswerType.OPTION:
            return answer == option_letter(reference, parse_options(options))
        case AnswerType.LABEL:
            return answer == canonical_label(reference)
        case AnswerType.SPAN:
            return exact_match(answer, reference)
        case _:
            assert_never(answer_type)


def invalid_reference(answer_type: AnswerType, reference: str, options: str | None = None) -> str | None:
    """Returns what a reference must be when it cannot be one, else None; checked before anything is asked."""
    match answer_type:
        case AnswerType.INTEGER:
            value = parse_integer(reference)
            return None if value is not None and "." not in value else "an integer"
        case AnswerType.NUMBER:
            return None if parse_integer(reference) is not None else "a number"
        case AnswerType.OPTION:
            listed = parse_options(options)
            is_option = option_letter(reference, listed) is not None
            return None if is_option else f"one of the options {', '.join(listed) or '(A), (B), ...'}"
        case AnswerType.LABEL:
            return None if canonical_label(reference) else f"one of {', '.join(LABELS)}"
        case AnswerType.EXPRESSION | AnswerType.SPAN:
            return None if reference.strip() else "a text that is not empty"
        case _:
            assert_never(answer_type)
