"""FOLIO (Han et al. 2022; CC BY-SA 4.0): does a conclusion follow from premises? True, False or Uncertain.

Reads v0.0 of github.com/Yale-LILY/FOLIO (`premises` a list, 204 validation items) and v2 of the gated hub set
yale-nlp/FOLIO (`premises` one text, 203 items). A problem's id is its index in the file. Problems of one story share
their premises: `story_id` in the metadata is the file's own, or a hash of the premises where it has none.
"""

from hashlib import blake2b

from evaluate.benchmarks.files import HubFile, Row
from evaluate.schema import Problem

HUB = HubFile("yale-nlp/FOLIO", "folio_v2_validation.jsonl")
PROMPT = "Premises:\n{premises}\n\nConclusion:\n{conclusion}\n\nIs the conclusion True, False or Uncertain?"


def read_problem(row: Row, index: int) -> Problem:
    """Reads an item of either version. Raises BadInput."""
    premises = _premises(row)
    parts = {"premises": premises, "conclusion": row.text("conclusion")}
    has_story = row.value.get("story_id") is not None
    story_id = row.text("story_id") if has_story else blake2b(premises.encode(), digest_size=4).hexdigest()
    metadata = {"story_id": story_id, **parts}
    return Problem(str(index), PROMPT.format_map(parts), row.text("label"), metadata=metadata)


def _premises(row: Row) -> str:
    if isinstance(row.value.get("premises"), list) and row.value["premises"]:
        return "\n".join(row.texts("premises"))
    return row.text("premises")
