"""The Hessian and its factor."""

import pytest
import torch

from compress.errors import NumericalError
from compress.hessian import HessianSum, InputStatistics, attempt_factor, damp, factor, relative_loss


def inputs(num_tokens: int, num_columns: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_tokens, num_columns, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(("num_columns", "wide"), [(16, 1024), (300, 1024), (1100, 130)])  # one slice, three, eight
def test_batches_add_up_to_twice_the_mean_outer_product(
    num_columns: int, wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.hessian.WIDE_SLICE", wide)
    x = inputs(50, num_columns)
    total = HessianSum(num_columns)
    for batch in x.split(13):
        total.add(batch)
    torch.testing.assert_close(total.mean(), 2 * x.T @ x / 50)


@pytest.mark.parametrize("largest_solved", [512, 4])  # at once, by halves
def test_upper_factor_is_that_of_the_damped_inverse(largest_solved: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.hessian.MAX_SOLVED", largest_solved)
    monkeypatch.setattr("compress.products.MAX_WHOLE", 3)  # products of triangles by halves as well
    x = inputs(60, 29)
    hessian = 2 * x.T @ x / 60
    used = factor(hessian, 0.05)
    damped = hessian + 0.05 * hessian.diagonal().mean() * torch.eye(29, dtype=torch.float64)
    torch.testing.assert_close(used.upper, torch.linalg.cholesky(torch.linalg.inv(damped), upper=True))
    assert torch.equal(used.upper, used.upper.triu())
    assert (used.num_raised, used.dampening_frac) == (0, 0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_card_a_factor_is_as_near_as_in_fp32() -> None:
    x = inputs(4000, 3000)
    hessian = (2 * x.T @ x / 4000).to("cuda")
    exact = torch.linalg.cholesky(torch.linalg.inv(damp(hessian, 0.01)), upper=True)

    def error(upper: torch.Tensor) -> float:
        return float((upper - exact).norm() / exact.norm())

    used = attempt_factor(hessian.float(), 0.01)
    in_fp32 = torch.linalg.cholesky(torch.linalg.inv(damp(hessian.float(), 0.01)), upper=True)
    assert bool(used.is_sound)
    assert error(used.upper) < 3 * error(in_fp32)


def test_failed_cholesky_raises_the_damping_and_counts() -> None:
    hessian = torch.eye(4, dtype=torch.float64)
    hessian[0, 1] = hessian[1, 0] = 1.05  # indefinite by 0.05
    used = factor(hessian, 0.01)
    assert used.num_raised == 1
    assert used.dampening_frac == pytest.approx(0.1)
    assert torch.isfinite(used.upper).all()


def test_hopeless_hessian_is_an_error_not_another_method() -> None:
    hessian = torch.eye(4)
    hessian[0, 1] = hessian[1, 0] = 100
    with pytest.raises(NumericalError, match="cannot be factored"):
        factor(hessian, 0.01)


def test_inputs_that_are_not_finite_are_an_error() -> None:
    x = inputs(10, 4)
    x[3, 2] = torch.nan
    total = HessianSum(4)
    total.add(x)
    with pytest.raises(NumericalError, match="not finite"):
        InputStatistics(total.mean()).settle()
    with pytest.raises(NumericalError, match="no calibration token"):
        HessianSum(4).mean()


def test_relative_loss_is_the_share_of_the_output_lost() -> None:
    x, weight = inputs(30, 6), inputs(5, 6, seed=1)
    changed = weight + 0.1 * inputs(5, 6, seed=2)
    hessian = 2 * x.T @ x / 30
    expected = ((x @ (weight - changed).T) ** 2).sum() / ((x @ weight.T) ** 2).sum()
    assert relative_loss(weight, changed, hessian) == pytest.approx(float(expected))
    assert relative_loss(weight, torch.zeros_like(weight), hessian) == pytest.approx(1)
