"""GPTQ, SparseGPT and both together against solvers that invert explicitly after every column, on small matrices."""

import numpy as np
import pytest
import torch

from compress.gptq import solve_gptq
from compress.hessian import HessianSum, factor, falling_diagonal, relative_loss
from compress.lanes import Pruning
from compress.magnitude import prune_by_magnitude, round_to_nearest
from compress.quantizer import GridSpec, from_codes, to_codes
from compress.scheme import Scheme
from compress.solve import solve_unit
from compress.sparsegpt import solve_sparsegpt
from tests.compress import reference_solvers as naive

ROWS, COLUMNS = 8, 16


def problem(
    seed: int, rows: int = ROWS, columns: int = COLUMNS, rank: int = COLUMNS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and the Hessian of correlated inputs (`rank` directions and a little noise), float64."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
    mixing = torch.randn(rank, columns, dtype=torch.float64, generator=generator)
    inputs = torch.randn(200, rank, dtype=torch.float64, generator=generator) @ mixing
    inputs += 0.3 * torch.randn(200, columns, dtype=torch.float64, generator=generator)
    total = HessianSum(columns)
    total.add(inputs)
    return weight, total.mean()


def assert_same(ours: torch.Tensor, theirs: np.ndarray) -> None:
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("group", "block"), [(None, 128), (4, 8), (8, 4), (16, 4)])
def test_gptq_equals_explicit_inverses(seed: int, bits: int, symmetric: bool, group: int | None, block: int) -> None:
    weight, hessian = problem(seed)
    solved = solve_gptq(weight, factor(hessian, 0.01), GridSpec(bits, group, symmetric), block_size=block)
    expected = naive.solve(
        weight.numpy(), naive.damp(hessian.numpy(), 0.01), bits=bits, group=group, symmetric=symmetric
    )
    assert_same(solved.weight, expected)


@pytest.mark.parametrize("group", [None, 4])
def test_act_order_equals_explicit_inverses_in_that_order(group: int | None) -> None:
    weight, hessian = problem(0)
    order = falling_diagonal(hessian)
    assert order.tolist() != list(range(COLUMNS))
    used = factor(hessian[order][:, order], 0.01)
    solved = solve_gptq(weight, used, GridSpec(3, group), block_size=8, order=order)
    expected = naive.solve(weight.numpy(), naive.damp(hessian.numpy(), 0.01), bits=3, group=group, order=order.numpy())
    assert_same(solved.weight, expected)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bits", [None, 3])
@pytest.mark.parametrize(("sparsity", "block"), [(0.5, 16), (0.5, 8), (0.25, 4)])
def test_unstructured_sparsegpt_equals_explicit_inverses(
    seed: int, bits: int | None, sparsity: float, block: int
) -> None:
    weight, hessian = problem(seed)
    pruning = Pruning(sparsity, None, block, (ROWS,))
    spec = GridSpec(bits, 4, False) if bits else None
    solved = solve_sparsegpt(weight, factor(hessian, 0.01), pruning, spec=spec, block_size=block)
    expected = naive.solve(
        weight.numpy(),
        naive.damp(hessian.numpy(), 0.01),
        bits=bits,
        group=4,
        symmetric=False,
        choose_mask=naive.unstructured_mask(sparsity, block),
    )
    assert_same(solved.weight, expected)


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("pattern", [(2, 4), (1, 4), (4, 8)])
def test_n_of_m_sparsegpt_equals_explicit_inverses(bits: int | None, pattern: tuple[int, int]) -> None:
    weight, hessian = problem(1)
    pruning = Pruning(1 - pattern[0] / pattern[1], pattern, 128, (ROWS,))
    spec = GridSpec(bits, 8) if bits else None
    solved = solve_sparsegpt(weight, factor(hessian, 0.01), pruning, spec=spec, block_size=8)
    expected = naive.solve(
        weight.numpy(), naive.damp(hessian.numpy(), 0.01), bits=bits, group=8, choose_mask=naive.pattern_mask(*pattern)
    )
    assert_same(solved.weight, expected)


