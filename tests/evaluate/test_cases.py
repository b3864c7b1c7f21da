"""Hand-made completions and what a careful reader takes from them, one JSON object a line in cases/*.jsonl."""

import json
from pathlib import Path
from typing import Any

import pytest

from evaluate.benchmarks import grade_completion
from evaluate.schema import Outcome
from evaluate.spans import normalize
from evaluate.symbolic import map_in_pool

CASES = Path(__file__).with_name("cases")
OPTIONS = "Options:\n(A) 6pm to 9pm\n(B) 7am to 11am\n(C) 1pm to 2pm\n(D) 2pm to 6pm"
ASKED = {  # cases -> a benchmark of that answer type, and a reference that it can have
    "integers": ("aime", "33"),
    "labels": ("folio", "True"),
    "options": ("temporal_sequences", "(A)"),
    "spans": ("musique", "Apple Corps"),
}


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CASES / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ASKED)
def test_reads_what_a_careful_reader_takes(name: str) -> None:
    benchmark, reference = ASKED[name]
    tidy = normalize if name == "spans" else str
    wrong = []
    for case in read(name):
        verdict = grade_completion(benchmark, case["completion"], "stop", reference, OPTIONS)
        found, wanted = (None if text is None else tidy(text) for text in (verdict.answer, case["answer"]))
        if found != wanted:
            wrong.append((case["completion"], case["answer"], verdict))
    assert wrong == []


@pytest.mark.parametrize(("name", "benchmark"), [("numbers", "gsm8k"), ("expressions", "math_500")])
def test_values_are_compared(name: str, benchmark: str) -> None:
    cases = read(name)
    verdicts = map_in_pool(lambda c: grade_completion(benchmark, c["completion"], "stop", c["reference"]), cases)
    pairs = zip(cases, verdicts, strict=True)
    assert [(c, v) for c, v in pairs if (v.outcome is Outcome.CORRECT) is not c["is_correct"]] == []
