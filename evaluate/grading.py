"""From one completion to one verdict, by answer type.

finish_reason -> truncated | error      (what the server says; a tag in the text never decides)
final text    -> a reader -> Reading    (answers, integers, expressions, options, labels, spans)
Reading       -> correct | incorrect | no_answer, with the id of the rule that read it
beside it     -> the lenient verdict    (lenient)

Truncated, missing and unreadable completions are no verdicts about an answer and say so.
"""

from collections.abc import Sequence
from dataclasses import replace

from evaluate.answer_types import AnswerType, invalid_reference, read
from evaluate.answers import Reading, both_ends, final_text, thinking_of
from evaluate.lenient import Accepted, lenient_rule, symbolic_opinion
from evaluate.schema import Grade, Outcome
from evaluate.spans import best_f1

__all__ = ["GRADER_VERSION", "AnswerType", "grade", "invalid_reference"]

GRADER_VERSION = "4"  # raised whenever a stored answer could be graded differently

_TRUNCATED = frozenset({"length", "max_tokens", "max_length", "model_length"})
_BROKEN_OFF = frozenset({"abort", "aborted", "cancelled", "error", "content_filter"})


def grade(
    answer_type: AnswerType,
    completion: str | None,
    finish_reason: str | None,
    reference: str | Sequence[str],
    options: str | None = None,
    conclusion: str | None = None,
) -> Grade:
    """Grades one completion against the accepted reference or references.

    completion: the raw text, thinking included; None when the server returned none.
    options: the text that lists the choices, for AnswerType.OPTION.
    conclusion: the sentence that is judged, for the lenient verdict of AnswerType.LABEL.
    The F1s are given for AnswerType.SPAN alone: 0 where nothing was answered, None where the request failed.
    A rule that ends in "_disputed" read an integer whose box math-verify would have graded otherwise.
    """
    is_span = answer_type is AnswerType.SPAN
    nothing = 0.0 if is_span else None
    reason = (finish_reason or "stop").lower()
    if reason in _TRUNCATED:
        return Grade(Outcome.TRUNCATED, None, "finish_length", nothing, nothing)
    if completion is None or reason in _BROKEN_OFF:
        return Grade(Outcome.ERROR, None, "null_completion" if completion is None else f"finish_{reason}")
    references = (reference,) if isinstance(reference, str) else tuple(reference)
    accepted = Accepted(answer_type, references, options, conclusion)
    tail = final_text(completion)
    text = both_ends(tail)
    reading = read(answer_type, text, options) if text else Reading(None, "empty")
    opinion = symbolic_opinion(accepted, reading)
    outcome = _outcome(accepted, reading)
    rule = reading.rule
    if opinion is not None and opinion is not (outcome is Outcome.CORRECT):
        rule += "_disputed"
    verdict = Grade(outcome, reading.answer, rule)
    if is_span:
        verdict = replace(verdict, f1=best_f1(reading.answer, references), tail_f1=best_f1(tail, references))
    if outcome is Outcome.CORRECT:
        return verdict
    more = lenient_rule(accepted, reading, text, thinking_of(completion), opinion)
    return replace(verdict, lenient=Outcome.CORRECT, lenient_rule=more) if more else verdict


def _outcome(accepted: Accepted, reading: Reading) -> Outcome:
    if reading.answer is None:
        return Outcome.NO_ANSWER
    return Outcome.CORRECT if accepted.holds(reading.answer) else Outcome.INCORRECT
