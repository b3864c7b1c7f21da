"""The command line: `python -m evaluate run` asks a server, `python -m evaluate grade` grades completions at hand,
`python -m evaluate regrade` a folder's answers anew,
`python -m evaluate compare` sets two folders of answers against each other, `python -m evaluate collapse` several;
`python -m evaluate cost` prices one.

Exit codes: 0 done, 1 done but some requests failed, 2 bad input (one line on stderr says which), 130 interrupted.
"""

import argparse
import asyncio
import errno
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from evaluate.arguments import parse_arguments
from evaluate.benchmarks import Benchmark, find_spec, load_benchmark
from evaluate.errors import BadInput, EvaluateError
from evaluate.metrics import BenchmarkSummary
from evaluate.schema import Answer, Endpoint, Outcome, Sampling

if TYPE_CHECKING:
    from evaluate.rendering import Renderer

DEFAULT_NUM_GENERATED = 100


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv, __doc__)
    try:
        code = _COMMANDS[arguments.command](arguments)
        sys.stdout.flush()
        return code
    except EvaluateError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # of a reader that has seen enough, such as `head`
            print(f"error: {_told(error)}", file=sys.stderr)
        _let_go_of_output()
        return 2
    except KeyboardInterrupt:
        print("interrupted; finished answers are kept, run again to go on", file=sys.stderr)
        return 130


def _let_go_of_output() -> None:
    """Where standard output takes no more, what is left in its buffer goes nowhere, without an error at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _told(error: OSError) -> str:
    """One line: the file that cannot be read or written, why, and what to do."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    way_out = "free some space" if is_full else "change its rights or give another path"
    return f"{error.filename2 or error.filename or 'standard output'}: {error.strerror or error}; {way_out}"


def _run(arguments: argparse.Namespace) -> int:
    from evaluate.progress import Progress
    from evaluate.runner import run_benchmarks
    from evaluate.store import read_answers
    from evaluate.throughput import Throughput, ThroughputMeter, read_joules

    benchmarks = _load(arguments.benchmark, arguments.num_problems, arguments.skip_problems)
    sampling = Sampling(
        arguments.max_tokens, arguments.temperature, arguments.top_p, arguments.seed, arguments.num_completions
    )
    num_answers = sum(len(b.problems) for b in benchmarks) * sampling.num_completions
    heads = [f"{b.name}: {len(b.problems)} problems, {b.source}, {b.license}" for b in benchmarks]
    meter = ThroughputMeter(arguments.concurrency)
    start_j = read_joules(arguments.energy_gpus) if arguments.energy_gpus else 0.0
    with Progress(num_answers, sys.stderr, heads) as progress:

        def count(answer: Answer) -> None:
            progress.count(answer)
            meter.count(answer)

        summary = asyncio.run(
            run_benchmarks(
                Endpoint(arguments.endpoint, arguments.model, arguments.api_key_env),
                benchmarks,
                sampling,
                arguments.output,
                prompting=arguments.prompting,
                concurrency=arguments.concurrency,
                settings=dict(arguments.setting),
                stall_timeout_s=arguments.stall_timeout,
                renderer=_renderer(arguments),
                max_model_len=arguments.max_model_len,
                on_answer=count,
            )
        )
    is_measured = arguments.energy_gpus and meter.num_answers
    joules = (read_joules(arguments.energy_gpus) - start_j) / meter.num_answers if is_measured else None
    Throughput(meter.tokens_per_s(), arguments.concurrency, joules).write(arguments.output)
    print(json.dumps(summary.to_json(), indent=2) if arguments.json else _table(summary.benchmarks))
    if summary.num_errors:
        first = next(answer.error for answer in read_answers(arguments.output) if answer.outcome is Outcome.ERROR)
        where = f"see `error` in {arguments.output}/answers.jsonl; the first: {first}"
        print(f"{summary.num_errors} requests failed, {where}", file=sys.stderr)
    return 1 if summary.num_errors else 0


