"""What each module of a model gets from a scheme and its rules. Standard library only."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from compress.families import layers_of
from compress.overrides import PROTECT_LOWEST, PROTECT_RANDOM, matching
from compress.scheme import Scheme

Linear = Mapping[str, tuple[int, int]]


def module_schemes(
    scheme: Scheme, linear: Linear, unit_errors: Callable[[], Mapping[tuple[str, ...], float]] | None = None
) -> dict[str, Scheme | None]:
    """{module: its scheme without rules, None where it is left as it is} for the modules of `linear`.

    unit_errors: the relative error of the MLPs' units, which protect_lowest_mlp goes by; without it those of the last
    layer stand for them, which have as many weights. Raises SchemeError for a pattern that no module has.
    """
    plain = replace(scheme, overrides=None, only=None, repair=None)
    num_layers = 1 + max(int(name.split(".")[2]) for name in linear)
    kept = set(linear) if scheme.only is None else set(matching(scheme.only, linear, num_layers, "only"))
    chosen = {name: plain if name in kept else None for name in linear}
    if isinstance(scheme.overrides, str):
        return {**chosen, **dict.fromkeys(_protected(scheme.overrides, linear, unit_errors))}
    for override in scheme.overrides or ():
        for name in matching(override.modules, linear, num_layers, "overrides"):
            if name in kept:
                chosen[name] = (chosen[name] or plain).changed_by(override)
    return chosen


def mlp_units(linear: Linear) -> list[list[tuple[str, ...]]]:
    """Names of the MLPs' two parts, gate and up together and down, all experts of a layer in one: of every layer with
    as many weights there as the last one those of the first kind, then those of the second.
    """
    kinds: list[list[tuple[str, ...]]] = []
    for modules in (("gate_proj", "up_proj"), ("down_proj",)):
        layers = layers_of(name for name in linear if ".mlp." in name and name.endswith(modules))
        sizes = [sum(math.prod(linear[name]) for name in names) for names in layers]
        kinds.append([tuple(names) for names, size in zip(layers, sizes, strict=True) if size == sizes[-1]])
    return kinds


def _protected(
    preset: str, linear: Linear, unit_errors: Callable[[], Mapping[tuple[str, ...], float]] | None
) -> list[str]:
    kinds = mlp_units(linear)
    if preset.startswith(PROTECT_RANDOM):
        source = random.Random(int(preset.rpartition("-")[2]) if "-" in preset else 0)
        units = [source.choice(kind[:-1] or kind) for kind in kinds]
    elif preset == PROTECT_LOWEST and unit_errors is not None:
        errors = unit_errors()
        units = [min(kind, key=lambda unit: errors[unit]) for kind in kinds]
    else:
        units = [kind[-1] for kind in kinds]
    return [name for unit in units for name in unit]
