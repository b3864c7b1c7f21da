"""Bits are given out exactly: against every possible choice, on small models."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.allocation import (
    Option,
    Options,
    allocate_bits,
    allocate_by_goals,
    allocate_randomly,
    allocate_uniformly,
)
from compress.errors import InputError

WIDTHS = ("ternary", 2, 3, 4, 8)


def model(seed: int, num_units: int) -> dict[str, dict]:
    """Units of unlike sizes, whose losses mostly but not always fall with the bits."""
    source = random.Random(seed)
    units = {}
    for index in range(num_units):
        size, sensitivity = source.randint(10, 400), source.random() ** 2
        units[f"u{index}"] = {
            width: Option(sensitivity * 4.0 ** -(1.6 if width == "ternary" else width) * source.uniform(0.5, 1.5), bits)
            for width in WIDTHS
            if (bits := size * (8 if width == "ternary" else 5 * int(width)))
        }
    return units


def spent(units: Options, chosen: dict) -> int:
    return sum(units[name][width].num_bits for name, width in chosen.items())


def lost(units: Options, chosen: dict) -> float:
    return sum(units[name][width].loss for name, width in chosen.items())


@given(st.integers(0, 10_000), st.integers(1, 5), st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_the_allocation_is_the_best_of_all(seed: int, num_units: int, share: float) -> None:
    units = model(seed, num_units)
    least = sum(min(option.num_bits for option in options.values()) for options in units.values())
    most = sum(max(option.num_bits for option in options.values()) for options in units.values())
    budget = least + int(share * (most - least))
    every = [dict(zip(units, widths, strict=True)) for widths in itertools.product(WIDTHS, repeat=num_units)]
    best = min(lost(units, chosen) for chosen in every if spent(units, chosen) <= budget)
    chosen = allocate_bits(units, budget)
    assert spent(units, chosen) <= budget
    assert lost(units, chosen) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.9, 1.0])
def test_no_control_beats_the_allocation(share: float) -> None:
    units = model(0, 120)
    least = sum(min(option.num_bits for option in options.values()) for options in units.values())
    most = sum(max(option.num_bits for option in options.values()) for options in units.values())
    budget = least + int(share * (most - least))
    best = lost(units, allocate_bits(units, budget))
    goals = [(list(units)[:20], 4), (list(units), 3), (list(units), 8)]
    controls = [
        allocate_uniformly(units, budget),
        allocate_by_goals(units, budget, goals),
        *(allocate_randomly(units, budget, seed) for seed in range(5)),
    ]
    for chosen in controls:
        assert set(chosen) == set(units)
        assert spent(units, chosen) <= budget
        assert lost(units, chosen) >= best * (1 - 1e-12)


def test_a_budget_below_the_narrowest_says_the_least() -> None:
    units = {"a": {2: Option(1, 20), 4: Option(0, 40)}, "b": {3: Option(1, 31)}}
    assert allocate_bits(units, 51) == {"a": 2, "b": 3}
    for allocate in (allocate_bits, allocate_uniformly, lambda u, b: allocate_randomly(u, b, 0)):
        with pytest.raises(InputError, match="at least 51"):
            allocate(units, 50)


def test_uniform_spreads_the_two_neighbouring_widths() -> None:
    units = {f"u{index}": {width: Option(0, 100 * width) for width in (2, 3, 4, 8)} for index in range(40)}
    widths = list(allocate_uniformly(units, 40 * 250).values())
    assert set(widths) == {2, 3}
    assert sum(widths) == 100
    assert all(abs(sum(widths[:end]) - 2.5 * end) <= 1 for end in range(1, 41))


@pytest.mark.parametrize("share", [0.1, 0.35, 0.6, 0.85])
def test_uniform_leaves_no_step_unspent_that_fits(share: float) -> None:
    units = model(2, 23)
    least, most = (sum(pick(o.num_bits for o in options.values()) for options in units.values()) for pick in (min, max))
    budget = least + int(share * (most - least))
    chosen = allocate_uniformly(units, budget)
    left = budget - spent(units, chosen)
    for name, options in units.items():
        now = options[chosen[name]].num_bits
        assert all(option.num_bits > now + left for option in options.values() if option.num_bits > now)


def test_random_widths_are_of_the_seed() -> None:
    units = model(1, 30)
    budget = 2 * sum(min(option.num_bits for option in options.values()) for options in units.values())
    assert allocate_randomly(units, budget, 3) == allocate_randomly(units, budget, 3)
    assert allocate_randomly(units, budget, 3) != allocate_randomly(units, budget, 4)


def test_goals_are_met_in_their_order() -> None:
    units = {name: {width: Option(0, 10 * width) for width in (2, 3, 4, 8)} for name in "abc"}
    assert allocate_by_goals(units, 90, [("b", 4), ("ac", 3)]) == {"a": 3, "b": 4, "c": 2}
    assert allocate_by_goals(units, 100, [("b", 4), ("ac", 3)]) == {"a": 3, "b": 4, "c": 3}
