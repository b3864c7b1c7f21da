import itertools
import random
from dataclasses import replace
from math import sqrt

import pytest
from scipy import stats

from evaluate.intervals import Z95, wilson_interval
from evaluate.paired import (
    NonInferiority,
    Verdict,
    holm,
    mcnemar_p,
    mean_difference,
    minimum_detectable,
    non_inferiority,
    paired_difference,
    sign_flip_p,
    summarize_differences,
    verdict,
)
from evaluate.schema import Outcome
from tests.evaluate.made_answers import answers_of


def test_paired_difference_is_bonett_and_prices() -> None:
    """12 problems won, 5 lost of 50: the textbook formula, on its own."""
    a = answers_of([1] * 12 + [0] * 5 + [1] * 33)
    b = answers_of([0] * 12 + [1] * 5 + [1] * 33)
    won, lost = (12 + 1) / 52, (5 + 1) / 52
    half = Z95 * sqrt((won + lost - (won - lost) ** 2) / 52)
    found = paired_difference(a, b)
    assert (found.difference, found.num_problems) == (pytest.approx(0.14), 50)
    assert (found.flips_to_correct, found.flips_to_wrong) == (12, 5)
    assert (found.low, found.high) == pytest.approx((won - lost - half, won - lost + half))
    assert found.p_value == found.mcnemar_p == pytest.approx(stats.binomtest(12, 17).pvalue)


def test_no_flip_is_no_certainty() -> None:
    same = answers_of([1, 0] * 50)
    found = paired_difference(same, same)
    assert found.difference == 0
    assert found.low < -0.01 and found.high > 0.01
    assert not found.is_resolved
    assert (found.p_value, found.mcnemar_p) == (1, 1)


def test_pairs_are_matched_by_benchmark_and_problem_without_errors() -> None:
    a = answers_of([1, 1, 0, None])
    b = answers_of([0, None, 0, 1])
    other = [replace(x, benchmark="recall", outcome=Outcome.INCORRECT) for x in a]
    found = paired_difference(a + other, b)
    assert (found.num_problems, found.difference) == (2, 0.5)
    with pytest.raises(ValueError, match="no problem"):
        paired_difference(other, b)


def test_seeds_and_samples_are_averaged_before_pairing() -> None:
    a = answers_of([1, 1]) + answers_of([1, 0], sample=1)
    b = answers_of([0, 1])
    found = paired_difference(a, b)
    assert (found.difference, found.flips_to_correct, found.flips_to_wrong) == (0.25, 1, 1)
    assert found.mcnemar_p is None


