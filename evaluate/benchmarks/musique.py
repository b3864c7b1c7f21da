"""MuSiQue (Trivedi et al. 2022; CC BY 4.0), closed book: two- to four-hop questions answered from the weights alone.

From the hub the study's 100 questions (arXiv 2504.02010) are picked by their ids out of the answerable development
set and checked against their checksums; a file is read whole, and the source line says whether it is those 100.
The passages are not shown (`musique_open` shows them); `group` in the metadata says how many facts a question joins.
"""

import json
from collections.abc import Sequence
from hashlib import blake2b

from evaluate.benchmarks.files import HubFile, Row
from evaluate.benchmarks.musique_ids import STUDY
from evaluate.errors import BadInput
from evaluate.schema import Problem

HUB = HubFile("dgslibisey/MuSiQue", "musique_ans_v1.0_dev.jsonl")
INSTRUCTION = "Answer with a few words only."


def read_problem(row: Row, index: int) -> Problem | None:
    """Reads `id`, `question`, `answer`, `answer_aliases`; None for an unanswerable question. Raises BadInput."""
    if row.value.get("answerable") is False:
        return None
    problem_id, question, answer = row.text("id"), row.text("question"), row.text("answer")
    return Problem(
        problem_id,
        f"{question}\n\n{INSTRUCTION}",
        (answer, *row.texts("answer_aliases")),
        metadata={"group": f"{problem_id[:1]} hops", "question": question, "checksum": _checksum(question, answer)},
    )


def select_from_hub(problems: Sequence[Problem]) -> list[Problem]:
    """Keeps the study's 100 questions. Raises BadInput when the hub's file lacks one of them or words it otherwise."""
    by_id = {p.problem_id: p for p in problems}
    for problem_id in STUDY:
        if problem_id not in by_id:
            raise BadInput(f"{HUB}: lacks the study's question {problem_id!r}; give a file of your own: musique=FILE")
        if not _is_studys(by_id[problem_id]):
            raise BadInput(f"{HUB}: question {problem_id!r} is not the study's text; give a file: musique=FILE")
    return [by_id[problem_id] for problem_id in STUDY]


def note(problems: Sequence[Problem]) -> str:
    """Says how many of the study's questions a file holds, word by word."""
    num_known = sum(_is_studys(p) for p in problems)
    if num_known == len(problems) == len(STUDY):
        return "the study's 100 questions"
    return f"{num_known} of the study's {len(STUDY)} questions among {len(problems)}"


def _is_studys(problem: Problem) -> bool:
    return STUDY.get(problem.problem_id) == problem.metadata["checksum"]


def _checksum(question: str, answer: str) -> str:
    return blake2b(json.dumps([question, answer]).encode(), digest_size=4).hexdigest()