def test_stacked_matrices_equal_the_same_matrices_alone() -> None:
    scheme = Scheme("sparsegpt", sparsity=0.4, num_bits=3, group_size=4, block_size=8)
    first, hessian = problem(2)
    second = problem(3)[0][:5] * 10  # a shared threshold would prune the first matrix alone
    together = solve_unit({"a": first, "b": second}, hessian, scheme, torch.bfloat16).weights
    for name, weight in (("a", first), ("b", second)):
        alone = solve_unit({name: weight}, hessian, scheme, torch.bfloat16).weights[name]
        torch.testing.assert_close(together[name].weight, alone.weight, rtol=0, atol=1e-12)
        assert torch.equal(together[name].keep_mask, alone.keep_mask)


def test_dead_columns_are_zeroed_and_disturb_nothing() -> None:
    weight, hessian = problem(4)
    hessian[3], hessian[:, 3] = 0, 0
    used = factor(hessian, 0.01)
    assert used.dead.nonzero().flatten().tolist() == [3]
    solved = solve_gptq(weight, used, GridSpec(4, 4))
    weight[:, 3] = 0
    expected = naive.solve(weight.numpy(), naive.damp(hessian.numpy(), 0.01), bits=4, group=4)
    assert_same(solved.weight, expected)
    assert (solved.weight[:, 3] == 0).all()


def test_codes_and_grid_give_the_solved_weights() -> None:
    weight, hessian = problem(5)
    order = falling_diagonal(hessian)
    used = factor(hessian[order][:, order], 0.01)
    for symmetric in (True, False):
        solved = solve_gptq(weight, used, GridSpec(3, 4, symmetric), order=order)
        assert solved.grid is not None
        torch.testing.assert_close(
            from_codes(to_codes(solved.weight, solved.grid), solved.grid), solved.weight, rtol=0, atol=1e-12
        )


def test_compensation_beats_its_data_free_twin() -> None:
    weight, hessian = problem(6, 64, 128)
    used, spec = factor(hessian, 0.01), GridSpec(3, 32)
    pruning = Pruning(0.5, None, 128, (64,))
    gptq, rtn = solve_gptq(weight, used, spec), round_to_nearest(weight, spec)
    sparse, magnitude = solve_sparsegpt(weight, used, pruning), prune_by_magnitude(weight, 0.5)
    assert relative_loss(weight, gptq.weight, hessian) < 0.5 * relative_loss(weight, rtn.weight, hessian)
    assert relative_loss(weight, sparse.weight, hessian) < 0.5 * relative_loss(weight, magnitude.weight, hessian)


def test_solvers_leave_their_arguments_alone() -> None:
    weight, hessian = problem(7)
    before = weight.clone(), hessian.clone()
    used = factor(hessian, 0.01)
    solve_sparsegpt(weight, used, Pruning(0.5, (2, 4), 128, (ROWS,)), spec=GridSpec(4, 4))
    assert torch.equal(weight, before[0]) and torch.equal(hessian, before[1])


def test_a_factor_that_fails_under_a_sweep_has_the_unit_solved_again_with_more_damping() -> None:
    weight, hessian = problem(0)
    hessian -= 1.02 * torch.linalg.eigvalsh(hessian)[0] * torch.eye(COLUMNS, dtype=torch.float64)  # just indefinite
    hessian -= 0.05 * hessian.diagonal().mean() * torch.eye(COLUMNS, dtype=torch.float64)
    scheme = Scheme("gptq", 4, 4, dampening_frac=0.01, act_order=False)
    solved = solve_unit({"w": weight}, hessian, scheme, torch.bfloat16)
    used = factor(hessian, 0.01)
    assert [made.num_raised for made in solved.factors] == [used.num_raised] == [1]
    assert solved.reports["w"].dampening_frac == used.dampening_frac
    expected = solve_gptq(weight, used, GridSpec(4, 4, scale_dtype=torch.bfloat16))
    torch.testing.assert_close(solved.weights["w"].weight, expected.weight)


def test_patterns_need_not_divide_the_block() -> None:
    weight, hessian = problem(0, columns=24)
    scheme = Scheme("sparsegpt", 4, 8, pattern=(3, 6), block_size=16)
    solved = solve_unit({"w": weight}, hessian, scheme, torch.bfloat16).weights["w"]
    assert solved.keep_mask is not None
    assert torch.equal(solved.keep_mask.reshape(ROWS, 4, 6).sum(-1), torch.full((ROWS, 4), 3))
    assert (solved.weight[~solved.keep_mask] == 0).all()
