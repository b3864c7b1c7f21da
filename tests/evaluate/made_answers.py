"""Answers made by hand, for the tests of statistics."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

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


SPEC: dict[str, Any] = {
    "model": "base",
    "prompting": "chat",
    "sampling": {"max_tokens": 100, "temperature": 0.6, "top_p": 0.95, "seed": 0, "num_completions": 1},
    "settings": {"weights": "w1", "engine_kwargs": {"dtype": "bfloat16"}},
    "benchmarks": {"logic": {"grader": "1", "fingerprint": "f", "num_problems": 20, "source": "s", "license": "l"}},
}


def write_folder(folder: Path, answers: Sequence[Answer], spec: dict[str, Any] = SPEC) -> Path:
    """Writes answers and spec as a run does."""
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps(spec))
    (folder / "answers.jsonl").write_text("".join(json.dumps(asdict(a)) + "\n" for a in answers))
    return folder
