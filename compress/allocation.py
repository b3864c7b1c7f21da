"""Who gets the bits: one width for each unit of a model, under a budget. Pure, standard library only.

A unit is what must share a width: {q,k,v}, {o}, {gate,up}, {down} of a layer, the embedding, the head. A choice of
widths costs the sum of the units' losses and takes the sum of their bits.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compress.errors import InputError
from compress.methods import Width, nominal_bits

MAX_PRICE = 1e300


@dataclass(frozen=True)
class Option:
    """loss: what the unit adds to the model's loss at this width; num_bits: everything stored, scales included."""

    loss: float
    num_bits: int


Options = Mapping[str, Mapping[Width, Option]]


def allocate_bits(units: Options, budget: int) -> dict[str, Width]:
    """The widths of least loss that take at most `budget` bits, exactly.

    Dynamic programming over the units: of all partial choices only those that no other beats in both loss and bits are
    kept, and of those only what a Lagrangian bound cannot rule out. Raises InputError below the least that the units
    can take.
    """
    check_reachable(units, budget)
    names = list(units)
    choices = [_undominated(units[name]) for name in names]
    price = _price(choices, budget)
    upper = _greedy_loss(choices, budget, price)
    rest_bits, rest_cost = _suffixes(choices, price)
    states: list[tuple[int, float]] = [(0, 0.0)]
    history: list[list[tuple[int, int]]] = []
    slack = 1e-9 * max(1.0, abs(upper))
    for index, options in enumerate(choices):
        grown = sorted(
            (bits + option.num_bits, loss + option.loss, parent, choice)
            for parent, (bits, loss) in enumerate(states)
            for choice, (_, option) in enumerate(options)
            if bits + option.num_bits + rest_bits[index + 1] <= budget
            and loss + option.loss + rest_cost[index + 1] - price * (budget - bits - option.num_bits) <= upper + slack
        )
        states, came_from, lowest = [], [], float("inf")
        for bits, loss, parent, choice in grown:
            if loss < lowest:
                lowest = loss
                states.append((bits, loss))
                came_from.append((parent, choice))
        history.append(came_from)
    best = len(states) - 1  # the last state kept has the least loss
    widths: list[Width] = []
    for options, came_from in zip(reversed(choices), reversed(history), strict=True):
        best, choice = came_from[best]
        widths.append(options[choice][0])
    return dict(zip(names, reversed(widths), strict=True))


def allocate_uniformly(units: Options, budget: int) -> dict[str, Width]:
    """A control that knows no losses: units in their order, each with the width that keeps the bits spent so far
    nearest below the budget's line, so that both of the neighbouring widths are spread evenly over the model. What is
    left over then widens units in their order, a step at a time.
    """
    check_reachable(units, budget)
    widest = {name: max(options.values(), key=_bits).num_bits for name, options in units.items()}
    share = budget / sum(widest.values())
    chosen: dict[str, Width] = {}
    spent, line = 0, 0.0
    rest = sum(min(map(_bits, options.values())) for options in units.values())
    for name, options in units.items():
        line += share * widest[name]
        rest -= min(map(_bits, options.values()))
        limit = min(line - spent, budget - spent - rest)
        fitting = [width for width, option in options.items() if option.num_bits <= limit]
        by_bits = sorted(fitting or options, key=lambda width: options[width].num_bits)
        chosen[name] = by_bits[-1] if fitting else by_bits[0]
        spent += options[chosen[name]].num_bits
    while spent < budget:
        before = spent
        for name, options in units.items():
            now = options[chosen[name]].num_bits
            wider = [width for width, option in options.items() if now < option.num_bits <= now + budget - spent]
            if wider:
                chosen[name] = min(wider, key=lambda width: options[width].num_bits)
                spent += options[chosen[name]].num_bits - now
        if spent == before:
            break
    return chosen


