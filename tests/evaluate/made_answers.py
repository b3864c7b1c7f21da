"""Answers made by hand, for the tests of statistics."""

from collections.abc import Sequence
from dataclasses import replace

from evaluate.schema import Answer, Outcome

ANSWER = Answer(
    benchmark="logic",
    problem_id="0",
    sample=0,
    completion="<think>abc</think>True",
    reasoning=None,
    finish_reason="stop",
    outcome=Outcome.CORRECT,
    answer="True",
    rule="bare",
    completion_tokens=10,
    think_tokens=None,
    prompt_tokens=3,
    error=None,
    seed=0,
    latency_s=0.1,
)


def answers_of(scores: Sequence[float | None], sample: int = 0) -> list[Answer]:
    """One answer a problem: 1 correct, 0 incorrect, None an error."""
    outcome = {1: Outcome.CORRECT, 0: Outcome.INCORRECT, None: Outcome.ERROR}
    return [replace(ANSWER, problem_id=str(i), sample=sample, outcome=outcome[s]) for i, s in enumerate(scores)]
