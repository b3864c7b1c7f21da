"""The values that pass between the parts of `evaluate`: frozen, plain, without any dependency.

Fractions never percents, times in seconds (`_s`), lengths in tokens (`_tokens`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """What became of one completion; only CORRECT and INCORRECT are verdicts about an answer."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    NO_ANSWER = "no_answer"
    TRUNCATED = "truncated"
    ERROR = "error"


class Kind(StrEnum):
    """Whether a benchmark asks for reasoning or for facts kept in the weights; the two are never averaged."""

    REASONING = "reasoning"
    KNOWLEDGE = "knowledge"


class Prompting(StrEnum):
    """How a question is sent; evaluate.prompting tells what each means."""

    CHAT = "chat"
    PAPER = "paper"
    COMPLETION = "completion"


# Silence of a server: a thought of 32,768 tokens at 27 tokens/s, should no other answer come in the meantime.
DEFAULT_STALL_TIMEOUT_S = 1200.0

# What is sent: a text, or a text's tokens where a tokenizer rendered it.
Prompt = str | tuple[int, ...]


@dataclass(frozen=True)
class Problem:
    """One question. `reference` holds the accepted string or strings; `options` the text that lists the choices."""

    problem_id: str
    question: str
    reference: str | tuple[str, ...]
    options: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def cluster(self) -> str | None:
        """What problems share that are no independent questions (`story_id` in the metadata), None for one alone."""
        return self.metadata.get("story_id")

    @property
    def group(self) -> str | None:
        """The part of the benchmark that the summary tells apart (`group` in the metadata: "2 hops"), None for none."""
        return self.metadata.get("group")


@dataclass(frozen=True)
class Item:
    """A generated problem and the text a teacher would write: "<think>\\n...\\n</think>\\nanswer"."""

    problem: Problem
    completion: str


@dataclass(frozen=True)
class Grade:
    """The verdict on one completion: the answer that was read and the id of the rule that read it.

    outcome is the strict verdict; lenient is what a reader says who also takes an answer out of the thinking, an
    expression for its value, and the like, with its own rule. None stands for the strict one.
    f1: of the answer, for short texts; tail_f1: of all that was said after the thinking.
    """

    outcome: Outcome
    answer: str | None
    rule: str
    f1: float | None = None
    tail_f1: float | None = None
    lenient: Outcome | None = None
    lenient_rule: str | None = None


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn; `seed` is the run's, each request derives its own from it."""

    max_tokens: int
    temperature: float = 0.6
    top_p: float = 0.95
    seed: int = 0
    num_completions: int = 1


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server: `url` ends in its version ("http://127.0.0.1:8000/v1").

    The key is read from the environment variable `api_key_env` at each request and stored nowhere.
    """

    url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Answer:
    """One finished request, as it stands on one line of answers.jsonl.

    `think_tokens` is null unless the server counted them or a tokenizer was at hand; `max_tokens` is the limit that
    was sent. `key` is a hash of all that determined the request: an answer is reused only for the same key. `grader`
    is the version that read the answer; another version's verdicts are no longer taken. `cluster` and `group`: its
    problem's.
    """

    benchmark: str
    problem_id: str
    sample: int
    completion: str | None
    reasoning: str | None
    finish_reason: str | None
    outcome: Outcome
    answer: str | None
    rule: str
    completion_tokens: int | None
    think_tokens: int | None
    prompt_tokens: int | None
    error: str | None
    seed: int
    latency_s: float
    f1: float | None = None
    key: str = ""
    max_tokens: int | None = None
    grader: str = "1"
    cluster: str | None = None
    tail_f1: float | None = None
    lenient: Outcome | None = None
    lenient_rule: str | None = None
    group: str | None = None

    def has_failed(self) -> bool:
        """Whether the request failed: no answer at all, never a score."""
        return self.outcome is Outcome.ERROR

    def is_to_be_asked_again(self) -> bool:
        """Whether another run should ask once more: the request failed, or the model ended without a word."""
        is_empty = not f"{self.completion or ''}{self.reasoning or ''}".strip()
        return self.has_failed() or (self.outcome is Outcome.NO_ANSWER and is_empty)
