import itertools
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from evaluate.voting import majority_at_k, pass_at_k


def brute_pass(right: Sequence[bool], k: int) -> float:
    """Mean over all subsets."""
    subsets = list(itertools.combinations(right, k))
    return sum(any(s) for s in subsets) / len(subsets)


def brute_majority(votes: Sequence[tuple[str | None, bool]], k: int) -> float:
    """Mean over all subsets of the share of the tied winners that are right."""
    subsets = list(itertools.combinations(votes, k))
    total = 0.0
    for subset in subsets:
        counts = Counter(name for name, _ in subset if name is not None)
        winners = [name for name in counts if counts[name] == max(counts.values())]
        total += sum((name, True) in subset for name in winners) / len(winners) if winners else 0
    return total / len(subsets)


@pytest.mark.parametrize("num_correct", range(7))
@pytest.mark.parametrize("k", range(1, 7))
def test_pass_at_k_is_the_mean_over_all_subsets(num_correct: int, k: int) -> None:
    right = [i < num_correct for i in range(6)]
    assert pass_at_k(6, num_correct, k) == pytest.approx(brute_pass(right, k))


def test_majority_at_k_is_the_mean_over_all_subsets() -> None:
    rng = random.Random(0)
    for _ in range(60):
        names = [rng.choice(["7", "8", "9", "10", None]) for _ in range(8)]
        votes = [(name, name in ("7", "9")) for name in names]
        for k in range(1, 9):
            assert majority_at_k(votes, k) == pytest.approx(brute_majority(votes, k))


def test_ties_are_shared_and_silence_is_no_vote() -> None:
    votes = [("A", True), ("B", False), (None, False), (None, False)]
    assert majority_at_k(votes, 4) == 0.5
    assert majority_at_k([(None, False)] * 3, 2) == 0
    assert majority_at_k([("A", True), (None, False), (None, False)], 3) == 1


def test_one_vote_is_accuracy() -> None:
    votes = [("A", True)] * 3 + [("B", False)] * 4 + [(None, False)]
    assert majority_at_k(votes, 1) == pytest.approx(3 / 8)


def test_spelling_does_not_split_a_vote() -> None:
    votes = [("New  York", True), ("new york", True), ("Boston", False), ("Boston", False), ("Boston", False)]
    assert majority_at_k([*votes, ("NEW YORK", True), ("New york", True)], 7) == 1


def test_sixty_four_samples_are_exact_and_quick() -> None:
    """Half right, the rest all different: almost any eight samples agree on the right answer."""
    votes = [("1", True)] * 32 + [(str(i), False) for i in range(2, 34)]
    assert majority_at_k(votes, 64) == 1
    assert 0.95 < majority_at_k(votes, 8) < pass_at_k(64, 32, 8) < 1


@pytest.mark.parametrize("k", [0, 4])
def test_k_is_at_most_the_number_of_samples(k: int) -> None:
    with pytest.raises(ValueError, match="from 1 to the number of samples, 3"):
        pass_at_k(3, 1, k)
    with pytest.raises(ValueError, match="from 1 to the number of samples, 3"):
        majority_at_k([("A", True)] * 3, k)
