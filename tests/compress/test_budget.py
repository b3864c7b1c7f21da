"""Budgets: what is given out is what effective_bits counts, embedding and head included."""

import pytest

from compress.allocation import Option
from compress.budget import WIDTHS, allocate, budget_units, budgeted_shapes, scheme_of_width
from compress.errors import SchemeError
from compress.families import count_parameters, shapes_from_config
from compress.methods import nominal_bits
from compress.scheme import Scheme
from compress.size import packed_bytes

CONFIG = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 6,
    "vocab_size": 512,
}
ALLOCATIONS = ["measured", "uniform", "random", "unsloth"]


def losses_of(shapes: dict) -> dict:
    """Later layers lose less; down_proj most."""
    losses = {}
    for index, name in enumerate(budgeted_shapes(shapes)):
        weight = (3.0 if "down" in name else 1.0) / (1 + index)
        losses[name] = {width: weight * 4 ** -nominal_bits(width) for width in WIDTHS}
    return losses


def effective_bits(shapes: dict, scheme: Scheme, widths: dict) -> float:
    weights = budgeted_shapes(shapes)
    packed = sum(packed_bytes(*weights[name], scheme_of_width(scheme, width)) for name, width in widths.items())
    others = count_parameters(shapes) - sum(rows * columns for rows, columns in weights.values())
    return 8 * (packed + 2 * others) / count_parameters(shapes)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("bits", [1.9, 2.51, 3.3, 7.9])
def test_the_budget_is_kept_and_used(tied: bool, allocation: str, bits: float) -> None:
    shapes = shapes_from_config({**CONFIG, "tie_word_embeddings": tied})
    scheme = Scheme("gptq", average_bits=bits, allocation=allocation, group_size=128)
    widths = allocate(scheme, shapes, losses_of(shapes))
    assert set(widths) == set(budgeted_shapes(shapes))
    for names in budget_units(shapes).values():
        assert len({widths[name] for name in names}) == 1
    found = effective_bits(shapes, scheme, widths)
    assert bits - 0.35 < found <= bits


@pytest.mark.parametrize("bits", [1.9, 2.51, 3.3])
def test_measured_losses_beat_the_controls(bits: float) -> None:
    shapes = shapes_from_config(CONFIG)
    losses = losses_of(shapes)

    def lost(allocation: str) -> float:
        widths = allocate(Scheme("gptq", average_bits=bits, allocation=allocation, group_size=128), shapes, losses)
        return sum(losses[name][width] for name, width in widths.items())

    assert all(lost("measured") < lost(control) for control in ALLOCATIONS[1:])


def test_unsloths_policy_keeps_attention_and_first_layer_high() -> None:
    shapes = shapes_from_config(CONFIG)
    widths = allocate(Scheme("gptq", average_bits=3.0, allocation="unsloth", group_size=128), shapes)
    high = [name for name in widths if "self_attn" in name or ".layers.0." in name or "layers" not in name]
    assert all(widths[name] == 4 for name in high)
    assert all(nominal_bits(widths[name]) < 4 for name in widths if name not in high)
    assert nominal_bits(widths["model.layers.3.mlp.down_proj"]) >= nominal_bits(widths["model.layers.3.mlp.up_proj"])


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_a_budget_below_reach_says_the_least(allocation: str) -> None:
    shapes = shapes_from_config(CONFIG)
    with pytest.raises(SchemeError, match=r"average_bits is 1\.58, must be at least 1\.7\d* for this model") as caught:
        allocate(Scheme("gptq", average_bits=1.58, allocation=allocation, group_size=128), shapes, losses_of(shapes))
    least = float(str(caught.value).split("at least ")[1].split()[0])
    allocate(Scheme("gptq", average_bits=least, allocation=allocation, group_size=128), shapes, losses_of(shapes))
    with pytest.raises(SchemeError):
        allocate(Scheme("gptq", average_bits=least - 0.01, group_size=128), shapes, losses_of(shapes))


def test_an_option_is_what_the_packed_weight_takes() -> None:
    assert packed_bytes(8, 128, Scheme("rtn", "ternary", 128)) == 8 * 26 + 8 * 2 + 16
    assert packed_bytes(8, 128, Scheme("rtn", 2, 128)) == 8 * 32 + 8 * 2 + 16
    assert Option(1.0, 8).num_bits == 8
