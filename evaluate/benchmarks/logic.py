"""`logic`: does a conclusion follow from premises in plain English? Three labels, as in FOLIO.

Premises are rules about everyone and facts about one or two people; a conclusion says one thing about one person.
The label is exact: a truth table over all predicates decides it, and an item is kept only if propagation, literal by
literal as in the written thinking, reaches the same verdict.

A literal is a signed integer: +k says that predicate k (from 1) holds, -k that it does not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from evaluate.benchmarks.generation import Split, invent_word, make_problem, pick_names, stream, with_article
from evaluate.benchmarks.words import ADJECTIVES, NOUNS, VERB_PHRASES
from evaluate.schema import Item

GENERATOR_VERSION = "1"
Label = Literal["True", "False", "Uncertain"]

MAX_PREDICATES = 9
MAX_LITERALS = 9


@dataclass(frozen=True)
class Predicate:
    """What can be said of a person: `holds` ("is a baker") and `fails` ("is not a baker")."""

    holds: str
    fails: str

    def say(self, literal: int) -> str:
        return self.holds if literal > 0 else self.fails


@dataclass(frozen=True)
class Premise:
    """One sentence; `person` is None for a rule about everyone. `clauses` are disjunctions of literals."""

    text: str
    person: str | None
    clauses: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Step:
    """What is new once `literal` is taken up, given the literals taken up before."""

    literal: int
    consequences: tuple[int, ...]


def generate(split: Split, num_problems: int, seed: int) -> Iterator[Item]:
    """Items of one split; the reference is "True", "False" or "Uncertain"."""
    return stream(_build, split, num_problems, seed)


def truth_table_label(clauses: Sequence[Sequence[int]], conclusion: int) -> Label | None:
    """The label over all assignments of MAX_PREDICATES predicates; None if no assignment satisfies the clauses.

    Column k of the table is one integer of 2**MAX_PREDICATES bits, so a clause is an OR of columns.
    """
    everything = (1 << (1 << MAX_PREDICATES)) - 1
    models = everything
    for clause in clauses:
        column = 0
        for literal in clause:
            column |= _column(literal, everything)
        models &= column
    if not models:
        return None
    holds = models & _column(conclusion, everything)
    if holds == models:
        return "True"
    return "Uncertain" if holds else "False"


def _column(literal: int, everything: int) -> int:
    column = _COLUMNS[abs(literal) - 1]
    return column if literal > 0 else everything ^ column


_COLUMNS = [
    sum(1 << row for row in range(1 << MAX_PREDICATES) if row >> predicate & 1) for predicate in range(MAX_PREDICATES)
]


def propagate(facts: Sequence[int], clauses: Sequence[Sequence[int]], goal: int) -> list[Step]:
    """Take up each known literal in turn and add what the clauses yield; stop once predicate |goal| is written.

    A clause of two literals works both ways, a longer one only forwards: all but its last literal give the last.
    """
    known, taken = list(facts), set()
    steps = []
    for literal in known:  # grows in the loop
        taken.add(literal)
        consequences: list[int] = []
        for clause in clauses if abs(literal) != abs(goal) else ():
            heads = clause if len(clause) == 2 else clause[-1:]
            for head in heads:
                causes = [-other for other in clause if other != head]
                if literal in causes and taken.issuperset(causes) and head not in known:
                    consequences.append(head)
                    known.append(head)
            if abs(goal) in map(abs, consequences):
                break
        steps.append(Step(literal, tuple(consequences)))
        if abs(goal) in map(abs, (literal, *consequences)):
            break
    return steps


def _build(rng: Random) -> Item:
    """The label and a least number of derived literals come first: labels are balanced, proofs not all short."""
    wanted: Label = rng.choice(("True", "False", "Uncertain"))
    min_derived = rng.randint(0, 2)
    while True:
        item = _try_build(rng, wanted, min_derived)
        if item is not None:
            return item


def _try_build(rng: Random, wanted: Label, min_derived: int) -> Item | None:
    """One random theory with a conclusion of the wanted label; None if it has none to offer."""
    num_predicates = rng.randint(4, MAX_PREDICATES)
    predicates = _draw_predicates(rng, num_predicates)
    person, other = pick_names(rng, 2)
    rules = _draw_rules(rng, predicates, rng.randint(3, num_predicates + 1))
    facts = _draw_facts(rng, predicates, person, rng.randint(1, 3))
    distractors = _draw_facts(rng, predicates, other, rng.randint(1, 2)) if rng.random() < 0.3 else []
    premises = [*rules, *facts, *distractors]
    rng.shuffle(premises)
    clauses = [clause for premise in premises if premise.person is None for clause in premise.clauses]
    known = [clause[0] for premise in premises if premise.person == person for clause in premise.clauses]
    conclusion = _choose_conclusion(rng, wanted, known, clauses, num_predicates)
    if conclusion is None:
        return None
    steps = propagate(known, clauses, conclusion)
    num_derived = sum(len(step.consequences) for step in steps)
    if num_derived < min_derived or num_derived + len(known) > MAX_LITERALS:
        return None
    if truth_table_label([*clauses, *([literal] for literal in known)], conclusion) != wanted:
        return None
    others = [clause for premise in distractors for clause in premise.clauses]
    if truth_table_label([*clauses, *others], conclusion) is None:
        return None
    question = _write_question(premises, person, predicates, conclusion)
    problem = make_problem("logic", question, wanted, steps=str(num_derived))
    return Item(problem, _write_thinking(person, predicates, steps) + wanted)


def _draw_predicates(rng: Random, count: int) -> list[Predicate]:
    predicates: dict[Predicate, None] = {}
    while len(predicates) < count:
        invented = rng.random() < 0.4
        match rng.randrange(3):
            case 0:
                noun = with_article(invent_word(rng, rng.randint(1, 2)) if invented else rng.choice(NOUNS))
                predicate = Predicate(f"is {noun}", f"is not {noun}")
            case 1:
                adjective = invent_word(rng, rng.randint(1, 2)) + "y" if invented else rng.choice(ADJECTIVES)
                predicate = Predicate(f"is {adjective}", f"is not {adjective}")
            case _:
                third, base = rng.choice(VERB_PHRASES)
                if invented:
                    verb = invent_word(rng, 1)
                    third, base = f"{verb}es", f"{verb}e"
                predicate = Predicate(third, f"does not {base}")
        predicates[predicate] = None
    return list(predicates)


def _draw_facts(rng: Random, predicates: Sequence[Predicate], person: str, count: int) -> list[Premise]:
    facts = []
    for index in rng.sample(range(len(predicates)), min(count, len(predicates) - 2)):
        literal = (index + 1) * rng.choice((1, 1, -1))
        facts.append(Premise(f"{person} {predicates[index].say(literal)}.", person, ((literal,),)))
    return facts


def _draw_rules(rng: Random, predicates: Sequence[Predicate], count: int) -> list[Premise]:
    rules: dict[tuple[tuple[int, ...], ...], Premise] = {}
    while len(rules) < count:
        first, second, third = (index + 1 for index in rng.sample(range(len(predicates)), 3))
        rule = _draw_rule(rng, predicates, (first, second, third))
        rules[rule.clauses] = rule
    return list(rules.values())


def _draw_rule(rng: Random, predicates: Sequence[Predicate], chosen: tuple[int, int, int]) -> Premise:
    def say(literal: int) -> str:
        return predicates[abs(literal) - 1].say(literal)

    a, b, c = chosen
    clause: tuple[int, ...]
    if_a, then_c = a * rng.choice((1, 1, 1, -1)), c * rng.choice((1, 1, -1))
    match rng.choices(("if", "both", "either", "one", "none"), (8, 3, 2, 1, 2))[0]:
        case "if":
            condition, clause = say(if_a), (-if_a, then_c)
        case "both":
            condition, clause = f"{say(a)} and {say(b)}", (-a, -b, then_c)
        case "either":
            return Premise(f"Everyone {say(a)} or {say(c)}, or both.", None, ((a, c),))
        case "one":
            return Premise(f"Everyone {say(a)} or {say(c)}, but not both.", None, ((a, c), (-a, -c)))
        case _:
            return Premise(f"No one who {say(a)} {say(c)}.", None, ((-a, -c),))
    if rng.random() < 0.5:
        return Premise(f"Everyone who {condition} {say(then_c)}.", None, (clause,))
    return Premise(f"If someone {condition}, then that person {say(then_c)}.", None, (clause,))


def _choose_conclusion(
    rng: Random, wanted: Label, known: Sequence[int], clauses: Sequence[Sequence[int]], num_predicates: int
) -> int | None:
    """A literal that propagation settles as wanted, later ones likelier; None if there is none."""
    derived = [literal for step in propagate(known, clauses, goal=0) for literal in step.consequences]
    if wanted == "Uncertain":
        settled = {abs(literal) for literal in [*known, *derived]}
        open_predicates = [k for k in range(1, num_predicates + 1) if k not in settled]
        return rng.choice(open_predicates) * rng.choice((1, -1)) if open_predicates else None
    pool = derived if rng.random() < 0.95 else list(known)
    if not pool:
        return None
    literal = rng.choices(pool, range(1, len(pool) + 1))[0]
    return literal if wanted == "True" else -literal


def _write_question(premises: Sequence[Premise], person: str, predicates: Sequence[Predicate], conclusion: int) -> str:
    said = predicates[abs(conclusion) - 1].say(conclusion)
    lines = ["Premises:", *(premise.text for premise in premises), f"Conclusion: {person} {said}."]
    return "\n".join([*lines, "Is the conclusion True, False or Uncertain?"])


def _write_thinking(person: str, predicates: Sequence[Predicate], steps: Sequence[Step]) -> str:
    """One line for each literal taken up: what it is, and what is new with it."""

    def say(literal: int) -> str:
        return predicates[abs(literal) - 1].say(literal)

    lines = [f"{person}:"]
    lines += [f"{say(step.literal)}: {', '.join(map(say, step.consequences)) or 'nothing new'}." for step in steps]
    return "<think>\n" + "\n".join(lines) + "\n</think>\n"
