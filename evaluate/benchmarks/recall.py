"""`recall`: closed-book questions of two and three hops about a fictional world that is nowhere but in the weights.

The world is a seeded table of people, towns and guilds. A question chains relations ("Who is the mayor of the
birthplace of the teacher of X?"), its thinking names each hop in turn. Single facts (one hop) are always train, so
that every hop of a test question can be known; the chains themselves are split as all generated questions are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from random import Random

from evaluate.benchmarks.generation import Split, invent_word, make_problem, split_of, stream
from evaluate.benchmarks.words import INSTRUMENTS
from evaluate.schema import Item, Problem

GENERATOR_VERSION = "1"

NUM_PEOPLE = 2400


@dataclass(frozen=True)
class Relation:
    """`name` leads from a `source` to a `target`, two kinds of entity; None: to a word where chains end."""

    name: str
    ask: str
    source: str
    target: str | None


RELATIONS = (
    Relation("teacher", "Who", "person", "person"),
    Relation("rival", "Who", "person", "person"),
    Relation("birthplace", "Which town", "person", "town"),
    Relation("guild", "Which guild", "person", "guild"),
    Relation("instrument", "Which instrument", "person", None),
    Relation("mayor", "Who", "town", "person"),
    Relation("river", "Which river", "town", None),
    Relation("master", "Who", "guild", "person"),
    Relation("seat", "Which town", "guild", "town"),
)
# Numbers of hops and how often each is drawn.
NUM_HOPS: Mapping[Split, tuple[tuple[int, ...], tuple[float, ...]]] = {
    "train": ((1, 2, 3), (0.3, 0.35, 0.35)),
    "test": ((2, 3), (0.5, 0.5)),
}
# Where a chain starts: person, town, guild; about their shares of the facts.
START_WEIGHTS = (0.84, 0.09, 0.07)


@dataclass(frozen=True)
class World:
    """The entities of each kind, and for each (relation's name, entity) the entity or word that it leads to."""

    entities: Mapping[str, tuple[str, ...]]
    facts: Mapping[tuple[str, str], str]


@lru_cache(maxsize=1)
def build_world(num_people: int = NUM_PEOPLE) -> World:
    """The fictional world: a quarter as many towns as people, three sixteenths guilds, a sixteenth rivers."""
    rng = Random("the world of recall")
    counts = {"person": num_people, "town": num_people // 4, "guild": num_people * 3 // 16, "river": num_people // 16}
    names: dict[str, None] = {}
    while len(names) < sum(counts.values()):
        names[invent_word(rng, 2).capitalize()] = None
    pool = iter(names)
    entities = {kind: tuple(islice(pool, count)) for kind, count in counts.items()}
    values = {**entities, "instrument": INSTRUMENTS}
    facts = {}
    for relation in RELATIONS:
        for entity in entities[relation.source]:
            candidates = rng.sample(values[relation.target or relation.name], 2)
            facts[relation.name, entity] = next(value for value in candidates if value != entity)
    return World(entities, facts)


def generate(split: Split, num_problems: int, seed: int) -> Iterator[Item]:
    """Items of one split; the reference is the one name or word that answers."""
    hops, weights = NUM_HOPS[split]
    return stream(lambda rng: _build(rng, rng.choices(hops, weights)[0]), split, num_problems, seed, _side)


def _side(problem: Problem) -> Split:
    return "train" if problem.metadata["steps"] == "1" else split_of(problem.question)


def _build(rng: Random, num_hops: int) -> Item:
    """Follow `num_hops` random relations from a random entity."""
    world = build_world()
    chain = _draw_chain(rng, num_hops)
    start = entity = rng.choice(world.entities[chain[0].source])
    lines = []
    for relation in chain:
        value = world.facts[relation.name, entity]
        lines.append(f"The {relation.name} of {entity} is {value}.")
        entity = value
    described = " of the ".join(relation.name for relation in reversed(chain))
    question = f"{chain[-1].ask} is the {described} of {start}?"
    problem = make_problem("recall", question, entity, steps=str(num_hops))
    return Item(problem, "<think>\n" + "\n".join(lines) + f"\n</think>\n{entity}")


def _draw_chain(rng: Random, num_hops: int) -> list[Relation]:
    """Relations that fit end to end; only the last may lead to something that no relation starts from."""
    chain: list[Relation] = []
    kind = rng.choices(("person", "town", "guild"), START_WEIGHTS)[0]
    while len(chain) < num_hops:
        last = len(chain) == num_hops - 1
        fitting = [relation for relation in RELATIONS if relation.source == kind and (last or relation.target)]
        chain.append(rng.choice(fitting))
        kind = chain[-1].target or ""
    return chain
