"""What the generated tasks share: the train/test split, the stream of items, and invented words.

A question belongs to the test split if the BLAKE2b digest of its text is 0 modulo 16, else to train: whoever
generates, with whatever seed, never puts one question on both sides.
"""

from collections.abc import Callable, Iterator
from hashlib import blake2b
from random import Random
from typing import Literal

from evaluate.benchmarks.words import CODAS, ONSETS, PEOPLE, VOWELS
from evaluate.schema import Item, Problem

Split = Literal["train", "test"]

NUM_SPLIT_BUCKETS = 16
MAX_REJECTED_IN_A_ROW = 100_000


def digest(question: str) -> int:
    """64 bits of BLAKE2b over the question's UTF-8 bytes."""
    return int.from_bytes(blake2b(question.encode(), digest_size=8).digest(), "big")


def split_of(question: str) -> Split:
    """The side a question belongs to, a function of its text alone."""
    return "test" if digest(question) % NUM_SPLIT_BUCKETS == 0 else "train"


def make_problem(
    task: str, question: str, reference: str | tuple[str, ...], *, options: str | None = None, **metadata: str
) -> Problem:
    """A problem whose id is the task's name and the question's digest, the same in every run."""
    return Problem(f"{task}-{digest(question):016x}", question, reference, options, metadata)


def question_side(problem: Problem) -> Split:
    return split_of(problem.question)


def stream(
    build: Callable[[Random], Item],
    split: Split,
    num_problems: int,
    seed: int,
    side: Callable[[Problem], Split] = question_side,
) -> Iterator[Item]:
    """Yield `num_problems` items whose `side` is `split`, lazily; test items never repeat, train items may.

    Raises ValueError once the test split seems exhausted (MAX_REJECTED_IN_A_ROW draws without a new item).
    """
    rng = Random(f"{split}-{seed}")
    seen: set[str] = set()
    rejected = 0
    while num_problems > 0:
        item = build(rng)
        question = item.problem.question
        if side(item.problem) != split or question in seen:
            rejected += 1
            if rejected >= MAX_REJECTED_IN_A_ROW:
                raise ValueError(
                    f"num_problems is {len(seen) + num_problems}, but only {len(seen)} {split} items exist"
                )
            continue
        if split == "test":
            seen.add(question)
        rejected = 0
        num_problems -= 1
        yield item


def invent_word(rng: Random, num_syllables: int) -> str:
    """A pronounceable lower-case word that stands in no dictionary."""
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(num_syllables))


def with_article(noun: str) -> str:
    """ "a mill", "an abbey"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def pick_names(rng: Random, count: int, *, invented: float = 0.5) -> list[str]:
    """`count` different names, each invented with probability `invented`."""
    names: dict[str, None] = {}
    while len(names) < count:
        if rng.random() < invented:
            names[invent_word(rng, rng.randint(1, 3)).capitalize()] = None
        else:
            names[rng.choice(PEOPLE)] = None
    return list(names)
