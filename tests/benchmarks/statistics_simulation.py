"""How well the intervals cover and the tests behave, by simulation; prints the tables of docs/evaluation.md.

Run by hand, a few minutes on one core: `python tests/benchmarks/statistics_simulation.py [--runs 4000]`.
"""

import argparse
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evaluate.intervals import accuracy_interval, wilson_interval
from evaluate.paired import SIGNIFICANCE, summarize_differences
from evaluate.sequential import confidence_sequence, log_capital

Array = NDArray[np.float64]
SIZES, ACCURACIES = (30, 100, 250), (0.2, 0.35, 0.5, 0.65, 0.8)
MARGIN = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=4000, metavar="N", help="simulated runs a cell (default 4000)")
    num_runs = parser.parse_args().runs
    print(f"{num_runs} runs a cell, seed 0 for each table\n")
    for table in (accuracy_table, difference_table, same_model_table, power_table):
        table(np.random.default_rng(0), num_runs)
    sequence_table(np.random.default_rng(0), max(num_runs // 10, 100))


# Coverage of the accuracy's interval


def accuracy_table(rng: np.random.Generator, num_runs: int) -> None:
    """Nominal 95 %: Wilson computed exactly, the rest simulated."""
    columns: dict[str, Callable[[int, float], float]] = {
        "1 sample (exact)": exact_wilson,
        "4 samples": lambda n, p: coverage(num_runs, p, lambda: samples(rng, n, p, 4)),
        "16 samples": lambda n, p: coverage(num_runs, p, lambda: samples(rng, n, p, 16)),
        "stories": lambda n, p: coverage(num_runs, p, lambda: stories(rng, n, p, 0.4)),
        "stories, ignored": lambda n, p: coverage(num_runs, p, lambda: (stories(rng, n, p, 0.4)[0], 1, None)),
    }
    print("Coverage of the 95 % interval of an accuracy, in %; stories: 5 questions each, correlated 0.4")
    print(f"| questions | accuracy | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 2)}")
    found: dict[str, list[float]] = {name: [] for name in columns}
    for n in SIZES:
        for p in ACCURACIES:
            for name, cover in columns.items():
                found[name].append(cover(n, p))
            print(f"| {n} | {p} | {' | '.join(f'{100 * found[name][-1]:.1f}' for name in columns)} |", flush=True)
    print(f"| extremes | | {' | '.join(f'{100 * min(f):.1f} - {100 * max(f):.1f}' for f in found.values())} |")
    curve = [(exact_wilson(n, p), n, p) for n in SIZES for p in np.linspace(0.2, 0.8, 601)]
    low, high = min(curve), max(curve)
    print(
        f"\nWilson, exact, over p = 0.200, 0.201 ... 0.800: lowest {100 * low[0]:.2f} (n {low[1]}, p {low[2]:.3f}),",
        end="",
    )
    print(f" highest {100 * high[0]:.2f} (n {high[1]}, p {high[2]:.3f})\n")


def exact_wilson(n: int, p: float) -> float:
    """Chance that the interval of a binomial count holds p."""
    intervals = [wilson_interval(x / n, n) for x in range(n + 1)]
    held = np.array([low <= p <= high for low, high in intervals])
    return float(stats.binom.pmf(np.arange(n + 1), n, p)[held].sum())


Draw = tuple[Array, float, Sequence[int] | None]


def samples(rng: np.random.Generator, n: int, p: float, num_samples: int) -> Draw:
    """Questions of unlike difficulty (beta, concentration 1: most are near 0 or 1), several samples each."""
    chances = rng.beta(p, 1 - p, n)
    return rng.binomial(num_samples, chances) / num_samples, num_samples, None


def stories(rng: np.random.Generator, n: int, p: float, correlation: float) -> Draw:
    """Stories of five questions with one chance; two answers of a story correlate as said."""
    concentration = 1 / correlation - 1
    clusters = np.arange(n) // 5
    chances = rng.beta(p * concentration, (1 - p) * concentration, n // 5)[clusters]
    return (rng.random(n) < chances).astype(float), 1, clusters.tolist()


def coverage(num_runs: int, p: float, draw: Callable[[], Draw]) -> float:
    held = 0
    for _ in range(num_runs):
        scores, num_samples, clusters = draw()
        low, high = accuracy_interval(scores.tolist(), num_samples, clusters)
        held += low <= p <= high
    return held / num_runs


# Coverage of the paired difference's interval, and the level of its test


def difference_table(rng: np.random.Generator, num_runs: int) -> None:
    """Independent questions with 1, 4, 16 samples, and one sample of questions in stories whose effects differ."""
    print("Coverage of the 95 % interval of a paired difference, in %, and how often p <= 0.05 without a difference")
    print("| questions | samples | true difference -0.1 | none | p <= 0.05 |\n|---|---|---|---|---|")
    for n in SIZES:
        for design in (1, 4, 16, "1, stories"):
            cells = [paired_cell(rng, num_runs, n, design, true) for true in (-0.1, 0.0)]
            print(f"| {n} | {design} | {' | '.join(f'{100 * x:.1f}' for x in (cells[0][0], *cells[1]))} |")
    print(flush=True)


def paired_cell(rng: np.random.Generator, num_runs: int, n: int, design: int | str, true: float) -> tuple[float, float]:
    """Share of runs whose interval holds the true difference, and share with p <= 0.05."""
    num_samples = design if isinstance(design, int) else 1
    clusters = None if isinstance(design, int) else np.repeat(np.arange(n // 5), 5)
    held = false = 0
    for _ in range(num_runs):
        if clusters is None:
            d = differences(rng, n, num_samples, true, 0.5)
        else:
            d = story_differences(rng, clusters, true)
        known = None if clusters is None else clusters.tolist()
        found = summarize_differences(d.tolist(), known, num_samples=num_samples, scale=num_samples)
        held += found.low <= true <= found.high
        false += found.p_value <= SIGNIFICANCE
    return held / num_runs, false / num_runs


def story_differences(rng: np.random.Generator, clusters: NDArray[np.int64], true: float) -> Array:
    """Half of the stories gain 24 points, half lose as many, beside the true difference."""
    num_stories = clusters[-1] + 1
    chances = rng.uniform(0.4, 0.6, num_stories)
    shifted = chances + rng.choice([-0.24, 0.24], num_stories) + true
    draws = rng.random((2, len(clusters)))
    return (draws[0] < shifted[clusters]).astype(float) - (draws[1] < chances[clusters])


def differences(rng: np.random.Generator, n: int, num_samples: int, true: float, mean: float) -> Array:
    """Candidate minus baseline, independent samples; the baseline's chances are spread over the questions."""
    room = min(mean, 1 - mean)
    chances = mean + rng.uniform(-room, room, n) * 0.8
    lowered = np.clip(chances + true, 0, 1)
    return (rng.binomial(num_samples, lowered) - rng.binomial(num_samples, chances)) / num_samples


# A model against itself, and a worse one: gates, tests and the anytime-valid comparison

SETTINGS = {  # name: questions, samples a question, mean accuracy; chances are beta with concentration 1
    "AIME, avg@1": (30, 1, 0.65),
    "AIME, avg@16": (30, 16, 0.65),
    "AIME, avg@32": (30, 32, 0.65),
    "AIME, avg@64": (30, 64, 0.65),
    "FOLIO": (203, 1, 0.75),
    "temporal sequences": (250, 1, 0.85),
    "1,000 questions": (1000, 1, 0.75),
}


def paired_runs(rng: np.random.Generator, num_runs: int, n: int, num_samples: int, mean: float, loss: float) -> Array:
    """Differences of pairs of runs, shape [runs, passes, questions]; a share `loss / mean` of right answers is lost."""
    chances = rng.beta(mean, 1 - mean, (num_runs, 1, n))
    shape = (num_runs, num_samples, n)
    lowered = chances * (1 - loss / mean)
    return (rng.random(shape) < lowered).astype(float) - (rng.random(shape) < chances)


def rejections(d: Array) -> dict[str, Array]:
    """After how many pairs of answers each rule calls the candidate worse, by run; infinity where it never does."""
    _, num_samples, n = d.shape
    mean = d.mean(axis=(1, 2))
    p_values, running = looked_at(d)
    ends = {
        "flat 1-point gate": mean < -0.01 + 1e-12,
        "fixed-size test": (p_values[:, -1] <= SIGNIFICANCE) & (mean < 0),
    }
    rules = {name: np.where(is_worse, float(n * num_samples), math.inf) for name, is_worse in ends.items()}
    step = n if num_samples > 1 else 1
    rules["same test at each look"] = step * first_true((p_values <= SIGNIFICANCE) & (running < 0))
    rules["anytime-valid"] = step * first_true(capital_at_looks(-d, 0.0) >= math.log(1 / SIGNIFICANCE))
    return rules


def looked_at(d: Array) -> tuple[Array, Array]:
    """Two-sided p and mean at each look: McNemar's exact test after each question, the t test after each pass."""
    _, num_samples, n = d.shape
    if num_samples == 1:
        flat = d[:, 0]
        wins, losses = np.cumsum(flat > 0, axis=1), np.cumsum(flat < 0, axis=1)
        p = np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(wins, losses), wins + losses, 0.5))
        return p, np.cumsum(flat, axis=1)
    means = np.cumsum(d, axis=1) / np.arange(1, num_samples + 1)[:, None]
    errors = np.maximum(means.std(axis=2, ddof=1), 1e-9) / math.sqrt(n)
    return 2 * stats.t.sf(np.abs(means.mean(axis=2)) / errors, n - 1), means.mean(axis=2)


def capital_at_looks(d: Array, m: float) -> Array:
    """Log capital after each question of a single pass, or after each of several passes."""
    _, num_samples, n = d.shape
    step = n if num_samples > 1 else 1
    return np.stack([log_capital(run.ravel(), m)[step - 1 :: step] for run in d])


def first_true(hits: NDArray[np.bool_]) -> Array:
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1.0, math.inf)


def same_model_table(rng: np.random.Generator, num_runs: int) -> None:
    print(
        "A model against itself: how often it is called worse, in %; a look after each question, with several samples"
    )
    print("after each pass over all questions; noise: standard deviation of the difference, in points")
    heads = list(rejections(paired_runs(rng, 2, 30, 1, 0.5, 0.0)))
    print(f"| benchmark | questions x samples | noise | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 3)}")
    for name, (n, num_samples, mean) in SETTINGS.items():
        d = paired_runs(rng, num_runs, n, num_samples, mean, 0.0)
        cells = " | ".join(f"{100 * np.isfinite(found).mean():.1f}" for found in rejections(d).values())
        print(f"| {name} | {n} x {num_samples} | {100 * d.mean(axis=(1, 2)).std():.1f} | {cells} |", flush=True)
    print()


def power_table(rng: np.random.Generator, num_runs: int) -> None:
    print(
        "A worse model: how often it is called worse, in %; how often the anytime-valid comparison says 'not worse by"
    )
    print(f"the margin' ({MARGIN:g}) instead; pairs of answers asked for before it stopped, of all")
    print("| benchmark | loss, points | fixed-size test | anytime-valid | not worse | asked | saved |")
    print("|---|---|---|---|---|---|---|")
    for name, (n, num_samples, mean) in SETTINGS.items():
        for loss in (0.0, 0.02, 0.05, 0.1, 0.2):
            d = paired_runs(rng, num_runs, n, num_samples, mean, loss)
            rules = rejections(d)
            step = n if num_samples > 1 else 1
            fine = step * first_true(capital_at_looks(d, -MARGIN) >= math.log(1 / SIGNIFICANCE))
            worse = rules["anytime-valid"]
            asked = np.minimum(np.minimum(worse, fine), n * num_samples)
            shares = (np.isfinite(rules["fixed-size test"]), np.isfinite(worse) & (worse <= fine), fine < worse)
            cells = " | ".join(f"{100 * share.mean():.1f}" for share in shares)
            saved = f"{asked.mean():.0f} of {n * num_samples} | {100 * (1 - asked.mean() / n / num_samples):.0f} %"
            print(f"| {name} | {100 * loss:g} | {cells} | {saved} |", flush=True)
    print()


def sequence_table(rng: np.random.Generator, num_runs: int) -> None:
    """Coverage at all looks at once: the sequence is looked at after every fifth question."""
    print(f"Confidence sequence: runs ({num_runs}) whose bounds held the truth at every look, and width at the end")
    print("| questions | share that flips | true difference | held throughout, % | width |\n|---|---|---|---|---|")
    for n, share, true in ((100, 0.1, 0.0), (100, 0.3, -0.1), (250, 0.1, -0.05), (250, 0.3, -0.2)):
        held, widths = 0, []
        for _ in range(num_runs):
            draws = rng.random(n)
            d = np.where(draws < (share + true) / 2, 1.0, np.where(draws < share, -1.0, 0.0))
            bounds = [confidence_sequence(d[:looks]) for looks in range(5, n + 1, 5)]
            held += all(low <= true <= high for low, high in bounds)
            widths.append(bounds[-1][1] - bounds[-1][0])
        print(f"| {n} | {share} | {true} | {100 * held / num_runs:.1f} | {np.mean(widths):.3f} |", flush=True)


if __name__ == "__main__":
    main()
