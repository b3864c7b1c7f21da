"""Grids: they hold zero, their scales survive storage, and nearest is nearest."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.quantizer import GridSpec, fit_grid, from_codes, to_codes

specs = st.builds(
    GridSpec,
    st.sampled_from([2, 3, 4, 8]),
    st.sampled_from([None, 4, 8]),
    st.booleans(),
    st.sampled_from([torch.bfloat16, torch.float16]),
)
weights = st.builds(
    lambda seed, scale, shift: torch.randn(5, 16, generator=torch.Generator().manual_seed(seed)) * scale + shift,
    st.integers(0, 10_000),
    st.sampled_from([1e-3, 1.0, 30.0]),
    st.sampled_from([0.0, 0.5, -20.0]),
)


@given(weights, specs)
@settings(deadline=None, max_examples=60)
def test_zero_is_on_the_grid(weight: torch.Tensor, spec: GridSpec) -> None:
    grid = fit_grid(weight, spec)
    zeros = torch.zeros_like(weight)
    assert torch.equal(from_codes(to_codes(zeros, grid), grid), zeros)
    assert torch.equal(grid.zero_point, grid.zero_point.round())
    assert grid.zero_point.min() >= spec.lowest and grid.zero_point.max() <= spec.highest


@given(weights, specs)
@settings(deadline=None, max_examples=60)
def test_scales_survive_storage(weight: torch.Tensor, spec: GridSpec) -> None:
    grid = fit_grid(weight, spec)
    assert torch.equal(grid.scale.to(spec.scale_dtype).to(weight.dtype), grid.scale)
    assert (grid.scale > 0).all()


@given(weights, specs)
@settings(deadline=None, max_examples=60)
def test_codes_are_the_nearest_of_the_grid(weight: torch.Tensor, spec: GridSpec) -> None:
    grid = fit_grid(weight, spec)
    every_code = torch.arange(spec.lowest, spec.highest + 1, dtype=torch.int8)
    values = torch.stack([from_codes(torch.full(weight.shape, code, dtype=torch.int8), grid) for code in every_code])
    nearest = (values - weight).abs().amin(0)
    torch.testing.assert_close((from_codes(to_codes(weight, grid), grid) - weight).abs(), nearest, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
def test_eight_bits_are_finer_than_two(symmetric: bool) -> None:
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))

    def error(bits: int) -> float:
        grid = fit_grid(weight, GridSpec(bits, 8, symmetric))
        return float((from_codes(to_codes(weight, grid), grid) - weight).abs().max())

    assert error(8) < 0.02 < error(4) < error(3) < error(2)


def test_a_group_of_zeros_stays_zero() -> None:
    weight = torch.zeros(2, 8)
    for symmetric in (True, False):
        grid = fit_grid(weight, GridSpec(4, 4, symmetric))
        assert torch.equal(from_codes(to_codes(weight, grid), grid), weight)


def test_grids_are_those_of_compressed_tensors() -> None:
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.utils import calculate_qparams

    weight = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    groups = weight.reshape(6, 4, 4)
    for bits in (2, 3, 4, 8):
        for symmetric in (True, False):
            arguments = QuantizationArgs(num_bits=bits, symmetric=symmetric, strategy="group", group_size=4)
            scale, zero_point = calculate_qparams(groups.amin(-1), groups.amax(-1), arguments)
            grid = fit_grid(weight, GridSpec(bits, 4, symmetric, torch.float32))
            torch.testing.assert_close(grid.scale, scale.float())
            assert torch.equal(grid.zero_point, zero_point.float())
