"""`temporal`: when could somebody have gone somewhere? The surface form of BIG-Bench Hard's Temporal Sequences.

A day runs from waking up to a closing time; witnesses account for all of it but one stretch, which is the answer.
Names, places and acts are our own, and about half of them invented, so that a solver has to read rather than to know.
"""

from collections.abc import Iterator
from itertools import pairwise
from random import Random

from evaluate.benchmarks.generation import Split, invent_word, make_problem, pick_names, stream, with_article
from evaluate.benchmarks.words import OBJECTS, PLACES, VERBS
from evaluate.schema import Item

GENERATOR_VERSION = "1"

PREPOSITIONS = ("at", "behind", "in", "near", "outside")
EARLIEST_HOUR, LATEST_HOUR = 4, 23


def generate(split: Split, num_problems: int, seed: int) -> Iterator[Item]:
    """Items of one split; the reference is an option letter such as "(B)"."""
    return stream(_build, split, num_problems, seed)


def format_hour(hour: int) -> str:
    """The 24-hour clock's full hour (0-23) as BBH writes it: 0 -> "12am", 13 -> "1pm"."""
    return f"{(hour - 1) % 12 + 1}{'am' if hour < 12 else 'pm'}"


def _span(start: int, end: int) -> str:
    return f"{format_hour(start)} to {format_hour(end)}"


def _place(rng: Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(PLACES)
    first = invent_word(rng, rng.randint(1, 3))
    return first if rng.random() < 0.5 else f"{first} {rng.choice(PLACES).split()[-1]}"


def _act(rng: Random) -> str:
    verb = rng.choice(VERBS) if rng.random() < 0.6 else invent_word(rng, rng.randint(1, 2)) + "ing"
    thing = rng.choice(OBJECTS) if rng.random() < 0.5 else invent_word(rng, rng.randint(1, 3)) + "s"
    what = rng.choice(("", "the ", "their ")) + thing
    place = _place(rng)
    where = f"{rng.choice(PREPOSITIONS)} {with_article(place) if rng.random() < 0.3 else 'the ' + place}"
    return rng.choice((f"{verb} {what} {where}", f"{verb} {what}", f"{verb} {where}"))


def _cut_day(rng: Random, num_stretches: int) -> list[int]:
    """The bounds of `num_stretches` back-to-back stretches: num_stretches + 1 rising full hours."""
    return sorted(rng.sample(range(EARLIEST_HOUR, LATEST_HOUR + 1), num_stretches + 1))


def _build(rng: Random) -> Item:
    num_sightings = rng.randint(3, 6)
    person, *witnesses = pick_names(rng, num_sightings + 1)
    place = "the " + _place(rng)
    bounds = _cut_day(rng, num_sightings + 1)
    stretches = list(pairwise(bounds))
    free = rng.choice(stretches)
    busy = [stretch for stretch in stretches if stretch != free]
    choices = [free, *rng.sample(busy, 3)]
    rng.shuffle(choices)
    options = [(f"({letter})", _span(*choice)) for letter, choice in zip("ABCD", choices, strict=True)]
    sightings = [(name, *stretch) for name, stretch in zip(witnesses, busy, strict=True)]
    question, listing = _write_question(rng, person, place, (bounds[0], bounds[-1]), sightings, options)
    answer = next(letter for letter, span in options if span == _span(*free))
    problem = make_problem("temporal", question, answer, options=listing, steps=str(num_sightings))
    return Item(problem, _write_thinking(person, (bounds[0], bounds[-1]), sightings, free, options) + answer)


def _write_question(
    rng: Random,
    person: str,
    place: str,
    day: tuple[int, int],
    sightings: list[tuple[str, int, int]],
    options: list[tuple[str, str]],
) -> tuple[str, str]:
    lines = [
        f"Today, {person} went to {place}. Between what times could they have gone?",
        "We know that:",
        f"{person} woke up at {format_hour(day[0])}.",
        *(f"{name} saw {person} {_act(rng)} from {_span(start, end)}." for name, start, end in sightings),
        f"{place.capitalize()} was closed after {format_hour(day[1])}.",
        f"Between what times could {person} have gone to {place}?",
    ]
    listing = "\n".join(["Options:", *(f"{letter} {span}" for letter, span in options)])
    return "\n".join([*lines, listing]), listing


def _write_thinking(
    person: str,
    day: tuple[int, int],
    sightings: list[tuple[str, int, int]],
    free: tuple[int, int],
    options: list[tuple[str, str]],
) -> str:
    """Each witness's stretch in turn, the stretch that is left, then the options up to the one that says it."""
    lines = [f"{person} has from {_span(*day)}."]
    lines += [f"{name}: {_span(start, end)}." for name, start, end in sightings]
    lines.append(f"Free: {_span(*free)}.")
    for letter, span in options:
        found = span == _span(*free)
        lines.append(f"{letter} {span}: {'yes' if found else 'no'}.")
        if found:
            break
    return "<think>\n" + "\n".join(lines) + "\n</think>\n"
