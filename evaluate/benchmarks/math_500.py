"""MATH-500 (Hendrycks et al. 2021; the 500 test problems of Lightman et al. 2023), MIT: an expression is asked for.

Rows hold `problem`, `answer`, `level` (a group of the summary) and `unique_id`. Any file of MATH problems with
`problem` and `answer` will do; without `unique_id` a problem's id is its index in the file.
"""

from evaluate.benchmarks.aime import INSTRUCTION
from evaluate.benchmarks.files import HubFile, Row
from evaluate.schema import Problem

HUB = HubFile("HuggingFaceH4/MATH-500", "test.jsonl")


def read_problem(row: Row, index: int) -> Problem:
    """Reads a problem and the expression that answers it. Raises BadInput."""
    text = row.text("problem")
    problem_id, level = row.text_or(str(index), "unique_id", "id"), row.text_or("", "level")
    metadata = {"question": text, **({"group": f"level {level.removeprefix('Level ')}"} if level else {})}
    return Problem(problem_id, f"{text}\n\n{INSTRUCTION}", row.text("answer"), metadata=metadata)
