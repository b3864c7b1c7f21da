"""An average_bits budget becomes one width for every weight. Pure, standard library only.

The budget is of the whole model, as effective_bits counts it: 8 x bytes of the packed artifact / parameters, with
scales, norms and biases; a ternary code counts as 1.6 bits, five in a byte. Units of allocation are {q,k,v}, {o},
{gate,up}, {down} of every layer, where all experts of a layer count as one, the embedding and the head (one unit where
they are tied).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from compress.allocation import (
    Option,
    allocate_bits,
    allocate_by_goals,
    allocate_randomly,
    allocate_uniformly,
    check_reachable,
)
from compress.errors import InputError, SchemeError
from compress.families import Shapes, count_parameters, layers_of, linear_shapes, shared_scheme, stages_of
from compress.methods import TERNARY, Allocation, Width
from compress.scheme import Scheme
from compress.size import BYTES_PER_VALUE, packed_bytes

WIDTHS: tuple[Width, ...] = (TERNARY, 2, 3, 4, 8)
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
# Share of the layers that Unsloth's policy takes as the first ones: 3 of the 61 of DeepSeek-R1.
FIRST_LAYERS = 0.05
Losses = Mapping[str, Mapping[Width, float]]


def scheme_of_width(scheme: Scheme, width: Width) -> Scheme:
    """The budget's scheme for one weight."""
    return replace(scheme, average_bits=None, allocation=Allocation.MEASURED, num_bits=width)


def allocate(scheme: Scheme, shapes: Shapes, losses: Losses | None = None, seed: int = 0) -> dict[str, Width]:
    """One of WIDTHS for each weight {name without ".weight"}, the embedding and an untied head among them.

    losses: {weight: {width: loss}}, needed for allocation MEASURED alone. Raises SchemeError when the budget is below
    what these shapes can reach.
    """
    assert scheme.average_bits is not None
    units = budget_units(shapes)
    weights = budgeted_shapes(shapes)
    options = {
        unit: {
            width: Option(
                sum(losses[name][width] for name in names) if losses else 0.0,
                sum(8 * packed_bytes(*weights[name], scheme_of_width(scheme, width)) for name in names),
            )
            for width in WIDTHS
        }
        for unit, names in units.items()
    }
    num_parameters = count_parameters(shapes)
    others = 8 * BYTES_PER_VALUE * (num_parameters - sum(rows * columns for rows, columns in weights.values()))
    budget = int(scheme.average_bits * num_parameters) - others
    try:
        check_reachable(options, budget)
    except InputError:
        least = sum(min(option.num_bits for option in unit.values()) for unit in options.values())
        minimum = -(-(least + others) * 1000 // num_parameters) / 1000
        must = f"at least {minimum:g} for this model, with ternary codes everywhere and a scale for "
        must += "every channel" if scheme.group_size is None else f"every {scheme.group_size} inputs"
        raise SchemeError("average_bits", scheme.average_bits, must) from None
    match scheme.allocation:
        case Allocation.MEASURED:
            assert losses is not None
            chosen = allocate_bits(options, budget)
        case Allocation.UNIFORM:
            chosen = allocate_uniformly(options, budget)
        case Allocation.RANDOM:
            chosen = allocate_randomly(options, budget, seed)
        case Allocation.UNSLOTH:
            chosen = allocate_by_goals(options, budget, unsloth_goals(list(units)))
        case _ as unknown:
            assert_never(unknown)
    return {name: chosen[unit] for unit, names in units.items() for name in names}


def budgeted_shapes(shapes: Shapes) -> dict[str, tuple[int, int]]:
    """The weights that get a width, {name without ".weight": (rows, columns)}."""
    outer = {name: shapes[f"{name}.weight"] for name in (EMBEDDING, HEAD) if f"{name}.weight" in shapes}
    return linear_shapes(shapes) | {name: (shape[0], shape[1]) for name, shape in outer.items()}


def budget_units(shapes: Shapes) -> dict[str, tuple[str, ...]]:
    """Weights that share a width, by a name for them: 3.self_attn.q_proj, embed_tokens."""
    units: dict[str, tuple[str, ...]] = {}
    for layer in layers_of(linear_shapes(shapes)):
        for unit in (unit for stage in stages_of(layer) for unit in stage):
            name = shared_scheme(unit[0].removeprefix("model.layers."))
            units[name] = (*units.get(name, ()), *unit)
    return units | {name.split(".")[-1]: (name,) for name in (EMBEDDING, HEAD) if f"{name}.weight" in shapes}


def unsloth_goals(units: list[str]) -> list[tuple[list[str], int]]:
    """Unsloth's policy for DeepSeek-R1 as goals, in order: attention, shared experts, first layers, embedding and head
    to 4 bits, down before gate and up to 3, then all higher. Source: the widths listed for its dynamic 1.58- to
    2.51-bit files.
    """
    layers = [int(unit.split(".")[0]) for unit in units if unit[0].isdigit()]
    num_first = max(1, round(FIRST_LAYERS * (max(layers) + 1)))
    always = ("self_attn", "shared_expert")
    high = [
        unit
        for unit in units
        if not unit[0].isdigit() or any(part in unit for part in always) or int(unit.split(".")[0]) < num_first
    ]
    down = [unit for unit in units if "down_proj" in unit]
    return [(high, 4), (down, 3), (units, 3), (down, 4), (units, 4), (high, 8), (units, 8)]
