"""Pareto dominance over objectives with a direction each. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def dominates(a: Mapping[str, float], b: Mapping[str, float], directions: Mapping[str, str]) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better. directions: {objective: "max" or "min"}."""
    signs = {name: 1 if direction == "max" else -1 for name, direction in directions.items()}
    gains = [sign * (a[name] - b[name]) for name, sign in signs.items()]
    return all(gain >= 0 for gain in gains) and any(gain > 0 for gain in gains)


def pareto_front(points: Sequence[Mapping[str, float]], directions: Mapping[str, str]) -> list[int]:
    """Indices of the points that none dominates, in their order; equal points are all on the front."""
    return [
        index for index, point in enumerate(points) if not any(dominates(other, point, directions) for other in points)
    ]
