import json
from pathlib import Path

import pytest

from evaluate.benchmarks import load_benchmark
from evaluate.prompting import make_prompt
from evaluate.schema import Prompting

ROWS = {
    "aime": {"problem": "Find {x}.", "answer": 7},
    "folio": {"premises": ["All A are B.", "c is A."], "conclusion": "c is B.", "label": "True"},
    "temporal_sequences": {"input": "When?\nOptions:\n(A) 1pm to 2pm\n(B) 3pm to 4pm", "target": "(A)"},
    "musique": {"id": "2hop__1", "question": "Who?", "answer": "A", "answer_aliases": []},
}
PAPER = {
    "aime": "Find {x}.\n<think>\n",
    "folio": "*******\nPremise: All A are B.\nc is A.\n*******\n\n*******\nConclusion: c is B.\n*******<think>\n",
    "temporal_sequences": "correct answer.\nWhen?\nOptions:\n(A) 1pm to 2pm\n(B) 3pm to 4pm\n<think>\n",
    "musique": "Who? Final answer of this question should be in as fewer number of words as possible.\n<think>\n",
}


@pytest.mark.parametrize("name", ROWS)
def test_paper_prompts_hold_the_text_without_our_instruction(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROWS[name]))
    problem = load_benchmark(name, file=path).problems[0]
    assert make_prompt(Prompting.PAPER, name, problem).endswith(PAPER[name])
    assert make_prompt(Prompting.CHAT, name, problem) == make_prompt(Prompting.COMPLETION, name, problem)
    assert make_prompt(Prompting.CHAT, name, problem) == problem.question


def test_other_benchmarks_are_asked_as_they_stand_with_an_opened_thought() -> None:
    problem = load_benchmark("logic", num_problems=1).problems[0]
    assert make_prompt(Prompting.PAPER, "logic", problem) == f"{problem.question}\n<think>\n"
