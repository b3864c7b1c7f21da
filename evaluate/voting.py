"""pass@k and maj@k of one problem from its samples: expected values over subsets, exact, no resampling."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction
from math import comb


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that at least one of k samples is right: 1 - C(n-c, k) / C(n, k), unbiased (Chen et al. 2021).

    Raises ValueError unless 1 <= k <= num_samples.
    """
    _check(num_samples, k)
    return 1 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def majority_at_k(votes: Sequence[tuple[str | None, bool]], k: int) -> float:
    """Chance that the most frequent answer among k of the samples is right (maj@k, self-consistency).

    votes: for each sample the answer that was read and whether it scores; answers are compared without regard to
    case and spaces, None (truncated, none given) is no vote. A tie is shared: right counts 1 / number of tied answers.
    Where nobody votes the problem is not solved. The mean over all subsets of k samples, which for k = all is the
    plain majority. Raises ValueError unless 1 <= k <= number of samples.
    """
    _check(len(votes), k)
    cast = [(" ".join(answer.split()).casefold(), is_right) for answer, is_right in votes if answer is not None]
    counts = Counter(name for name, _ in cast)
    right = sorted({name for name, is_right in cast if is_right})
    num_silent = len(votes) - len(cast)
    wins = Fraction(0)
    for name in right:
        others = [count for other, count in counts.items() if other != name]
        for top in range(1, min(counts[name], k) + 1):
            wins += comb(counts[name], top) * _shares(others, num_silent, top, k - top)
    return float(wins / comb(len(votes), k))


def _shares(others: Sequence[int], num_silent: int, top: int, num_drawn: int) -> Fraction:
    """Sum over the ways to draw the rest, none of the others above `top`, of 1 / (1 + others that reach it)."""
    free = num_silent + sum(count for count in others if count < top)  # these can neither win nor tie
    ways: dict[tuple[int, int], int] = {(x, 0): comb(free, x) for x in range(min(free, num_drawn) + 1)}
    for count in (count for count in others if count >= top):
        widened: defaultdict[tuple[int, int], int] = defaultdict(int)
        for (drawn, ties), number in ways.items():
            for x in range(min(top, num_drawn - drawn) + 1):
                widened[drawn + x, ties + (x == top)] += number * comb(count, x)
        ways = widened
    return sum((Fraction(number, ties + 1) for (drawn, ties), number in ways.items() if drawn == num_drawn), Fraction())


def _check(num_samples: int, k: int) -> None:
    if not 1 <= k <= num_samples:
        raise ValueError(f"k is {k}, must be from 1 to the number of samples, {num_samples}")
