"""Schemes: what may be asked for, under which name, and where it is served packed."""

import math
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.errors import SchemeError
from compress.scheme import CheckpointFormat, Method, Scheme, check_shape, parse_sparsity
from compress.servable import dequantized_obstacle, packed_obstacle, servable


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"method": "gptq", "num_bits": 3, "group_size": 64}, "gptq-w3-g64-sym"),
        ({"method": "rtn", "num_bits": 8, "symmetric": False}, "rtn-w8-channel-asym"),
        ({"method": "sparsegpt", "sparsity": 0.5}, "sparsegpt-s0.5"),
        (
            {"method": "sparsegpt", "pattern": (2, 4), "num_bits": 4, "group_size": 64},
            "sparsegpt-2:4-w4-g64-sym",
        ),
        ({"method": "magnitude", "sparsity": 0.6}, "magnitude-s0.6"),
        ({"method": "gptq", "num_bits": 4, "act_order": False}, "gptq-w4-channel-sym-inorder"),
        ({"method": "gptq", "sparsity": 0.5, "num_bits": 4, "act_order": True}, "gptq-s0.5-w4-channel-sym-actorder"),
        (
            {"method": "gptq", "num_bits": 4, "dampening_frac": 0.05, "block_size": 64},
            "gptq-w4-channel-sym-damp0.05-block64",
        ),
        ({"method": "awq", "num_bits": 3, "group_size": 64}, "awq-w3-g64-sym"),
        ({"method": "gptq", "num_bits": "ternary", "group_size": 64}, "gptq-ternary-g64-sym"),
        ({"method": "gptaq", "num_bits": 4, "group_size": 64, "observer": "mse"}, "gptaq-w4-g64-sym-mse"),
        ({"method": "obr", "sparsity": 0.5, "num_bits": 4, "group_size": 64}, "obr-s0.5-w4-g64-sym"),
        ({"method": "wanda", "pattern": (2, 4)}, "wanda-2:4"),
        ({"method": "alphapruning", "sparsity": 0.6}, "alphapruning-s0.6"),
        ({"method": "gptq", "average_bits": 2.51, "group_size": 128}, "gptq-avg2.51-g128-sym"),
        ({"method": "gptq", "average_bits": 2.51, "allocation": "random"}, "gptq-avg2.51-channel-sym-random"),
        ({"method": "rtn", "num_bits": 8, "input_activations": "fp8"}, "rtn-w8a8-fp8-channel-sym"),
    ],
)
def test_name_and_json(settings: dict, name: str) -> None:
    scheme = Scheme(**settings)
    assert scheme.name == name
    assert Scheme.from_json(scheme.to_json()) == scheme
    assert isinstance(scheme.method, Method)


def test_schemes_that_differ_have_different_names() -> None:
    base = {"method": "sparsegpt", "sparsity": 0.5, "num_bits": 4, "group_size": 64}
    changes = [{}, {"num_bits": 3}, {"group_size": 32}, {"symmetric": False}, {"sparsity": 0.4}, {"method": "gptq"}]
    changes += [
        {"num_bits": "ternary"},
        {"observer": "mse"},
        {"observer": "hqq"},
        {"method": "obr"},
        {"method": "wanda"},
    ]
    changes += [{"act_order": not Scheme(**base).act_order}, {"dampening_frac": 0.1}, {"block_size": 32}]
    names = {Scheme(**{**base, **change}).name for change in changes}
    assert len(names) == len(changes)


