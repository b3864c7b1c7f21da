"""Masks keep exactly what they promise."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.hessian import HessianSum, factor
from compress.lanes import Pruning
from compress.magnitude import prune_by_magnitude
from compress.masks import keep_largest, keep_pattern, num_to_prune
from compress.quantizer import GridSpec
from compress.sparsegpt import solve_sparsegpt

# Few distinct scores, so that ties are the rule.
scores = st.builds(
    lambda seed, *shape: torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(seed)).float(),
    st.integers(0, 10_000),
    st.integers(1, 6),
    st.sampled_from([8, 16, 24]),
)


@given(scores, st.floats(0, 0.99))
@settings(deadline=None, max_examples=60)
def test_unstructured_masks_prune_the_exact_number_of_the_smallest(values: torch.Tensor, sparsity: float) -> None:
    num_pruned = num_to_prune(sparsity, values.numel(), 0)
    keep = keep_largest(values, num_pruned)
    assert int((~keep).sum()) == num_pruned
    if 0 < num_pruned < values.numel():
        assert values[~keep].max() <= values[keep].min()


@given(scores, st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 4), (4, 8)]))
@settings(deadline=None, max_examples=60)
def test_patterns_keep_exactly_n_of_m(values: torch.Tensor, pattern: tuple[int, int]) -> None:
    keep = keep_pattern(values, pattern)
    counts = keep.reshape(values.shape[0], -1, pattern[1]).sum(-1)
    assert (counts == pattern[0]).all()
    groups, kept = values.reshape(-1, pattern[1]), keep.reshape(-1, pattern[1])
    for group, mask in zip(groups, kept, strict=True):
        assert group[~mask].max() <= group[mask].min()


@given(st.integers(0, 10_000), st.floats(0.01, 0.99), st.sampled_from([8, 16, 24, 64]))
@settings(deadline=None, max_examples=40)
def test_sparsegpt_reaches_the_ratio_exactly(seed: int, sparsity: float, block: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    total = HessianSum(48)
    total.add(torch.randn(96, 48, generator=generator))
    weight = torch.randn(7, 48, generator=generator)
    used = factor(total.mean(), 0.01)
    for spec in (None, GridSpec(4, 16)):
        solved = solve_sparsegpt(weight, used, Pruning(sparsity, None, block, (3, 4)), spec=spec)
        assert solved.keep_mask is not None
        assert int((~solved.keep_mask[:3]).sum()) == round(sparsity * 3 * 48)
        assert int((~solved.keep_mask[3:]).sum()) == round(sparsity * 4 * 48)
        assert (solved.weight[~solved.keep_mask] == 0).all()


def test_blocks_add_up_without_drift() -> None:
    parts = [num_to_prune(1 / 3, 10 * end, 10 * (end - 1)) for end in range(1, 31)]
    assert sum(parts) == 100
    assert set(parts) <= {3, 4}


def test_magnitude_prunes_the_smallest_of_the_matrix() -> None:
    weight = torch.tensor([[0.1, -4.0, 0.2, 3.0], [5.0, 0.3, -6.0, 7.0]])
    solved = prune_by_magnitude(weight, 0.375)
    assert solved.weight.tolist() == [[0.0, -4.0, 0.0, 3.0], [5.0, 0.0, -6.0, 7.0]]
    rows = prune_by_magnitude(weight, 0.5, (2, 4))
    assert rows.weight.tolist() == [[0.0, -4.0, 0.0, 3.0], [0.0, 0.0, -6.0, 7.0]]
