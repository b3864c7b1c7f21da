r"""AIME 2024 (problems (c) Mathematical Association of America): 30 problems, an integer from 0 to 999 is asked for.

The prompt is the problem and the sentence that DeepSeek-R1's model card recommends for mathematics. Other years by
file: rows with `problem` (or `question`) and `answer` (or `expected_answer`), padded ("025") or not.
"""

from pathlib import Path

from evaluate.benchmarks.files import HubFile, read_rows
from evaluate.schema import Problem

HUB = HubFile("HuggingFaceH4/aime_2024", "data/train-00000-of-00001.parquet")
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def read_problems(path: Path) -> list[Problem]:
    """Reads JSON Lines, a JSON list or Parquet as its publishers write AIME. Raises BadInput."""
    problems = []
    for index, row in enumerate(read_rows(path)):
        problem_id = row.text("id", "ID") if row.value.keys() & {"id", "ID"} else str(index)
        text = row.text("problem", "question", "Problem")
        reference = row.text("expected_answer", "answer", "Answer")
        problems.append(Problem(problem_id, f"{text}\n\n{INSTRUCTION}", reference, metadata={"question": text}))
    return problems
