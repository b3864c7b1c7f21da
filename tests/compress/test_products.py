"""Products of triangular matrices: by halves, and by the Triton kernel (in its interpreter where there is no card)."""

import importlib
import os
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from compress import products
from compress.products import Known, add_product_, product

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

Problem = tuple[torch.Tensor, torch.Tensor]


def random(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


PROBLEMS: dict[Known, Callable[[], Problem]] = {
    Known.UPPER_LEFT: lambda: (random(150, 150, 0).triu(), random(150, 140, 1)),
    Known.UPPER_RIGHT: lambda: (random(140, 150, 0), random(150, 150, 1).triu()),
    Known.LOWER_RIGHT: lambda: (random(140, 150, 0), random(150, 150, 1).triu().T),
    Known.UPPER_RESULT: lambda: (random(150, 90, 0), random(150, 90, 0).T),
}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("known", list(Known))
@pytest.mark.parametrize("kernel", [False, True], ids=["halves", "kernel"])
def test_products_leave_out_only_what_is_zero_or_not_wanted(
    kernel: bool, known: Known, keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel:
        pytest.importorskip("triton", reason="triton is not installed: the kernel runs on CUDA and in its interpreter")
    monkeypatch.setattr(products, "_has_kernel", lambda device: kernel)
    monkeypatch.setattr(products, "MIN_KERNEL", 0)
    monkeypatch.setattr(products, "MAX_WHOLE", 20)
    left, right = PROBLEMS[known]()
    before = random(left.shape[0], right.shape[1], 2)
    total = before.clone() if keep else torch.full_like(before, torch.nan)
    add_product_(total, left, right, known, factor=-1, keep=keep)
    expected = (before.double() if keep else 0) - left.double() @ right.double()
    if known is Known.UPPER_RESULT:
        total, expected = total.triu(), expected.triu()
    torch.testing.assert_close(total.double(), expected, rtol=0, atol=1e-4)
    assert not torch.allclose(total.double(), expected - 1e-2)
    if known is Known.UPPER_RIGHT:
        torch.testing.assert_close(
            product(left, right, known).double(), left.double() @ right.double(), rtol=0, atol=1e-4
        )


def test_the_kernel_is_as_near_as_fp32_whatever_the_sizes_of_rows_and_values() -> None:
    triton_products = kernel_module()
    left, right = random(140, 90, 0), random(90, 130, 1)
    left *= torch.exp2(random(140, 1, 2) * 20) * torch.exp2(random(140, 90, 3) * 3)
    right *= torch.exp2(random(1, 130, 4) * 20) * torch.exp2(random(90, 130, 5) * 3)
    left[5], right[:, 7] = 0, 0
    total = torch.full((140, 130), torch.nan, device=DEVICE)
    triton_products.add_product_(total, left, right, Known.UPPER_RESULT, factor=1, keep=False)
    error = (total.double() - left.double() @ right.double()).triu().abs()
    assert (error <= 2.0**-20 * (left.double().abs() @ right.double().abs())).all()
    assert (total[5, 5:] == 0).all()
    assert (total[:8, 7] == 0).all()
    by_itself, by_its_like = torch.zeros(140, 140, device=DEVICE), torch.zeros(140, 140, device=DEVICE)
    triton_products.add_product_(by_itself, left, left.T, Known.UPPER_RESULT, factor=-1, keep=True)
    triton_products.add_product_(by_its_like, left, left.clone().T, Known.UPPER_RESULT, factor=-1, keep=True)
    assert torch.equal(by_itself, by_its_like)
    assert by_itself.any()


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so(broken: float) -> None:
    triton_products = kernel_module()
    left, right = random(40, 30, 0), random(30, 40, 1)
    left[3, 4] = broken
    total = torch.zeros(40, 40, device=DEVICE)
    triton_products.add_product_(total, left, right, Known.UPPER_RESULT, factor=1, keep=True)
    assert not total[3, 3:].isfinite().any()
    assert total[:3].isfinite().all()


def kernel_module() -> ModuleType:
    pytest.importorskip("triton", reason="triton is not installed: the kernel runs on CUDA and in its interpreter")
    return importlib.import_module("compress.products_triton")


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_on_a_card_sums_of_one_sign_are_not_biased() -> None:
    """The tensor cores' own sums cut bits off: 4e-5 of this sum."""
    left, right = random(3000, 3000, 0).abs().triu(), random(3000, 3000, 1).abs()
    exact = left.double() @ right.double()
    error = product(left, right, Known.UPPER_LEFT).double() / exact - 1
    assert float(error.abs().mean()) < 1e-6
