r"""AIME 2024 (problems (c) Mathematical Association of America): 30 problems, an integer from 0 to 999 is asked for.

The prompt is the problem and the sentence that DeepSeek-R1's model card recommends for mathematics. Other years by
file, as their publishers write them: `problem` (or `question`) and `answer` (or `expected_answer`), a text or a
number, padded ("025") or not; the id is `id`, `ID` or `problem_idx`, else the index in the file.
"""

from evaluate.benchmarks.files import HubFile, Row
from evaluate.schema import Problem

HUB = HubFile("HuggingFaceH4/aime_2024", "data/train-00000-of-00001.parquet")
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def read_problem(row: Row, index: int) -> Problem:
    """Reads a problem and its integer. Raises BadInput."""
    text, answer = row.text("problem", "question", "Problem"), row.text("expected_answer", "answer", "Answer")
    problem_id = row.text_or(str(index), "id", "ID", "problem_idx")
    return Problem(problem_id, f"{text}\n\n{INSTRUCTION}", answer, metadata={"question": text})
