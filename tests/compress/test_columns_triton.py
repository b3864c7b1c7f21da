"""The Triton kernel of the sweep against the loop of torch calls and against explicit inverses: compiled where there is
a CUDA device, else in Triton's interpreter. Marked gpu: the same at real sizes, in fp32.
"""

import math
import os
from collections.abc import Sequence

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
pytest.importorskip("triton", reason="triton is not installed: the kernel runs on CUDA alone, and in its interpreter")

from compress import columns_triton
from compress.columns import solve_columns
from compress.columns_triton import Kernel, LaneRows, step_width
from compress.hessian import HessianSum, factor, falling_diagonal
from compress.lanes import Lane, Pruning, Solved
from compress.layout_triton import to_columns, to_rows
from compress.masks import Segment, prune_cheapest
from compress.methods import Observer
from compress.quantizer import GridSpec, fit_grid, to_codes
from tests.compress import reference_solvers as naive

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF = Pruning(0.5, None, 8, (8,))
needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.columns.SWEEP_TF32", False)


def problem(seed: int, rows: int, columns: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [rows, columns] and the Hessian of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, dtype=torch.float64, generator=generator)
    inputs = torch.randn(4 * columns, columns, dtype=torch.float64, generator=generator)
    total = HessianSum(columns)
    total.add(inputs @ torch.randn(columns, columns, dtype=torch.float64, generator=generator))
    return weight.to(DEVICE, dtype), total.mean().to(DEVICE, dtype)


def solve_both(
    lanes: Sequence[Lane], hessian: torch.Tensor, *, act_order: bool = False
) -> tuple[list[Solved], list[Solved]]:
    """By the kernel and by the loop."""
    order = falling_diagonal(hessian) if act_order else None
    upper = factor(hessian if order is None else hessian[order][:, order], 0.01).upper
    by_kernel = solve_columns(lanes, upper, order=order, with_kernel=True)
    return by_kernel, solve_columns(lanes, upper, order=order, with_kernel=False)


def codes_of(solved: Solved) -> torch.Tensor | None:
    return to_codes(solved.weight, solved.grid) if solved.grid else None


