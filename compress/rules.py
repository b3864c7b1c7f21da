"""What each module of a model gets from a scheme and its rules. Standard library only."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from compress.overrides import PROTECT_LOWEST, PROTECT_RANDOM, matching
from compress.scheme import Scheme

Linear = Mapping[str, tuple[int, int]]
# The two units of an MLP: what is fused is protected together.
_MLP = (("gate_proj", "up_proj"), ("down_proj",))


def module_schemes(
    scheme: Scheme, linear: Linear, unit_errors: Callable[[], Mapping[tuple[str, ...], float]] | None = None
) -> dict[str, Scheme | None]:
    """{module: its scheme without rules, None where it is left as it is} for the modules of `linear`.

    unit_errors: the relative error of the MLPs' units, which protect_lowest_mlp goes by; without it those of the last
    layer stand for them, which have as many weights. Raises SchemeError for a pattern that no module has.
    """
    plain = replace(scheme, overrides=None, only=None)
    num_layers = 1 + max(int(name.split(".")[2]) for name in linear)
    kept = set(linear) if scheme.only is None else set(matching(scheme.only, linear, num_layers, "only"))
    chosen = {name: plain if name in kept else None for name in linear}
    if isinstance(scheme.overrides, str):
        return {**chosen, **dict.fromkeys(_protected(scheme.overrides, num_layers, unit_errors))}
    for override in scheme.overrides or ():
        for name in matching(override.modules, linear, num_layers, "overrides"):
            if name in kept:
                chosen[name] = (chosen[name] or plain).changed_by(override)
    return chosen


def mlp_units(num_layers: int) -> list[list[tuple[str, ...]]]:
    """Names of the MLPs' units: of every layer those of the first kind, then those of the second."""
    return [[tuple(f"model.layers.{i}.mlp.{name}" for name in unit) for i in range(num_layers)] for unit in _MLP]


def _protected(
    preset: str, num_layers: int, unit_errors: Callable[[], Mapping[tuple[str, ...], float]] | None
) -> list[str]:
    kinds = mlp_units(num_layers)
    if preset.startswith(PROTECT_RANDOM):
        source = random.Random(int(preset.rpartition("-")[2]) if "-" in preset else 0)
        units = [source.choice(kind[:-1] or kind) for kind in kinds]
    elif preset == PROTECT_LOWEST and unit_errors is not None:
        errors = unit_errors()
        units = [min(kind, key=lambda unit: errors[unit]) for kind in kinds]
    else:
        units = [kind[-1] for kind in kinds]
    return [name for unit in units for name in unit]