def _renderer(arguments: argparse.Namespace) -> "Renderer | None":
    if arguments.tokenizer is None:
        if arguments.max_model_len is not None:
            raise BadInput("--max-model-len: needs --tokenizer DIR, which counts a prompt's tokens")
        return None
    from evaluate.rendering import Renderer

    return Renderer(arguments.tokenizer)


def _load(names: Sequence[str], num_problems: int | None, skip_problems: int) -> list[Benchmark]:
    """Loads NAME[=FILE] arguments. Raises BadInput."""
    benchmarks: list[Benchmark] = []
    for argument in names:
        name, has_file, file = argument.partition("=")
        if has_file and not file:
            raise BadInput(f"--benchmark {argument}: names no file, must be NAME or NAME=FILE")
        if any(b.name == name for b in benchmarks):
            raise BadInput(f"--benchmark {name}: stands there twice, must be given once")
        default = DEFAULT_NUM_GENERATED if find_spec(name).generated else None
        path = Path(file) if has_file else None
        benchmarks.append(
            load_benchmark(name, file=path, num_problems=num_problems or default, skip_problems=skip_problems)
        )
    return benchmarks


def _table(parts: Sequence[BenchmarkSummary]) -> str:
    counted = ("truncated", "no_answer", "error")
    heads = "".join(f"{name:>11}" for name in ("tokens", *counted))
    lines = [f"{'benchmark':<20}{'accuracy':>9}  {'95 % interval':<15}{heads}"]
    for part in parts:
        low, high, tokens = part.accuracy_low, part.accuracy_high, part.tokens_per_question.mean
        interval = f"{low:.3f} - {high:.3f}" if low is not None and high is not None else "-"
        counts = "".join(f"{part.outcomes[key]:>11}" for key in counted)
        accuracy = "-" if part.accuracy is None else f"{part.accuracy:.3f}"
        lines.append(
            f"{part.name:<20}{accuracy:>9}  {interval:<15}{'-' if tokens is None else f'{tokens:.0f}':>11}{counts}"
        )
    return "\n".join(lines)


def _grade(arguments: argparse.Namespace) -> int:
    from evaluate.grade_file import grade_file

    return grade_file(arguments.benchmark, arguments.file, sys.stdout, closing_count=not arguments.json)


def _regrade(arguments: argparse.Namespace) -> int:
    from evaluate.regrade import regrade_folder

    print(regrade_folder(arguments.folder, arguments.benchmark, as_json=arguments.json))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from evaluate.compare import compare_folders, print_comparison

    comparison = compare_folders(arguments.a, arguments.b, margin=arguments.margin, allowed=arguments.allow_different)
    print_comparison(comparison, sys.stdout, as_json=arguments.json)
    return 0


def _collapse(arguments: argparse.Namespace) -> int:
    from evaluate.collapse import CollapseRule
    from evaluate.collapse_report import print_collapse, report_collapse

    folders: dict[float, Path] = {}
    for text, folder in arguments.folders:
        level = _level(text, folder)
        if level in folders:
            raise BadInput(f"{text}={folder}: level {text} stands there twice, must be given once")
        folders[level] = folder
    for name, _ in arguments.chance:
        find_spec(name)
    rule = CollapseRule(threshold=arguments.threshold, chance=dict(arguments.chance))
    print_collapse(
        report_collapse(folders, rule, allowed=arguments.allow_different), sys.stdout, as_json=arguments.json
    )
    return 0


def _cost(arguments: argparse.Namespace) -> int:
    from evaluate.cost import print_costs

    prices = arguments.usd_per_gpu_hour, arguments.num_gpus, arguments.tokens_per_s
    print_costs(arguments.folder, *prices, sys.stdout, as_json=arguments.json)
    return 0


def _level(text: str, folder: Path) -> float:
    try:
        level = float(text)
    except ValueError:
        level = math.nan
    if not math.isfinite(level):
        raise BadInput(f"{text}={folder}: level is {text!r}, must be a number that grows with compression")
    return level


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "grade": _grade,
    "regrade": _regrade,
    "compare": _compare,
    "collapse": _collapse,
    "cost": _cost,
}

if __name__ == "__main__":
    sys.exit(main())