@pytest.mark.parametrize(
    ("settings", "key", "hint"),
    [
        ({"method": "gtpq", "num_bits": 4}, "method", "nearest: gptq"),
        ({"method": "gptq"}, "num_bits", "ternary or 2 to 8"),
        ({"method": "gptq", "num_bits": 9}, "num_bits", "nearest: 8"),
        ({"method": "gptq", "num_bits": True}, "num_bits", "2 to 8"),
        ({"method": "gptq", "num_bits": "three"}, "num_bits", "2 to 8"),
        ({"method": "ternary"}, "method", "num_bits: ternary"),
        ({"method": "gptq", "num_bits": "ternary", "symmetric": False}, "symmetric", "true"),
        ({"method": "awq", "num_bits": 4, "sparsity": 0.5}, "sparsity", "take gptq or obr"),
        ({"method": "wanda", "num_bits": 4}, "sparsity", "take gptq"),
        ({"method": "obr", "sparsity": 0.5, "num_bits": 4, "act_order": True}, "act_order", "false"),
        ({"method": "alphapruning", "pattern": (2, 4)}, "sparsity", "no room"),
        ({"method": "gptq", "num_bits": 4, "average_bits": 3.0}, "average_bits", "left out beside num_bits"),
        ({"method": "gptq", "average_bits": 16}, "average_bits", "below 16"),
        ({"method": "gptq", "average_bits": math.nan}, "average_bits", "below 16"),
        ({"method": "gptq", "average_bits": 3.0, "sparsity": 0.5}, "sparsity", "average_bits"),
        ({"method": "gptq", "num_bits": 4, "allocation": "random"}, "allocation", "without average_bits"),
        ({"method": "gptq", "average_bits": 3.0, "allocation": "rando"}, "allocation", "nearest: random"),
        ({"method": "gptq", "num_bits": 4, "observer": "mes"}, "observer", "nearest: mse"),
        ({"method": "magnitude", "sparsity": 0.5, "observer": "mse"}, "observer", "left out"),
        ({"method": "rtn", "num_bits": 4, "input_activations": "int8"}, "input_activations", "num_bits is 8"),
        ({"method": "gptq", "num_bits": 8, "input_activations": "fp8"}, "input_activations", "method rtn"),
        ({"method": "gptq", "num_bits": 4, "group_size": -1}, "group_size", "left out"),
        ({"method": "gptq", "num_bits": 4, "group_size": 64.0}, "group_size", "whole"),
        ({"method": "sparsegpt", "num_bits": 4}, "sparsity", "take gptq"),
        ({"method": "magnitude"}, "sparsity", "take rtn"),
        ({"method": "magnitude", "sparsity": 1.0}, "sparsity", "[0, 1)"),
        ({"method": "magnitude", "sparsity": math.nan}, "sparsity", "[0, 1)"),
        ({"method": "magnitude", "sparsity": 0.4, "pattern": (2, 4)}, "sparsity", "0.5"),
        ({"method": "magnitude", "pattern": (4, 2)}, "sparsity", "n < m"),
        ({"method": "magnitude", "sparsity": 0.5, "group_size": 64}, "group_size", "left out"),
        ({"method": "magnitude", "sparsity": 0.5, "symmetric": False}, "symmetric", "left out"),
        ({"method": "magnitude", "pattern": 2}, "pattern", "n:m"),
        ({"method": "gptq", "num_bits": 4.0}, "num_bits", "nearest: 4"),
        ({"method": "rtn", "num_bits": 4, "act_order": True}, "act_order", "false"),
        ({"method": "sparsegpt", "pattern": (2, 4), "num_bits": 4, "act_order": True}, "act_order", "without an n:m"),
        ({"method": "gptq", "num_bits": 4, "act_order": "yes"}, "act_order", "true, false"),
        ({"method": "gptq", "num_bits": 4, "dampening_frac": math.inf}, "dampening_frac", "(0, 1]"),
        ({"method": "gptq", "num_bits": 4, "block_size": 0}, "block_size", "8 to 4096"),
    ],
)
def test_impossible_schemes_say_what_they_must_be(settings: dict, key: str, hint: str) -> None:
    with pytest.raises(SchemeError) as caught:
        Scheme(**settings)
    assert caught.value.key == key
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_act_order_is_the_default_where_it_helps() -> None:
    assert Scheme("gptq", num_bits=4).act_order is True
    assert Scheme("gptq", num_bits=4, sparsity=0.5).act_order is False
    assert Scheme("rtn", num_bits=4).act_order is False
    assert Scheme("sparsegpt", sparsity=0.5).act_order is False


def test_what_reads_the_inputs() -> None:
    assert not Scheme("rtn", num_bits=4).needs_calibration
    assert not Scheme("rtn", average_bits=3.0, allocation="uniform").needs_calibration
    assert Scheme("rtn", average_bits=3.0).needs_calibration
    assert Scheme("wanda", sparsity=0.5).needs_calibration
    assert Scheme("gptq", num_bits="ternary").nominal_bits == math.log2(3)


