"""The front against brute force, and what dominance means when values are equal."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.pareto import dominates, pareto_front

VALUES = st.integers(0, 3).map(float)  # few values, so that ties are common
POINTS = st.lists(st.fixed_dictionaries({"a": VALUES, "b": VALUES, "c": VALUES}), max_size=12)
DIRECTIONS = st.fixed_dictionaries({name: st.sampled_from(["max", "min"]) for name in "abc"})


def beats(one: Mapping[str, float], other: Mapping[str, float], directions: Mapping[str, str]) -> bool:
    """Dominance spelled out by direction."""
    better = worse = 0
    for name, direction in directions.items():
        if one[name] != other[name]:
            wins = one[name] > other[name] if direction == "max" else one[name] < other[name]
            better, worse = better + wins, worse + (not wins)
    return better > 0 and worse == 0


@given(POINTS, DIRECTIONS)
def test_the_front_is_what_brute_force_finds(points: list[dict[str, float]], directions: dict[str, str]) -> None:
    expected = []
    for index, point in enumerate(points):
        beaten = False
        for other in points:
            beaten = beaten or beats(other, point, directions)
        if not beaten:
            expected.append(index)
    assert pareto_front(points, directions) == expected


@given(POINTS, DIRECTIONS)
def test_every_point_off_the_front_is_dominated_by_one_on_it(
    points: list[dict[str, float]], directions: dict[str, str]
) -> None:
    front = pareto_front(points, directions)
    assert bool(front) == bool(points)
    for index in set(range(len(points))) - set(front):
        assert any(dominates(points[on], points[index], directions) for on in front)


def test_only_the_objectives_count() -> None:
    points = [{"a": 1.0, "b": 9.0}, {"a": 2.0, "b": 0.0}]
    assert pareto_front(points, {"a": "max"}) == [1]
    assert pareto_front(points, {"a": "min"}) == [0]
    assert pareto_front(points, {"a": "max", "b": "max"}) == [0, 1]


@pytest.mark.parametrize("directions", [{"a": "max"}, {"a": "min"}, {"a": "max", "b": "min"}])
def test_equal_points_do_not_dominate_each_other(directions: dict[str, str]) -> None:
    point = {"a": 1.0, "b": 2.0}
    assert not dominates(point, dict(point), directions)
    assert pareto_front([point, dict(point)], directions) == [0, 1]
