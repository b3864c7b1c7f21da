"""Wanda, OBR, GPTAQ, AWQ and AlphaPruning against naive float64 solvers, on small matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.alphapruning import HIGHEST_SPARSITY, layer_sparsities, tail_exponent
from compress.awq import NUM_RATIOS, divide_norm, representable_scale, solve_awq
from compress.gptaq import CrossSum, asymmetric_target
from compress.gptq import solve_gptq
from compress.hessian import Feeder, HessianSum, factor, falling_diagonal, relative_loss
from compress.magnitude import round_to_nearest
from compress.methods import Observer
from compress.obr import restore_pruned, solve_obr
from compress.quantizer import GridSpec, from_codes, to_codes
from compress.wanda import prune_by_wanda, wanda_mask
from tests.compress import reference_solvers as naive

ROWS, COLUMNS = 8, 16


def problem(seed: int, rows: int = ROWS, columns: int = COLUMNS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, tokens and their Hessian, float64; the tokens' channels are correlated and of unlike sizes."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
    mixing = torch.randn(columns, columns, dtype=torch.float64, generator=generator)
    inputs = torch.randn(200, columns, dtype=torch.float64, generator=generator) @ mixing
    inputs *= torch.rand(columns, dtype=torch.float64, generator=generator).mul(3).exp2()
    return weight, inputs, hessian_of(inputs)


def hessian_of(inputs: torch.Tensor) -> torch.Tensor:
    total = HessianSum(inputs.shape[1])
    total.add(inputs)
    return total.mean()


def assert_same(ours: torch.Tensor, theirs: np.ndarray) -> None:
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.6])
def test_wanda_equals_row_by_row_scores(seed: int, sparsity: float) -> None:
    weight, inputs, hessian = problem(seed)
    keep = naive.wanda_keep(weight.numpy(), inputs.numpy(), round(sparsity * COLUMNS))
    assert np.array_equal(wanda_mask(weight, hessian, sparsity).numpy(), keep)
    assert_same(prune_by_wanda(weight, hessian, sparsity).weight, weight.numpy() * keep)


@given(st.integers(0, 10_000), st.floats(0.01, 0.99), st.sampled_from([None, (2, 4), (1, 4), (4, 8)]))
@settings(deadline=None, max_examples=60)
def test_wanda_and_obr_keep_exactly_the_share_of_every_row(seed: int, sparsity: float, pattern: tuple | None) -> None:
    weight, _, hessian = problem(seed)
    hessian[3], hessian[:, 3] = 0, 0  # a dead column: many equal scores
    for spec in (None, GridSpec(3, 4)):
        solved = solve_obr(weight, hessian, factor(hessian, 0.01), sparsity, pattern, spec=spec)
        assert solved.keep_mask is not None
        kept = solved.keep_mask.sum(1)
        assert (kept == COLUMNS - (round(sparsity * COLUMNS) if pattern is None else 0)).all() or pattern
        if pattern:
            assert (solved.keep_mask.reshape(ROWS, -1, pattern[1]).sum(-1) == pattern[0]).all()
        assert (solved.weight[~solved.keep_mask] == 0).all()
        assert torch.equal(solved.keep_mask, wanda_mask(weight, hessian, sparsity, pattern))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("bits", "symmetric", "group"), [(2, True, 4), (3, False, 4), (4, True, 8)])
def test_obr_equals_explicit_elimination(seed: int, bits: int, symmetric: bool, group: int) -> None:
    weight, inputs, hessian = problem(seed)
    used = factor(hessian, 0.01)
    keep, damped = naive.wanda_keep(weight.numpy(), inputs.numpy(), COLUMNS // 2), naive.damp(hessian.numpy(), 0.01)
    restored = np.stack([naive.restore(row, mask, damped) for row, mask in zip(weight.numpy(), keep, strict=True)])
    assert_same(solve_obr(weight, hessian, used, 0.5).weight, restored)
    solved = solve_obr(weight, hessian, used, 0.5, spec=GridSpec(bits, group, symmetric))
    assert_same(solved.weight, naive.obr(weight.numpy(), keep, damped, bits, group, symmetric))
    assert solved.grid is not None
    torch.testing.assert_close(
        from_codes(to_codes(solved.weight, solved.grid), solved.grid), solved.weight, rtol=0, atol=1e-12
    )


def test_obr_takes_one_group_for_a_whole_row() -> None:
    weight, _, hessian = problem(0)
    channel, group = (
        solve_obr(weight, hessian, factor(hessian, 0.01), 0.5, spec=GridSpec(3, size)) for size in (None, COLUMNS)
    )
    assert torch.equal(channel.weight, group.weight)


def test_restored_weights_are_the_best_for_their_mask() -> None:
    weight, _, hessian = problem(3)
    keep = wanda_mask(weight, hessian, 0.5)
    restored = restore_pruned(weight, keep, hessian)
    least = relative_loss(weight, restored, hessian)
    assert least < relative_loss(weight, weight * keep, hessian)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        other = restored + 0.01 * keep * torch.randn(ROWS, COLUMNS, dtype=torch.float64, generator=generator)
        assert relative_loss(weight, other, hessian) > least


def shifted(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, tokens of the compressed stream, and the same tokens of the dense one."""
    weight, inputs, _ = problem(seed)
    generator = torch.Generator().manual_seed(seed + 100)
    mixing = torch.eye(COLUMNS, dtype=torch.float64)
    mixing += 0.1 * torch.randn(COLUMNS, COLUMNS, dtype=torch.float64, generator=generator)
    return weight, inputs, inputs @ mixing