def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(SchemeError, match=r"num_bit is unknown.*nearest: num_bits"):
        Scheme.from_json({"method": "rtn", "num_bit": 4})


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2:4", (0.5, (2, 4))), ("1:4", (0.75, (1, 4))), ("0.5", (0.5, None)), (0.25, (0.25, None)), (0, (0.0, None))],
)
def test_sparsity_is_a_share_or_a_pattern(text: str | float, expected: tuple) -> None:
    assert parse_sparsity(text) == expected


@pytest.mark.parametrize("text", ["4:2", "0:4", "2:4:8", "half", "", "nan", "1", "-0.1", math.inf, True, "inf"])
def test_other_sparsities_are_refused(text: str | float) -> None:
    with pytest.raises(SchemeError):
        parse_sparsity(text)


@given(st.integers(1, 64), st.integers(2, 64))
def test_pattern_keeps_n_of_m(n: int, m: int) -> None:
    if n < m:
        sparsity, pattern = parse_sparsity(f"{n}:{m}")
        assert pattern == (n, m)
        assert sparsity == 1 - n / m


def test_groups_must_divide_the_inputs() -> None:
    scheme = Scheme("gptq", num_bits=4, group_size=64)
    check_shape(scheme, "layer", 10, 128)
    with pytest.raises(SchemeError, match=r"group_size is 64.*layer has 96.*nearest: 48"):
        check_shape(scheme, "layer", 10, 96)
    with pytest.raises(SchemeError, match=r"sparsity is 2:4.*layer has 6"):
        check_shape(Scheme("magnitude", pattern=(2, 4)), "layer", 10, 6)


@pytest.mark.parametrize(
    ("settings", "cpu", "cuda"),
    [
        ({"num_bits": 4, "group_size": 64}, True, True),
        ({"num_bits": 4}, True, True),
        ({"num_bits": 4, "group_size": 64, "symmetric": False}, True, True),
        ({"num_bits": 4, "group_size": 16}, True, False),
        ({"num_bits": 4, "group_size": 3}, False, False),
        ({"num_bits": 8, "group_size": 64}, False, True),
        ({"num_bits": 8, "group_size": 64, "symmetric": False}, False, False),
        ({"num_bits": 3, "group_size": 64}, False, True),
        ({"num_bits": 2}, False, True),
        ({"num_bits": 3, "group_size": 64, "symmetric": False}, False, False),
        ({"num_bits": "ternary", "group_size": 64}, False, False),
        ({"average_bits": 3.0, "group_size": 64}, False, False),
        ({"num_bits": 8, "input_activations": "int8"}, True, True),
        ({"num_bits": 8, "input_activations": "fp8"}, True, True),
    ],
)
def test_auto_packs_where_a_kernel_is(settings: dict, cpu: bool, cuda: bool) -> None:
    scheme = Scheme("rtn", **settings)
    packed = {True: CheckpointFormat.PACKED, False: CheckpointFormat.DEQUANTIZED}
    assert servable(scheme, "cpu") == packed[cpu]
    assert servable(scheme, "cuda") == packed[cuda]


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_every_scheme_has_a_way_to_be_served(platform: str) -> None:
    for method, settings in (
        ("rtn", {"num_bits": 5}),
        ("awq", {"num_bits": 4, "group_size": 128}),
        ("obr", {"sparsity": 0.5, "num_bits": "ternary"}),
        ("wanda", {"pattern": (2, 4)}),
        ("rtn", {"num_bits": 8, "input_activations": "int8"}),
    ):
        scheme = Scheme(method, **settings)
        assert packed_obstacle(scheme, platform) is None or dequantized_obstacle(scheme) is None
    assert "inputs" in str(dequantized_obstacle(Scheme("rtn", 8, input_activations="fp8")))


def test_shapes_can_stand_against_packing() -> None:
    scheme = Scheme("rtn", num_bits=4)
    assert packed_obstacle(scheme, "cpu", {"a": (32, 64)}) is None
    assert "a is 48 x 64" in str(packed_obstacle(scheme, "cpu", {"a": (48, 64)}))
    assert servable(None, "cpu") is CheckpointFormat.DEQUANTIZED
    assert servable(Scheme("magnitude", sparsity=0.5), "cpu") is CheckpointFormat.DEQUANTIZED


def test_errors_survive_a_process_border() -> None:
    error = SchemeError("num_bits", 5, "2, 3, 4 or 8", "4")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.key) == (SchemeError, str(error), "num_bits")


def test_plans_need_no_torch() -> None:
    code = (
        "import sys, compress.size, compress.job; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