def allocate_randomly(units: Options, budget: int, seed: int) -> dict[str, Width]:
    """A control: every unit starts at its narrowest width; random ones get their next width until none fits."""
    check_reachable(units, budget)
    source = random.Random(seed)
    ladders = {name: sorted(options, key=lambda width: options[width].num_bits) for name, options in units.items()}
    rungs = dict.fromkeys(units, 0)
    left = budget - sum(units[name][ladder[0]].num_bits for name, ladder in ladders.items())
    while True:
        steps = [
            (name, units[name][ladder[rungs[name] + 1]].num_bits - units[name][ladder[rungs[name]]].num_bits)
            for name, ladder in ladders.items()
            if rungs[name] + 1 < len(ladder)
        ]
        fitting = [step for step in steps if step[1] <= left]
        if not fitting:
            return {name: ladder[rungs[name]] for name, ladder in ladders.items()}
        name, cost = source.choice(fitting)
        rungs[name], left = rungs[name] + 1, left - cost


def allocate_by_goals(units: Options, budget: int, goals: Sequence[tuple[Sequence[str], int]]) -> dict[str, Width]:
    """A policy: every unit starts at its narrowest width; goal after goal, each of the units it names gets the widest
    width of at most so many nominal bits that is wider than its own and still fits.
    """
    check_reachable(units, budget)
    chosen = {name: min(options, key=lambda width: options[width].num_bits) for name, options in units.items()}
    left = budget - sum(units[name][width].num_bits for name, width in chosen.items())
    for names, most in goals:
        for name in names:
            options, now = units[name], units[name][chosen[name]].num_bits
            better = [
                width
                for width, option in options.items()
                if nominal_bits(width) <= most and now < option.num_bits <= now + left
            ]
            if better:
                chosen[name] = max(better, key=lambda width: options[width].num_bits)
                left -= options[chosen[name]].num_bits - now
    return chosen


def check_reachable(units: Options, budget: int) -> None:
    """Raise InputError when even the narrowest widths take more than `budget` bits."""
    least = sum(min(map(_bits, options.values())) for options in units.values())
    if least > budget:
        raise InputError("budget", f"{budget} bits", f"at least {least}, which the narrowest widths take")


def _bits(option: Option) -> int:
    return option.num_bits


def _undominated(options: Mapping[Width, Option]) -> list[tuple[Width, Option]]:
    """Options by rising bits, without those that another beats in both."""
    kept: list[tuple[Width, Option]] = []
    for width, option in sorted(options.items(), key=lambda item: (item[1].num_bits, item[1].loss)):
        if not kept or option.loss < kept[-1][1].loss:
            kept.append((width, option))
    return kept


def _cheapest(options: Sequence[tuple[Width, Option]], price: float) -> Option:
    """The option of least loss + price * bits; of equal ones the narrowest."""
    return min(
        (option for _, option in options), key=lambda option: (option.loss + price * option.num_bits, option.num_bits)
    )


def _price(choices: Sequence[Sequence[tuple[Width, Option]]], budget: int) -> float:
    """Loss that a bit is worth: the least price at which everybody's cheapest option fits the budget."""
    low, high = 0.0, 1.0
    while sum(_cheapest(options, high).num_bits for options in choices) > budget and high < MAX_PRICE:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        fits = sum(_cheapest(options, middle).num_bits for options in choices) <= budget
        low, high = (low, middle) if fits else (middle, high)
    return high


def _greedy_loss(choices: Sequence[Sequence[tuple[Width, Option]]], budget: int, price: float) -> float:
    """The loss of some choice that fits: the cheapest options at this price, or the narrowest ones."""
    picked = [_cheapest(options, price) for options in choices]
    if sum(map(_bits, picked)) > budget:
        picked = [options[0][1] for options in choices]
    return sum(option.loss for option in picked)


def _suffixes(choices: Sequence[Sequence[tuple[Width, Option]]], price: float) -> tuple[list[int], list[float]]:
    """For the units from each index on: the fewest bits they take, and the least loss + price * bits."""
    bits, cost = [0], [0.0]
    for options in reversed(choices):
        cheapest = _cheapest(options, price)
        bits.append(bits[-1] + options[0][1].num_bits)
        cost.append(cost[-1] + cheapest.loss + price * cheapest.num_bits)
    return bits[::-1], cost[::-1]
