"""MuSiQue (Trivedi et al. 2022; CC BY 4.0), closed book: two- to four-hop questions answered from the weights alone.

From the hub the study's 100 questions (arXiv 2504.02010) are picked by their ids out of the answerable development
set; a file is read whole. The passages are not shown; `hops` in the metadata says how many facts a question joins.
"""

from pathlib import Path

from evaluate.benchmarks.files import HubFile, read_rows
from evaluate.benchmarks.musique_ids import STUDY_IDS
from evaluate.errors import BadInput
from evaluate.schema import Problem

HUB = HubFile("dgslibisey/MuSiQue", "musique_ans_v1.0_dev.jsonl")
INSTRUCTION = "Answer with a few words only."


def read_problems(path: Path) -> list[Problem]:
    """Reads rows with `id`, `question`, `answer`, `answer_aliases`; unanswerable ones are left out. Raises BadInput."""
    problems = []
    for row in read_rows(path):
        if row.value.get("answerable") is False:
            continue
        problem_id = row.text("id")
        accepted = (row.text("answer"), *row.texts("answer_aliases"))
        text = row.text("question")
        metadata = {"hops": problem_id[:1], "question": text}
        problems.append(Problem(problem_id, f"{text}\n\n{INSTRUCTION}", accepted, metadata=metadata))
    return problems


def select_from_hub(problems: list[Problem]) -> list[Problem]:
    """Keeps the study's 100 questions. Raises BadInput when the hub's file lacks one of them."""
    by_id = {p.problem_id: p for p in problems}
    missing = [i for i in STUDY_IDS if i not in by_id]
    if missing:
        raise BadInput(f"{HUB}: lacks {len(missing)} of the study's {len(STUDY_IDS)} questions, {missing[0]!r} first")
    return [by_id[i] for i in STUDY_IDS]