def assert_same(ours: Solved, theirs: Solved) -> None:
    """Codes and masks to the bit, values but for the order of their sums."""
    tolerance = 1e-4 if theirs.weight.dtype == torch.float32 else 1e-9
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=tolerance, atol=tolerance)
    for mine, other in ((codes_of(ours), codes_of(theirs)), (ours.keep_mask, theirs.keep_mask)):
        assert (mine is None) == (other is None)
        assert mine is None or other is None or torch.equal(mine, other)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(
    "spec",
    [GridSpec(4, 8), GridSpec(3, 8, False), GridSpec(2, None), GridSpec(8, None, False), GridSpec(2, 4, ternary=True)],
    ids=["4 sym", "3 asym", "2 channel", "8 channel asym", "ternary"],
)
def test_gptq_equals_explicit_inverses_and_the_loop(spec: GridSpec, act_order: bool) -> None:
    weight, hessian = problem(0, 8, 16, torch.float64)
    (ours,), (theirs,) = solve_both([Lane(weight, spec, block_size=8)], hessian, act_order=act_order)
    assert_same(ours, theirs)
    if not spec.ternary:
        expected = naive.solve(
            weight.cpu().numpy(),
            naive.damp(hessian.cpu().numpy(), 0.01),
            bits=spec.num_bits,
            group=spec.group_size,
            symmetric=spec.symmetric,
            order=falling_diagonal(hessian).cpu().numpy() if act_order else None,
        )
        torch.testing.assert_close(ours.weight.cpu(), torch.from_numpy(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale_dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("symmetric", [True, False])
def test_grids_of_the_kernel_are_those_of_fit_grid(
    symmetric: bool, scale_dtype: torch.dtype, dtype: torch.dtype
) -> None:
    """Groups of two lanes; a group of zeros has the scale 1."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(70, 16, dtype=dtype, generator=generator).to(DEVICE)
    weight[3, 8:] = 0
    specs = [GridSpec(bits, size, symmetric, scale_dtype) for bits, size in ((4, 8), (3, 4))]
    lanes = [
        LaneRows(
            first, last, spec.group_size or 0, spec.lowest, spec.highest, False, 0, 0, spec.num_steps, not symmetric
        )
        for first, last, spec in ((0, 33, specs[0]), (33, 70, specs[1]))
    ]
    scale, zero_point = weight.new_full((4, 70), -1), weight.new_full((4, 70), -1)
    keep = torch.ones(16, 0, dtype=torch.bool, device=DEVICE)
    columns, order = weight.T.contiguous(), torch.arange(16, device=DEVICE)
    kernel = Kernel(lanes, columns, columns[:, :16], order, keep, scale, zero_point, scale_dtype)
    for column in range(0, 16, 4):
        kernel.fit(column)
    for rows, spec in ((slice(0, 33), specs[0]), (slice(33, 70), specs[1])):
        expected = fit_grid(weight[rows], spec)
        num_groups = expected.scale.shape[1]
        # On a card torch divides by a number by multiplying with its inverse.
        rounding = 2e-7 if DEVICE == "cuda" and scale_dtype == dtype == torch.float32 else 0
        torch.testing.assert_close(scale[:num_groups, rows].T, expected.scale, rtol=rounding, atol=0)
        assert torch.equal(zero_point[:num_groups, rows].T, expected.zero_point)
        assert (scale[num_groups:, rows] == -1).all()


@pytest.mark.parametrize("spec", [None, GridSpec(4, 8), GridSpec(3, 4, False)], ids=["alone", "4 sym", "3 asym"])
@pytest.mark.parametrize("pattern", [None, (2, 4), (1, 2), (3, 4)])
def test_pruning_equals_explicit_inverses_and_the_loop(pattern: tuple[int, int] | None, spec: GridSpec | None) -> None:
    weight, hessian = problem(1, 8, 16, torch.float64)
    pruning = HALF if pattern is None else Pruning(1 - pattern[0] / pattern[1], pattern, 8, (8,))
    (ours,), (theirs,) = solve_both([Lane(weight, spec, pruning, block_size=8)], hessian)
    assert_same(ours, theirs)
    expected = naive.solve(
        weight.cpu().numpy(),
        naive.damp(hessian.cpu().numpy(), 0.01),
        bits=spec.num_bits if spec else None,
        group=spec.group_size if spec else None,
        symmetric=spec.symmetric if spec else True,
        choose_mask=naive.pattern_mask(*pattern) if pattern else naive.unstructured_mask(0.5, 8),
    )
    torch.testing.assert_close(ours.weight.cpu(), torch.from_numpy(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(70, 72), (64, 128), (5, 200)])
def test_lanes_of_all_kinds_in_sizes_that_divide_nothing(
    rows: int, columns: int, act_order: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.columns.SPAN", 64)  # more than one of them
    weight, hessian = problem(2, rows, columns, torch.float32)
    given = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)).to(DEVICE) > 0.5
    lanes = [
        Lane(weight, GridSpec(4, 8)),
        Lane(weight[: rows // 2], GridSpec(3, None, False)),
        Lane(weight, GridSpec(2, 8, observer=Observer.MSE)),
        Lane(weight, GridSpec(4, 8), Pruning(0.5, None, 8, (rows - 2, 2))),
        Lane(weight, None, Pruning(0.5, (4, 8), 8, (rows,))),
        Lane(weight, None, Pruning(0.5, (2, 4), 8, (rows,))),
        Lane(weight, GridSpec(4, 4, False), keep_mask=given),
        Lane(weight, None, Pruning(0.3, None, 8, (rows,)), block_size=64),
    ]
    if act_order:  # a pattern is of neighbouring columns
        lanes = [lane for lane in lanes if lane.pruning is None]
    lanes = [lane for lane in lanes if lane.block_size == 128] if columns == 200 else lanes[:-1]
    for ours, theirs in zip(*solve_both(lanes, hessian, act_order=act_order), strict=True):
        assert_same(ours, theirs)


@pytest.mark.parametrize("shape", [shape for _, shape in columns_triton.SHAPES[:3]])
def test_programs_of_all_shapes_do_the_same(shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns_triton, "SHAPES", ((math.inf, shape),))
    weight, hessian = problem(4, 20, 56, torch.float32)
    lanes = [
        Lane(weight, GridSpec(4, 8)),
        Lane(weight, None, Pruning(0.5, (1, 2), 8, (20,))),
        Lane(weight, GridSpec(3, 8, False), Pruning(0.5, (2, 4), 8, (20,))),
        Lane(weight, GridSpec(4, None), Pruning(0.5, None, 8, (20,))),
    ]
    for ours, theirs in zip(*solve_both(lanes, hessian), strict=True):
        assert_same(ours, theirs)
    order = solve_both(lanes[:1], hessian, act_order=True)
    assert_same(order[0][0], order[1][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (70, 130), (64, 64)])
def test_matrices_come_back_from_the_order_of_a_sweep(rows: int, columns: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(rows, columns, generator=generator).to(DEVICE)
    matrix = matrix > 0 if dtype == torch.bool else matrix.to(dtype)
    order = torch.randperm(columns, generator=generator).to(DEVICE)
    stack = torch.zeros(columns, rows + 5, dtype=dtype, device=DEVICE)
    to_columns(matrix, order.argsort(), stack[:, 3:-2])
    assert torch.equal(stack[:, 3:-2], matrix.T[order])
    assert not stack[:, :3].any()
    assert not stack[:, -2:].any()
    assert torch.equal(to_rows(stack[:, 3:-2], order.argsort()), matrix)


def test_programs_hold_whole_patterns() -> None:
    assert [columns_triton._shape(100, {width})[1] for width in (2, 16, 32)] == [16, 16, 32]
    assert columns_triton._shape(10**6, set()) == columns_triton.SHAPES[-1][1]


def test_equal_costs_keep_the_first_columns_of_a_pattern() -> None:
    weight, hessian = torch.ones(3, 16, device=DEVICE), torch.eye(16, device=DEVICE)
    (ours,), (theirs,) = solve_both([Lane(weight, None, Pruning(0.5, (2, 4), 16, (3,)))], hessian)
    assert_same(ours, theirs)
    assert ours.keep_mask is not None and ours.keep_mask[0].tolist() == [True, True, False, False] * 4


@pytest.mark.parametrize("num_pruned", [0, 1, 900, 1999, 2000])
def test_the_cheapest_are_those_of_the_sort_and_the_first_of_equals(
    num_pruned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.masks_triton.MORE_ROWS", 32)  # several tiles of a segment
    generator = torch.Generator().manual_seed(num_pruned)
    W = torch.randint(-6, 7, (45, 300), generator=generator).float()  # many ties
    W[:, 150:] = torch.randn(45, 150, generator=generator) * 10.0 ** torch.randint(-6, 6, (1, 150), generator=generator)
    W, squared = W.to(DEVICE), (torch.rand(45, 1, generator=generator) + 0.5).to(DEVICE)
    squared[:20] = 1
    segments = [Segment(0, 50, num_pruned), Segment(50, 149, num_pruned // 2), Segment(200, 299, num_pruned)]
    keep = torch.ones(45, 299, dtype=torch.bool, device=DEVICE)
    expected = keep.clone()
    prune_cheapest(W, squared, keep, 3, 43, segments, with_kernel=True)
    prune_cheapest(W, squared, expected, 3, 43, segments, with_kernel=False)
    assert torch.equal(keep, expected)
    assert (~keep[3:43]).sum() == (~keep).sum() == 2 * num_pruned + num_pruned // 2


def test_halves_are_rounded_to_even_and_nan_stays() -> None:
    weight = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 7.5, 3.5]], device=DEVICE)
    hessian, spec = torch.eye(8, device=DEVICE), GridSpec(4, None, scale_dtype=torch.float32)
    (ours,), (theirs,) = solve_both([Lane(weight, spec)], hessian)
    assert_same(ours, theirs)
    assert ours.weight.tolist() == [[0, 2, 2, 0, -2, -2, 7, 4]]
    broken = weight.clone()
    broken[0, 2] = torch.nan
    for solved in solve_both([Lane(broken, spec)], hessian):
        assert solved[0].weight.isnan().any()


def test_steps_begin_where_grids_and_masks_do() -> None:
    assert step_width([], [], []) == 128
    assert step_width([64, 96], [128], [4]) == 32
    assert step_width([], [200], [8]) == 8
    assert step_width([], [], [6]) is None  # a pattern over the edge of the columns in registers
    assert step_width([2], [], [4]) is None


@pytest.mark.gpu
@needs_card
@pytest.mark.parametrize("num_rows", [4096, 100_000], ids=["one launch", "a launch each pass"])
def test_on_a_card_passes_over_the_costs_see_each_other(num_rows: int) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    W = torch.randn(256, num_rows, generator=generator, device=DEVICE)
    W[:, ::3] = (4 * W[:, ::3]).round()  # ties
    squared = torch.ones(256, 1, device=DEVICE)
    segments = [Segment(0, num_rows // 3, 128 * (num_rows // 3) // 2), Segment(num_rows // 3, num_rows, num_rows)]
    keep = torch.ones(256, num_rows, dtype=torch.bool, device=DEVICE)
    expected = keep.clone()
    for _ in range(20):
        keep.fill_(True)
        prune_cheapest(W, squared, keep, 128, 256, segments, with_kernel=True)
        if expected.all():
            prune_cheapest(W, squared, expected, 128, 256, segments, with_kernel=False)
        assert torch.equal(keep, expected)


@pytest.mark.gpu
@needs_card
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("tf32", [False, True], ids=["fp32", "TF32"])
def test_on_a_card_kernel_and_loop_agree_at_size(act_order: bool, tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.columns.SWEEP_TF32", tf32)
    weight, hessian = problem(3, 1000, 1024, torch.float32)
    lanes = [Lane(weight, GridSpec(bits, 128, symmetric)) for bits in (2, 3, 4, 8) for symmetric in (True, False)]
    if not act_order:
        lanes += [Lane(weight, None, Pruning(0.5, None, 128, (600, 400)))]
        lanes += [Lane(weight, GridSpec(4, 128), Pruning(0.5, (2, 4), 128, (1000,)))]
    for ours, theirs in zip(*solve_both(lanes, hessian, act_order=act_order), strict=True):
        changed = (ours.weight - theirs.weight).abs() > 1e-3 * theirs.weight.abs().max()
        assert changed.float().mean() < (
            0.1 if tf32 else 0.02
        )  # a near tie falls the other way, and what comes after it follows
        losses = [((weight - solved.weight) @ hessian * (weight - solved.weight)).sum() for solved in (ours, theirs)]
        torch.testing.assert_close(losses[0], losses[1], rtol=5e-3 if tf32 else 2e-3, atol=0)
