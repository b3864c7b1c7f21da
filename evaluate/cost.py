"""What answers cost: `python -m evaluate cost DIR --usd-per-gpu-hour 2.50`, from GPU price, GPUs and throughput.

answers -> tokens per question, accuracy | throughput.json -> tokens/s with the queue full -> USD
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from evaluate.benchmarks import find_spec
from evaluate.comparability import read_folder
from evaluate.errors import BadInput
from evaluate.metrics import BenchmarkSummary, summarize
from evaluate.throughput import Throughput, read_throughput

S_PER_HOUR = 3600.0


@dataclass(frozen=True)
class BenchmarkCost:
    """One benchmark's cost. USD are None where no token was counted, or no answer is right."""

    name: str
    accuracy: float | None
    tokens_per_question: float | None
    tokens_per_correct_answer: float | None
    usd_per_1k_questions: float | None
    usd_per_correct_answer: float | None


def usd_per_1k_questions(
    usd_per_gpu_hour: float, tokens_per_question: float, tokens_per_s: float, num_gpus: int = 1
) -> float:
    """Price of 1,000 answers of that mean length.

    tokens_per_s: completion tokens of all the GPUs together, measured with the queue full. Raises ValueError for a
    throughput that is not above 0.
    """
    if tokens_per_s <= 0:
        raise ValueError(f"tokens_per_s is {tokens_per_s}, must be above 0")
    return 1000 * tokens_per_question / tokens_per_s * num_gpus * usd_per_gpu_hour / S_PER_HOUR


def usd_per_correct_answer(usd_per_1k: float, accuracy: float) -> float | None:
    """Price of one right answer, wrong ones paid too; None where none is right."""
    return usd_per_1k / 1000 / accuracy if accuracy > 0 else None


def cost_of(
    summary: BenchmarkSummary, usd_per_gpu_hour: float, tokens_per_s: float, num_gpus: int = 1
) -> BenchmarkCost:
    """The cost of one benchmark's answers."""
    tokens = summary.tokens_per_question.mean
    usd = None if tokens is None else usd_per_1k_questions(usd_per_gpu_hour, tokens, tokens_per_s, num_gpus)
    return BenchmarkCost(
        name=summary.name,
        accuracy=summary.accuracy,
        tokens_per_question=tokens,
        tokens_per_correct_answer=summary.tokens_per_correct_answer,
        usd_per_1k_questions=usd,
        usd_per_correct_answer=usd_per_correct_answer(usd, summary.accuracy or 0) if usd is not None else None,
    )


def print_costs(
    folder: Path, usd_per_gpu_hour: float, num_gpus: int, tokens_per_s: float | None, out: TextIO, *, as_json: bool
) -> None:
    """Writes the costs of a folder of answers as a table, or as one JSON object.

    tokens_per_s: None takes what the run measured. Raises BadInput for no answers, or where nothing was measured.
    """
    read = read_folder(folder)
    measured = read_throughput(folder)
    speed = tokens_per_s or (measured and measured.tokens_per_s)
    if not speed:
        raise BadInput(
            f"{folder / 'throughput.json'}: no throughput was measured; run with at least three times as many answers"
            " as --concurrency, or pass --tokens-per-s"
        )
    names = dict.fromkeys(answer.benchmark for answer in read.answers)
    summaries = [summarize([a for a in read.answers if a.benchmark == n], find_spec(n).kind) for n in names]
    costs = [cost_of(summary, usd_per_gpu_hour, speed, num_gpus) for summary in summaries]
    if as_json:
        prices = {"usd_per_gpu_hour": usd_per_gpu_hour, "num_gpus": num_gpus, "tokens_per_s": speed}
        energy = {"joules_per_question": measured.joules_per_question if measured else None}
        document = {**prices, **energy, "benchmarks": {cost.name: asdict(cost) for cost in costs}}
        print(json.dumps(document, indent=2), file=out)
    else:
        print(*_table(costs), sep="\n", file=out)
        print(f"{num_gpus} x {usd_per_gpu_hour:g} USD an hour at {speed:.0f} tokens/s{_energy(measured)}", file=out)


def _table(costs: Sequence[BenchmarkCost]) -> list[str]:
    heads = ("tokens/question", "tokens/correct", "USD/1k questions", "USD/correct")
    lines = [f"{'benchmark':<20}{'accuracy':>9}{''.join(f'{head:>18}' for head in heads)}"]
    for c in costs:
        accuracy = "-" if c.accuracy is None else f"{c.accuracy:.3f}"
        tokens = "".join(
            f"{'-' if x is None else f'{x:.0f}':>18}" for x in (c.tokens_per_question, c.tokens_per_correct_answer)
        )
        usd = "".join(
            f"{'-' if x is None else f'{x:.4g}':>18}" for x in (c.usd_per_1k_questions, c.usd_per_correct_answer)
        )
        lines.append(f"{c.name:<20}{accuracy:>9}{tokens}{usd}")
    return lines


def _energy(measured: Throughput | None) -> str:
    joules = measured.joules_per_question if measured else None
    return "" if joules is None else f", {joules:.4g} J a question"
