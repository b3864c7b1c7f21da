"""MuSiQue (Trivedi et al. 2022; CC BY 4.0), open book: the same questions, their up to twenty passages in the prompt.

The answer now stands in the text, two to four passages of it, so that this asks for reading and joining facts where
`musique` asks for facts kept in the weights. Same files, ids, checksums and metadata as `musique`.
"""

from dataclasses import replace

from evaluate.benchmarks.files import Row
from evaluate.benchmarks.musique import HUB, INSTRUCTION, note, select_from_hub
from evaluate.benchmarks.musique import read_problem as read_closed_book
from evaluate.errors import BadInput
from evaluate.schema import Problem

__all__ = ["HUB", "note", "read_problem", "select_from_hub"]

PROMPT = "Answer the question from these passages.\n\n{passages}\n\nQuestion: {question}"


def read_problem(row: Row, index: int) -> Problem | None:
    """Reads what `musique` reads and `paragraphs`, a list of {title, paragraph_text}. Raises BadInput."""
    problem = read_closed_book(row, index)
    if problem is None:
        return None
    passages = "\n\n".join(_passages(row))
    text = PROMPT.format(passages=passages, question=problem.metadata["question"])
    return replace(problem, question=f"{text}\n\n{INSTRUCTION}", metadata={**problem.metadata, "question": text})


def _passages(row: Row) -> list[str]:
    paragraphs = row.rows("paragraphs")
    if not paragraphs:
        raise BadInput(f"{row.where}: key 'paragraphs' is missing, must be the passages; or ask closed book: musique")
    return [f"{p.text('title')}\n{p.text('paragraph_text')}" for p in paragraphs]
