import math

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluate.sequential import (
    SequentialVerdict,
    compare_sequentially,
    confidence_sequence,
    log_capital,
)

WORSE, NOT_WORSE, UNDECIDED = SequentialVerdict.WORSE, SequentialVerdict.NOT_WORSE, SequentialVerdict.UNDECIDED


def flips(rng: np.random.Generator, n: int, share: float, difference: float) -> NDArray[np.float64]:
    """Differences of one sample a question: `share` of them flip, the mean is `difference`."""
    draws = rng.random(n)
    return np.where(draws < (share + difference) / 2, 1.0, np.where(draws < share, -1.0, 0.0))


def test_capital_is_the_mean_over_gamblers() -> None:
    """Against a plain loop over shares and questions."""
    shares = [0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99]
    values, m = [1.0, 0.0, -0.5, 1.0, 0.25], -0.1
    purses = [1.0] * len(shares)
    for i, x in enumerate(values):
        purses = [purse * (1 + f * (x - m) / (1 + m)) for purse, f in zip(purses, shares, strict=True)]
        expected = math.log(sum(purses) / len(purses))
        assert log_capital(np.array(values), m)[i] == pytest.approx(expected)


def test_order_does_not_change_the_capital_at_the_end() -> None:
    values = np.array([1.0, 0, 0, -1, -1, -1, 0.5])
    assert log_capital(values, 0.0)[-1] == pytest.approx(log_capital(values[::-1], 0.0)[-1])


def test_a_model_against_itself_is_hardly_ever_worse_however_often_one_looks() -> None:
    rng = np.random.default_rng(0)
    for share in (0.1, 0.4):
        verdicts = [compare_sequentially(flips(rng, 250, share, 0.0)).verdict for _ in range(150)]
        assert verdicts.count(WORSE) / 150 <= 0.05


def test_a_loss_of_the_margin_is_hardly_ever_called_none() -> None:
    rng = np.random.default_rng(1)
    verdicts = [compare_sequentially(flips(rng, 250, 0.2, -0.02), margin=0.02).verdict for _ in range(150)]
    assert verdicts.count(NOT_WORSE) / 150 <= 0.05


def test_a_clear_loss_is_found_early() -> None:
    rng = np.random.default_rng(2)
    found = [compare_sequentially(flips(rng, 250, 0.25, -0.2)) for _ in range(100)]
    assert all(f.verdict is WORSE for f in found)
    assert np.mean([f.num_decided or 0 for f in found]) < 80


def test_sequence_holds_the_truth_at_all_looks_at_once() -> None:
    rng = np.random.default_rng(3)
    num_runs, missed = 80, 0
    for _ in range(num_runs):
        d = flips(rng, 150, 0.3, -0.1)
        bounds = [confidence_sequence(d[:n]) for n in range(15, 151, 15)]
        missed += not all(low <= -0.1 <= high for low, high in bounds)
    assert missed / num_runs <= 0.05


def test_sequence_of_several_samples_is_narrower() -> None:
    rng = np.random.default_rng(4)
    single = flips(rng, 800, 0.4, 0.0)
    averaged = single.reshape(200, 4).mean(axis=1)
    low, high = confidence_sequence(averaged)
    assert low < 0 < high
    assert high - low < np.subtract(*confidence_sequence(single[:200])[::-1])


def test_whole_passes_over_unlike_questions_are_no_evidence_in_themselves() -> None:
    """Two thirds of 30 questions lose 0.2, a third gains 0.4: the mean is 0, and 32 passes do not say otherwise."""
    rng = np.random.default_rng(6)
    effects = np.where(np.arange(30) < 20, -0.2, 0.4)
    found = []
    for _ in range(150):
        old, new = rng.random((32, 30)) < 0.5, rng.random((32, 30)) < 0.5 + effects
        d = new.astype(float) - old
        found.append(compare_sequentially(d.ravel(), pairs_per_look=30).verdict)
    assert found.count(WORSE) / 150 <= 0.05


def test_passes_are_looked_at_whole() -> None:
    found = compare_sequentially([-1.0] * 20 + [0.0] * 20 + [-1.0] * 5, pairs_per_look=20)
    assert (found.verdict, found.num_decided, found.num_pairs) == (WORSE, 20, 40)
    waiting = compare_sequentially([-1.0, 0, 0, 0, 0] * 2, pairs_per_look=5)
    assert waiting.num_more is not None and waiting.num_more % 5 == 0


def test_a_verdict_stays_whatever_comes_after() -> None:
    found = compare_sequentially([-1.0] * 12 + [1.0] * 200)
    assert (found.verdict, found.num_pairs) == (WORSE, 212)
    assert found.num_decided is not None and found.num_decided <= 12
    assert found.num_more is None


def test_equal_answers_show_no_loss_once_there_are_enough() -> None:
    found = compare_sequentially([0.0] * 400, margin=0.02)
    assert found.verdict is NOT_WORSE and found.num_decided is not None and 150 <= found.num_decided <= 400
    assert -0.02 < found.low <= 0 <= found.high


def test_what_is_missing_is_estimated() -> None:
    """Five percent lost of a fifth that flips: the estimate points at the number of questions it then takes."""
    pattern = [-1.0, 0, 0, 0, 0, 1.0, 0, 0, -1.0, 0] * 6
    found = compare_sequentially(pattern, margin=0.02)
    assert (found.verdict, found.num_decided) == (UNDECIDED, None)
    assert found.num_more is not None
    later = compare_sequentially(pattern * 20, margin=0.02).num_decided
    assert later is not None
    assert later / 2 <= found.num_pairs + found.num_more <= later * 2


def test_nothing_seen_is_nothing_known() -> None:
    found = compare_sequentially([])
    assert (found.verdict, found.low, found.high, found.num_more) == (UNDECIDED, -1.0, 1.0, None)


@pytest.mark.parametrize(
    ("differences", "margin", "alpha"), [([1.5], 0.02, 0.05), ([math.nan], 0.02, 0.05), ([0], 0, 0.05), ([0], 0.02, 1)]
)
def test_values_out_of_range_are_refused(differences: list[float], margin: float, alpha: float) -> None:
    with pytest.raises(ValueError, match="must"):
        compare_sequentially(differences, margin=margin, alpha=alpha)
