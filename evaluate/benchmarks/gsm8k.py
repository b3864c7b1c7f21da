"""GSM8K (Cobbe et al. 2021), MIT: 1,319 grade-school word problems, a number is asked for.

The publisher's rows hold `question` and `answer`; the answer's own solution ends in "#### 72", and that number is the
reference. A problem's id is its index in the file.
"""

from evaluate.benchmarks.aime import INSTRUCTION
from evaluate.benchmarks.files import HubFile, Row
from evaluate.schema import Problem

HUB = HubFile("openai/gsm8k", "main/test-00000-of-00001.parquet")
MARKER = "####"


def read_problem(row: Row, index: int) -> Problem:
    """Reads a word problem and the number that its solution ends in. Raises BadInput."""
    text, reference = row.text("question"), row.text("answer").rpartition(MARKER)[2].strip()
    return Problem(str(index), f"{text}\n\n{INSTRUCTION}", reference, metadata={"question": text})
