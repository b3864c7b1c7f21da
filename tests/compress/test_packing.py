"""Packed codes against compressed-tensors, which vLLM follows."""

import pytest
import torch
from compressed_tensors.compressors import PackedQuantizationCompressor
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.errors import FormatError
from compress.magnitude import prune_by_magnitude, round_to_nearest
from compress.packing import pack_codes, packed_tensors, quantization_config, unpack_codes
from compress.quantizer import GridSpec, to_codes
from compress.scheme import Scheme

bits = st.integers(2, 8)


@given(st.integers(0, 10_000), bits, st.integers(1, 9), st.integers(1, 70))
@settings(deadline=None, max_examples=80)
def test_packing_round_trips_and_equals_compressed_tensors(seed: int, num_bits: int, rows: int, columns: int) -> None:
    half = 1 << (num_bits - 1)
    codes = torch.randint(-half, half, (rows, columns), generator=torch.Generator().manual_seed(seed)).to(torch.int8)
    words = pack_codes(codes, num_bits)
    assert words.dtype == torch.int32
    assert torch.equal(unpack_codes(words, num_bits, columns), codes)
    assert words.shape == (rows, -(-columns * num_bits // 32))  # what vLLM's loader allocates
    if num_bits in (2, 4, 8) and columns % (32 // num_bits) == 0:  # others compressed-tensors fills up with gaps
        assert torch.equal(words, pack_to_int32(codes, num_bits))


@pytest.mark.parametrize("num_bits", range(2, 9))
def test_codes_stand_one_after_the_other_in_a_stream_of_bits(num_bits: int) -> None:
    half = 1 << (num_bits - 1)
    codes = torch.randint(-half, half, (1, 64), generator=torch.Generator().manual_seed(1)).to(torch.int8)
    stream = sum((int(code) + half) << (index * num_bits) for index, code in enumerate(codes[0]))
    words = [(stream >> (32 * index)) & 0xFFFFFFFF for index in range(2 * num_bits)]
    assert [word & 0xFFFFFFFF for word in pack_codes(codes, num_bits)[0].tolist()] == words


@pytest.mark.parametrize("group_size", [None, 8, 32])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_stored_tensors_are_those_that_compressed_tensors_writes_and_reads(
    group_size: int | None, symmetric: bool, sparsity: float
) -> None:
    weight = torch.randn(24, 64, generator=torch.Generator().manual_seed(0))
    if sparsity:
        weight = prune_by_magnitude(weight, sparsity).weight
    solved = round_to_nearest(weight, GridSpec(4, group_size, symmetric))
    assert solved.grid is not None
    ours = packed_tensors(to_codes(solved.weight, solved.grid), solved.grid)
    group = quantization_config(Scheme("rtn", 4, group_size, symmetric))["config_groups"]["group_0"]
    scheme = QuantizationScheme(**group)

    state = {"weight": weight, "weight_scale": solved.grid.scale}
    state["weight_zero_point"] = solved.grid.zero_point.to(torch.int8)
    theirs = PackedQuantizationCompressor.compress(state, scheme)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor.to(theirs[name].dtype), theirs[name]), name

    read = PackedQuantizationCompressor.decompress({**ours, "weight_scale": ours["weight_scale"].float()}, scheme)
    assert torch.equal(read["weight"], solved.weight)
    assert not sparsity or (read["weight"] == 0).float().mean() >= sparsity


def test_config_entry_is_valid_for_compressed_tensors() -> None:
    for scheme in (Scheme("rtn", 4, 64), Scheme("gptq", 4, symmetric=False), Scheme("rtn", 8, 32)):
        entry = quantization_config(scheme)
        parsed = QuantizationConfig(**entry)
        weights = parsed.config_groups["group_0"].weights
        assert (weights.num_bits, weights.group_size, weights.symmetric) == (
            scheme.num_bits,
            scheme.group_size,
            scheme.symmetric,
        )
        assert parsed.ignore == ["lm_head"]


def test_layouts_of_a_byte_a_value_are_those_of_compressed_tensors() -> None:
    from compressed_tensors.quantization import is_preset_scheme, preset_name_to_scheme

    for activations, preset, format in (("int8", "W8A8", "int-quantized"), ("fp8", "FP8_DYNAMIC", "float-quantized")):
        entry = quantization_config(Scheme("rtn", 8, input_activations=activations))
        parsed = QuantizationConfig(**entry)
        assert is_preset_scheme(preset)
        theirs = preset_name_to_scheme(preset, ["Linear"])
        for ours, wanted in (("weights", theirs.weights), ("input_activations", theirs.input_activations)):
            found = getattr(parsed.config_groups["group_0"], ours)
            for key in ("num_bits", "type", "symmetric", "strategy", "dynamic"):
                assert getattr(found, key) == getattr(wanted, key), (preset, ours, key)
        assert entry["format"] == format


def test_mixed_widths_list_every_layer_once() -> None:
    four, eight, w8a8 = Scheme("gptq", 4, 64), Scheme("gptq", 8, 64), Scheme("gptq", 8, input_activations="int8")
    names = {"a.q_proj": four, "a.k_proj": four, "a.o_proj": eight, "a.down_proj": None}
    entry = quantization_config(four, names)
    parsed = QuantizationConfig(**entry)
    assert {group.weights.num_bits: group.targets for group in parsed.config_groups.values()} == {
        4: ["a.q_proj", "a.k_proj"],
        8: ["a.o_proj"],
    }
    assert entry["ignore"] == ["lm_head", "a.down_proj"]
    assert entry["format"] == "pack-quantized"
    mixed = quantization_config(four, {"a.q_proj": four, "a.o_proj": w8a8})
    assert mixed["format"] == "mixed-precision"
    assert [group["format"] for group in mixed["config_groups"].values()] == ["pack-quantized", "int-quantized"]
    QuantizationConfig(**mixed)


def test_nine_bits_are_not_packed() -> None:
    with pytest.raises(FormatError, match="num_bits is 9"):
        pack_codes(torch.zeros(2, 32, dtype=torch.int8), 9)
