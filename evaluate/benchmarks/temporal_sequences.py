"""Temporal Sequences of BIG-Bench Hard (Suzgun et al. 2022), MIT: 250 questions, the option letter is asked for.

The publisher's file is bbh/temporal_sequences.json of github.com/suzgunmirac/BIG-Bench-Hard; the prompt is its
`input`, which lists the options, and nothing else. A problem's id is its index in the file.
"""

from evaluate.benchmarks.files import HubFile, Row
from evaluate.errors import BadInput
from evaluate.options import parse_options
from evaluate.schema import Problem

HUB = HubFile("lukaemon/bbh", "temporal_sequences/test-00000-of-00001.parquet")


def read_problem(row: Row, index: int) -> Problem:
    """Reads {"input", "target"}. Raises BadInput."""
    question, target = row.text("input"), row.text("target")
    _, marker, listing = question.rpartition("Options:")
    if not parse_options(marker + listing):
        raise BadInput(f'{row.where}: key \'input\' lists no options, must end in "Options:" and one "(A) ..." a line')
    return Problem(str(index), question, target, marker + listing)
