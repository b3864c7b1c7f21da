"""FOLIO (Han et al. 2022; CC BY-SA 4.0): does a conclusion follow from premises? True, False or Uncertain.

Reads v0.0 of github.com/Yale-LILY/FOLIO (`premises` a list, 204 validation items) and v2 of the gated hub set
yale-nlp/FOLIO (`premises` one text, 203 items). A problem's id is its index in the file; `story` in the metadata
tells which problems share their premises.
"""

from hashlib import blake2b
from pathlib import Path

from evaluate.benchmarks.files import HubFile, Row, read_rows
from evaluate.schema import Problem

HUB = HubFile("yale-nlp/FOLIO", "folio_v2_validation.jsonl")
PROMPT = "Premises:\n{premises}\n\nConclusion:\n{conclusion}\n\nIs the conclusion True, False or Uncertain?"


def read_problems(path: Path) -> list[Problem]:
    """Reads either version. Raises BadInput."""
    problems = []
    for index, row in enumerate(read_rows(path)):
        premises = _premises(row)
        parts = {"premises": premises, "conclusion": row.text("conclusion")}
        story = blake2b(premises.encode(), digest_size=4).hexdigest()
        metadata = {"story": story, **parts}
        problems.append(Problem(str(index), PROMPT.format_map(parts), row.text("label"), metadata=metadata))
    return problems


def _premises(row: Row) -> str:
    if isinstance(row.value.get("premises"), list):
        return "\n".join(row.texts("premises"))
    return row.text("premises")
