import math
import random

import pytest
from scipy import stats

from evaluate.intervals import accuracy_interval, t95, variance_of_mean, wilson_interval


@pytest.mark.parametrize(
    ("num_correct", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 30, 0.0, 0.1135), (30, 30, 0.8865, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_interval_of_tables(num_correct: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(num_correct / n, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("num_correct", "n"), [(0, 30), (7, 30), (22, 30), (61, 100), (203, 250)])
def test_wilson_interval_is_scipys(num_correct: int, n: int) -> None:
    expected = stats.binomtest(num_correct, n).proportion_ci(method="wilson")
    assert wilson_interval(num_correct / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("n", [30, 100, 250])
def test_wilson_interval_covers_exactly_what_it_says(n: int) -> None:
    """No simulation: the chance of each count, summed over those whose interval holds the truth."""
    intervals = [wilson_interval(x / n, n) for x in range(n + 1)]
    for p in (0.2, 0.35, 0.5, 0.65, 0.8):
        chances = [math.comb(n, x) * p**x * (1 - p) ** (n - x) for x in range(n + 1)]
        covered = sum(c for c, (low, high) in zip(chances, intervals, strict=True) if low <= p <= high)
        assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("degrees", [6, 9, 29, 99, 249])
def test_student_quantile_is_scipys(degrees: int) -> None:
    assert t95(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=2e-4)


def test_one_sample_a_problem_is_wilsons_interval() -> None:
    scores = [1.0] * 13 + [0.0] * 7
    assert accuracy_interval(scores, 1) == pytest.approx(wilson_interval(0.65, 20))
    assert accuracy_interval(scores, 1, list(range(20))) == pytest.approx(wilson_interval(0.65, 20))


def test_samples_of_one_problem_are_no_independent_trials() -> None:
    copies = accuracy_interval([1.0] * 10 + [0.0] * 10, 8)  # every sample of a problem alike
    spread = accuracy_interval([0.5] * 20, 8)  # samples vary, problems do not
    assert copies == pytest.approx(wilson_interval(0.5, 20))
    assert spread == pytest.approx(wilson_interval(0.5, 160))


def test_a_cluster_that_answers_as_one_counts_as_one() -> None:
    clusters = [i // 5 for i in range(100)]
    alike = [float(c % 2) for c in clusters]
    assert accuracy_interval(alike, 1, clusters) == pytest.approx(wilson_interval(0.5, 20))
    assert accuracy_interval([1.0] * 100, 1, clusters) == pytest.approx(wilson_interval(1.0, 20))


def test_of_a_single_question_or_story_no_spread_is_known() -> None:
    assert accuracy_interval([0.5], 8) == pytest.approx(wilson_interval(0.5, 1))
    assert accuracy_interval([1.0, 0.0], 1, [7, 7]) == pytest.approx(wilson_interval(0.5, 1))


def test_clusters_never_make_an_interval_narrower_than_independence() -> None:
    clusters = [i // 2 for i in range(100)]
    balanced = [float(i % 2) for i in range(100)]  # one right and one wrong in each: no spread between clusters
    assert accuracy_interval(balanced, 1, clusters) == pytest.approx(wilson_interval(0.5, 100))


def test_variance_of_mean_is_the_textbooks_for_single_questions() -> None:
    values = [1.0, 0.0, 0.5, 0.25, 1.0]
    assert variance_of_mean(values, range(5)) == pytest.approx(stats.tvar(values) / 5)


@pytest.mark.parametrize("accuracy", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("n", [30, 100])
def test_interval_covers_the_truth_with_several_samples(n: int, accuracy: float) -> None:
    """Questions of unlike difficulty, four samples each; the long form is tests/benchmarks/statistics_simulation.py."""
    rng = random.Random(f"{n}/{accuracy}")
    covered = 0
    for _ in range(600):
        chances = [rng.betavariate(2 * accuracy, 2 * (1 - accuracy)) for _ in range(n)]
        scores = [sum(rng.random() < c for _ in range(4)) / 4 for c in chances]
        low, high = accuracy_interval(scores, 4)
        covered += low <= accuracy <= high
    assert 0.93 <= covered / 600 <= 0.975


def test_interval_covers_the_truth_with_clusters() -> None:
    """40 stories of 2 to 8 questions, as FOLIO's; without the clusters one interval in five would miss."""
    rng = random.Random(1)
    covered = covered_by_wilson = 0
    for _ in range(600):
        scores, clusters = [], []
        for story in range(40):
            chance = rng.betavariate(0.7, 0.3)
            for _ in range(rng.randint(2, 8)):
                scores.append(float(rng.random() < chance))
                clusters.append(story)
        low, high = accuracy_interval(scores, 1, clusters)
        covered += low <= 0.7 <= high
        low, high = accuracy_interval(scores, 1)
        covered_by_wilson += low <= 0.7 <= high
    assert 0.925 <= covered / 600 <= 0.975
    assert covered_by_wilson / 600 < 0.85