def test_stories_that_flip_as_one_count_as_one() -> None:
    """Twenty problems in four stories: three stories lost whole, one unmoved."""
    a = [replace(x, cluster=str(int(x.problem_id) // 5)) for x in answers_of([0] * 15 + [1] * 5)]
    b = [replace(x, cluster=str(int(x.problem_id) // 5)) for x in answers_of([1] * 20)]
    found = paired_difference(a, b)
    assert found.mcnemar_p == pytest.approx(2 / 2**15)
    assert found.p_value == pytest.approx(2 / 2**3)
    alone = paired_difference(answers_of([0] * 15 + [1] * 5), answers_of([1] * 20))
    assert found.high - found.low > alone.high - alone.low


def test_a_model_against_itself_is_rarely_resolved() -> None:
    """Two runs that answer each question at random with the same chance: at most about one interval in twenty."""
    rng = random.Random(0)
    chances = [rng.random() for _ in range(100)]
    num_runs = 1000
    resolved = significant = 0
    for _ in range(num_runs):
        found = summarize_differences([(rng.random() < c) - (rng.random() < c) for c in chances])
        resolved, significant = resolved + found.is_resolved, significant + (found.p_value <= 0.05)
    assert resolved / num_runs <= 0.06
    assert significant / num_runs <= 0.05


@pytest.mark.parametrize("num_samples", [1, 4])
@pytest.mark.parametrize("n", [30, 100])
def test_interval_covers_the_true_difference(n: int, num_samples: int) -> None:
    """The long form is tests/benchmarks/statistics_simulation.py."""
    rng = random.Random(f"{n}/{num_samples}")
    chances = [rng.uniform(0.1, 0.9) for _ in range(n)]
    covered = 0
    for _ in range(600):
        differences = [
            sum((rng.random() < c - 0.1) - (rng.random() < c) for _ in range(num_samples)) / num_samples
            for c in chances
        ]
        found = summarize_differences(differences, num_samples=num_samples, scale=num_samples)
        covered += found.low <= -0.1 <= found.high
    assert 0.93 <= covered / 600 <= 0.985


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 5), (3, 9), (40, 21)])
def test_mcnemar_is_scipys_binomial_test(wins: int, losses: int) -> None:
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert mcnemar_p(wins, losses) == pytest.approx(expected)
    assert sign_flip_p([1.0] * wins + [-1.0] * losses + [0.0] * 7) == pytest.approx(expected)


def test_sign_flips_are_all_counted() -> None:
    rng = random.Random(3)
    for _ in range(20):
        values = [rng.choice([-1, -0.75, -0.25, 0, 0.25, 0.5, 1]) for _ in range(9)]
        patterns = list(itertools.product((-1, 1), repeat=9))
        far = sum(abs(sum(s * v for s, v in zip(p, values, strict=True))) >= abs(sum(values)) for p in patterns)
        assert sign_flip_p(values, 4) == pytest.approx(far / len(patterns))


def test_holm_is_the_textbooks() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_minimum_detectable_is_found_in_four_of_five_runs() -> None:
    """200 problems of which a fifth flips: the exact test at the smallest detectable difference."""
    n, share = 200, 0.2
    d = minimum_detectable(share, n)
    rng = random.Random(5)
    found = 0
    for _ in range(1000):
        draws = [rng.random() for _ in range(n)]
        wins = sum(x < (share + d) / 2 for x in draws)
        losses = sum((share + d) / 2 <= x < share for x in draws)
        found += mcnemar_p(wins, losses) <= 0.05
    assert 0.74 <= found / 1000 <= 0.84
    assert minimum_detectable(share, 800) == pytest.approx(d / 2, rel=0.05)
    assert minimum_detectable(0.2, 1) == 1


def test_verdicts_speak_of_the_margin() -> None:
    same = paired_difference(answers_of([1, 0] * 200), answers_of([1, 0] * 200))
    assert verdict(same, 1.0, 0.02) is Verdict.EQUAL
    assert verdict(same, 1.0, 0.005) is Verdict.UNDECIDED
    assert non_inferiority(same, 0.02) is NonInferiority.SHOWN
    assert non_inferiority(same, 0.005) is NonInferiority.OPEN
    worse = paired_difference(answers_of([0] * 100), answers_of([1] * 50 + [0] * 50))
    assert verdict(worse, worse.p_value, 0.02) is Verdict.WORSE
    assert non_inferiority(worse, 0.02) is NonInferiority.REFUTED
    better = paired_difference(answers_of([1] * 50 + [0] * 50), answers_of([0] * 100))
    assert verdict(better, better.p_value, 0.02) is Verdict.BETTER
    assert verdict(worse, 0.2, 0.02) is Verdict.UNDECIDED  # one of a family of tests


def test_errors_are_no_pairs() -> None:
    a, b = answers_of([1, 1, None]), answers_of([1, None, 0])
    assert paired_difference(a, b).num_problems == 1
    assert wilson_interval(1.0, 1)[0] < 0.21  # of one problem nothing much is known


def test_mean_difference_counts_each_benchmark_once() -> None:
    """Ten problems, of which five are lost, and a hundred, of which none is."""
    small, large = answers_of([1] * 10), [replace(x, benchmark="aime") for x in answers_of([1] * 100)]
    lost = answers_of([0] * 5 + [1] * 5)
    found = mean_difference([(lost, small), (large, large)])
    alone = paired_difference(lost, small)
    assert (found.difference, found.num_problems, found.flips_to_wrong) == (-0.25, 110, 5)
    assert found.p_value == pytest.approx(alone.p_value)
    assert found.low < -0.25 < found.high and found.high - found.low < alone.high - alone.low
    assert mean_difference([(lost, small)]).low == pytest.approx(alone.low)
    with pytest.raises(ValueError, match="at least one"):
        mean_difference([])


def test_mean_differences_test_weighs_by_benchmark() -> None:
    """Two problems of one benchmark, four of another: all sign patterns by hand."""
    a, b = answers_of([0, 0]), answers_of([1, 1])
    c = [replace(x, benchmark="aime") for x in answers_of([1, 0, 0, 0])]
    d = [replace(x, benchmark="aime") for x in answers_of([0, 1, 1, 0])]
    weights = [1 / 2, 1 / 2, 1 / 4, 1 / 4, 1 / 4]
    observed = abs(-1 / 2 - 1 / 2 + 1 / 4 - 1 / 4 - 1 / 4)
    patterns = list(itertools.product((-1, 1), repeat=5))
    far = sum(abs(sum(s * w for s, w in zip(p, weights, strict=True))) >= observed - 1e-9 for p in patterns)
    assert mean_difference([(a, b), (c, d)]).p_value == pytest.approx(far / len(patterns))
