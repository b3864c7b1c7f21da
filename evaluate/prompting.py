"""From a problem to the text that is sent.

chat        the question, one user message: the server (or --tokenizer) renders the model's chat template
completion  the question as raw text, nothing around it
paper       the study's raw text (arXiv 2504.02010): its own instruction, no chat template, a think block opened by hand

The study's texts are those of its repository (github.com/psunlpgroup/Compression-Effects, compute_u.py), kept to the
letter, since a score depends on each of them; benchmarks that it does not have are asked as it asks AIME.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import assert_never

from evaluate.schema import Problem, Prompting

OPENED_THINK = "<think>\n"

# Filled with `question` and the problem's metadata, which holds the publisher's text without our own instruction.
_PAPER: Mapping[str, str] = MappingProxyType(
    {
        "folio": (
            "Use logical deductions to determine whether the provided conclusion is true, false, or uncertain based on"
            " premise. Consider all relevant information to reach a logical conclusion.\n\n"
            "*******\nPremise: {premises}\n*******\n\n*******\nConclusion: {conclusion}\n*******"
        ),
        "temporal_sequences": (
            "Use the timeline provided and answer step by step. Finally give the index (the letter) of the actual"
            " correct answer.\n{question}\n"
        ),
        "musique": "{question} Final answer of this question should be in as fewer number of words as possible.\n",
    }
)
_PAPER_DEFAULT = "{question}\n"


def make_prompt(prompting: Prompting, benchmark: str, problem: Problem) -> str:
    """Returns the text sent for a problem: a chat message's content, or a raw prompt."""
    match prompting:
        case Prompting.CHAT | Prompting.COMPLETION:
            return problem.question
        case Prompting.PAPER:
            fields = {"question": problem.question, **problem.metadata}
            return _PAPER.get(benchmark, _PAPER_DEFAULT).format_map(fields) + OPENED_THINK
        case _:
            assert_never(prompting)