def cross_of(inputs: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    total = CrossSum(COLUMNS)
    for part, dense_part in zip(inputs.split(64), dense.split(64), strict=True):
        total.add(part, dense_part)
    return total.mean()


@pytest.mark.parametrize("act_order", [False, True])
def test_gptaq_aims_at_the_least_squares_fit_to_the_dense_outputs(act_order: bool) -> None:
    weight, inputs, dense = shifted(0)
    hessian = hessian_of(inputs)
    order = falling_diagonal(hessian) if act_order else None
    used = factor(hessian if order is None else hessian[order][:, order], 1e-9)
    target = asymmetric_target(weight, cross_of(inputs, dense), used, order, share=1.0)
    fitted = np.linalg.lstsq(inputs.numpy(), (dense @ weight.T).numpy(), rcond=None)[0].T
    torch.testing.assert_close(target, torch.from_numpy(fitted), rtol=1e-5, atol=1e-6)
    solved = solve_gptq(target, used, GridSpec(3, 4), order=order)
    expected = naive.solve(
        fitted, naive.damp(hessian.numpy(), 1e-9), bits=3, group=4, order=None if order is None else order.numpy()
    )
    torch.testing.assert_close(solved.weight, torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_gptaq_comes_nearer_to_the_dense_outputs_than_gptq_and_than_the_papers_sweep() -> None:
    losses: dict[str, list[float]] = {"gptq": [], "paper": [], "ours": []}
    for seed in range(12):
        weight, inputs, dense = shifted(seed)
        hessian, cross = hessian_of(inputs), cross_of(inputs, dense)
        used = factor(hessian, 0.01)
        damped = naive.damp(hessian.numpy(), 0.01)
        spec = GridSpec(4, 4)
        results = {
            "gptq": solve_gptq(weight, used, spec).weight,
            "paper": torch.from_numpy(naive.gptaq(weight.numpy(), damped, cross.numpy(), 4, 4)),
            "ours": solve_gptq(asymmetric_target(weight, cross, used, share=1.0), used, spec).weight,
        }
        for name, changed in results.items():
            losses[name].append(float((inputs @ changed.T - dense @ weight.T).square().sum()))
    means = {name: np.mean(np.array(values) / np.array(losses["gptq"])) for name, values in losses.items()}
    assert means["ours"] < means["paper"] < means["gptq"] == 1.0


def test_without_a_shift_gptaq_is_gptq() -> None:
    weight, inputs, _ = shifted(1)
    used = factor(hessian_of(inputs), 0.01)
    assert torch.equal(asymmetric_target(weight, cross_of(inputs, inputs), used), weight)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_awq_finds_the_scale_that_changes_the_outputs_least(seed: int, bits: int) -> None:
    weight, inputs, hessian = problem(seed)
    solved = solve_awq({"a": weight}, hessian, GridSpec(bits, 4), feeder=Feeder(None))
    assert_same(solved.input_scale, naive.awq_scale(weight.numpy(), inputs.numpy(), bits, 4, NUM_RATIOS))


def test_awq_loses_less_than_rounding_and_its_clip_helps() -> None:
    weight, _, hessian = problem(5, 32, 64)
    spec = GridSpec(3, 16)
    rounded = relative_loss(weight, round_to_nearest(weight, spec).weight, hessian)

    def loss(**options: object) -> float:
        solved = solve_awq({"a": weight}, hessian, spec, **{"feeder": Feeder(None), **options})
        return relative_loss(weight, solved.weights["a"].weight / solved.input_scale, hessian)

    scaled_alone, clipped_alone, both = loss(unclipped=("a",)), loss(feeder=None), loss()
    assert both <= scaled_alone <= rounded
    assert clipped_alone <= rounded
    assert both < 0.9 * rounded


@given(st.integers(0, 10_000), st.sampled_from([torch.bfloat16, torch.float16, None]))
@settings(deadline=None, max_examples=60)
def test_scales_divide_what_feeds_them_without_rounding(seed: int, dtype: torch.dtype | None) -> None:
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.randn(64, generator=generator).mul(2).exp2()
    if dtype is None:
        scale = representable_scale(wanted, None)
        rows = torch.randn(64, 8, generator=generator).bfloat16()
        assert torch.equal((rows / scale.unsqueeze(1)).bfloat16().float() * scale.unsqueeze(1), rows.float())
        assert (scale / wanted).log2().abs().max() <= 0.5 + 1e-5
        return
    feeder = torch.randn(64, generator=generator).to(dtype)
    feeder[5] = 0
    scale = representable_scale(wanted, feeder)
    divided = divide_norm(feeder, scale)
    torch.testing.assert_close(divided.float() * scale, feeder.float(), rtol=1e-6, atol=0)
    assert (scale[feeder != 0] / wanted[feeder != 0]).log2().abs().max() < 0.02


@pytest.mark.parametrize("shape", [(8, 16), (16, 8), (24, 24)])
def test_tail_exponents_equal_hills_estimate(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert tail_exponent(weight) == pytest.approx(naive.hill_exponent(weight.numpy()), rel=1e-8)
    assert tail_exponent(7 * weight) == pytest.approx(tail_exponent(weight))


@given(
    st.lists(st.tuples(st.floats(1.5, 9), st.integers(10, 1000)), min_size=1, max_size=12),
    st.floats(0.05, 0.97),
    st.floats(0, 0.5),
)
@settings(deadline=None, max_examples=80)
def test_layer_sparsities_have_the_mean_and_the_order(layers: list, sparsity: float, spread: float) -> None:
    exponents, sizes = zip(*layers, strict=True)
    chosen = layer_sparsities(exponents, sizes, sparsity, spread)
    mean = sum(value * size for value, size in zip(chosen, sizes, strict=True)) / sum(sizes)
    assert mean == pytest.approx(sparsity, abs=1e-9)
    assert all(0 < value <= HIGHEST_SPARSITY for value in chosen)
    by_exponent = [value for _, value in sorted(zip(exponents, chosen, strict=True))]
    assert by_exponent == sorted(by_exponent)


@given(st.integers(0, 10_000), st.sampled_from([4, 8, None]))
@settings(deadline=None, max_examples=40)
def test_ternary_scales_have_the_least_error(seed: int, group: int | None) -> None:
    weight = torch.randn(3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    solved = round_to_nearest(weight, GridSpec.of("ternary", group_size=group, scale_dtype=torch.float64))
    assert solved.grid is not None
    groups = weight.reshape(3, -1, group or 16)
    expected = [[naive.ternary_scale(values) for values in row] for row in groups.numpy()]
    assert_same(solved.grid.scale, np.array(expected))
    assert set(to_codes(solved.weight, solved.grid).unique().tolist()) <= {-1, 0, 1}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_searched_grids_lose_less_than_the_full_range(bits: int, symmetric: bool) -> None:
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0)) ** 3

    def error(observer: Observer, power: float) -> float:
        spec = GridSpec(bits, 16, symmetric, torch.bfloat16, observer)
        return float((round_to_nearest(weight, spec).weight - weight).abs().pow(power).sum())

    assert error(Observer.MSE, 2) < error(Observer.MINMAX, 2)
    assert error(Observer.HQQ, 0.7) < error(Observer.MINMAX, 0.7)
