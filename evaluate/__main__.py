"""The command line: `python -m evaluate run` asks a server, `python -m evaluate grade` grades completions at hand,
`python -m evaluate compare` sets two folders of answers against each other.

Exit codes: 0 done, 1 done but some requests failed, 2 bad input (one line on stderr says which), 130 interrupted.
"""

import argparse
import asyncio
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from evaluate.benchmarks import BENCHMARKS, Benchmark, find_spec, load_benchmark
from evaluate.errors import BadInput, EvaluateError, nearest
from evaluate.metrics import BenchmarkSummary
from evaluate.schema import DEFAULT_STALL_TIMEOUT_S, Endpoint, Prompting, Sampling

if TYPE_CHECKING:
    from evaluate.rendering import Renderer

DEFAULT_NUM_GENERATED = 100

_RUN_EXAMPLES = """examples:
  python -m evaluate run --endpoint http://127.0.0.1:8000/v1 --model my-model \\
      --benchmark temporal --benchmark arithmetic --num-problems 100 --output answers/my-model
  python -m evaluate run --endpoint http://127.0.0.1:8000/v1 --model my-model \\
      --benchmark aime=aime24.jsonl --benchmark folio --max-tokens 32768 --output answers/my-model

Run it again with the same arguments to go on where it stopped: finished answers are never asked again, failed
requests are. DIR/answers.jsonl holds every answer raw, DIR/summary.json the numbers."""

_GRADE_EXAMPLES = """each line of FILE.jsonl:
  {"completion": TEXT or null, "finish_reason": TEXT or null, "reference": TEXT or [TEXT, ...]}
  where letters are asked for, "options" too: "Options:\\n(A) 6pm to 9pm\\n(B) 7am to 11am"
each line on stdout, in the same order:
  {"outcome": ..., "answer": ..., "rule": ...}, for musique and recall "f1" too

outcomes: correct, incorrect, no_answer (nothing committed after the thinking), truncated (finish_reason is length),
error (no completion). The exit code is 0 whatever the grades."""


_COMPARE_EXAMPLES = """examples:
  python -m evaluate compare answers/base answers/gptq-4bit
  python -m evaluate compare answers/base answers/gptq-4bit --margin 0.01 --json
  python -m evaluate compare answers/base answers/other-family --allow-different prompt_tokens

DIR_A is the baseline: differences are B minus A, verdicts are about B. The two must have been asked and graded alike
(problems, prompting, template, sampling, samples, token limit, settings, grader, handling of the thinking); else
nothing is printed, the exit code is 2 and each difference is named with its KEY. What is compared (model, weights),
the seed and failed requests are named and no hindrance."""


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, with the nearest option."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()[0] if "unrecognized" in message else ""
        parsers = [
            self,
            *(p for a in self._actions if isinstance(a, argparse._SubParsersAction) for p in a.choices.values()),
        ]
        options = [option for parser in parsers for option in parser._option_string_actions]
        self.exit(2, f"error: {message}{nearest(unknown, options)} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except EvaluateError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; finished answers are kept, run again to go on", file=sys.stderr)
        return 130


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="python -m evaluate", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(metavar="{run,grade,compare}", required=True)
    run, grade, compare = (
        commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for name, text, epilog in (
            ("run", "ask a served model the questions of some benchmarks, grade and summarize", _RUN_EXAMPLES),
            ("grade", "grade completions from a file, one JSON object a line, without any model", _GRADE_EXAMPLES),
            ("compare", "set one folder of answers against another, problem by problem", _COMPARE_EXAMPLES),
        )
    )
    _add_run_arguments(run)
    grade.add_argument("--benchmark", required=True, metavar="NAME", help=f"whose grader: {', '.join(BENCHMARKS)}")
    grade.add_argument("file", type=Path, metavar="FILE.jsonl", help="the completions")
    grade.add_argument("--json", action="store_true", help="only the output lines on stdout, no closing count")
    _add_compare_arguments(compare)
    run.set_defaults(command=_run)
    grade.set_defaults(command=_grade)
    compare.set_defaults(command=_compare)
    return parser.parse_args(argv)


def _add_run_arguments(run: argparse.ArgumentParser) -> None:
    add = run.add_argument
    add(
        "--endpoint",
        required=True,
        metavar="URL",
        help="an OpenAI-compatible server, up to its version: http://HOST/v1",
    )
    add("--model", required=True, metavar="NAME", help="the model's name on that server")
    add(
        "--benchmark",
        required=True,
        action="append",
        metavar="NAME[=FILE]",
        help=f"repeatable; {', '.join(BENCHMARKS)}; FILE as its publisher writes it, else from the Hugging Face hub",
    )
    add("--output", required=True, type=Path, metavar="DIR", help="folder of the answers; an existing one is resumed")
    add("--num-problems", type=_number(int, 1, 10**6), metavar="N", help="at most N of each (generated ones: 100)")
    add(
        "--skip-problems",
        type=_number(int, 0, 10**6),
        default=0,
        metavar="N",
        help="leave out the first N of the order that all runs share: a set held out from a run with --num-problems N",
    )
    add(
        "--max-tokens", type=_number(int, 1, 10**7), default=32768, metavar="N", help="per answer (default %(default)s)"
    )
    add("--temperature", type=_number(float, 0, 10), default=0.6, metavar="T", help="0 is greedy (default %(default)s)")
    add("--top-p", type=_number(float, 1e-6, 1), default=0.95, metavar="P", help="default %(default)s")
    add("--seed", type=_number(int, 0, 2**31 - 1), default=0, metavar="S", help="of the sampling (default %(default)s)")
    add("--num-completions", type=_number(int, 1, 10**4), default=1, metavar="K", help="samples a problem (default 1)")
    add("--concurrency", type=_number(int, 1, 10**4), default=64, metavar="N", help="requests at once (default 64)")
    add(
        "--stall-timeout",
        type=_number(float, 0, 10**6),
        default=DEFAULT_STALL_TIMEOUT_S,
        metavar="SECONDS",
        help="silence on all requests after which they are asked again, as streams whose every token counts as a sign"
        " of life; no limit to a thought; 0 waits for ever (default %(default)g)",
    )
    add(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="the model's folder: prompts are rendered here and sent as token ids to /v1/completions, max-tokens is cut"
        " to the room left, thinking is counted where the server does not",
    )
    add(
        "--max-model-len",
        type=_number(int, 1, 10**8),
        metavar="N",
        help="the context's length for the room left (default: what the server says); needs --tokenizer",
    )
    add(
        "--prompting",
        type=_prompting,
        default=Prompting.CHAT,
        metavar="{chat,paper,completion}",
        help="chat: a message (default); paper: the study's raw prompts, the think block opened; completion: raw text",
    )
    add(
        "--api-key-env", default="OPENAI_API_KEY", metavar="NAME", help="variable with the key (default OPENAI_API_KEY)"
    )
    add(
        "--setting",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="repeatable; whatever else decides the answers (weights=FINGERPRINT, dtype=bfloat16): other values in the"
        " same DIR are refused",
    )
    add("--json", action="store_true", help="print summary.json on stdout instead of a table")


def _add_compare_arguments(compare: argparse.ArgumentParser) -> None:
    add = compare.add_argument
    add("a", type=Path, metavar="DIR_A", help="answers of the baseline, a folder that `run` wrote")
    add("b", type=Path, metavar="DIR_B", help="answers of the model that is compared with it")
    add(
        "--margin",
        type=_number(float, 0, 1),
        default=0.02,
        metavar="M",
        help="a loss of accuracy that would not matter, as a fraction (default %(default)s: two points)",
    )
    add(
        "--allow-different",
        action="append",
        default=[],
        metavar="KEY",
        help="repeatable; compare although this differs, a KEY as the refusal names it or its first part (settings)",
    )
    add("--json", action="store_true", help="one JSON object on stdout instead of a table")


def _number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            noun = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"is {text!r}, must be {noun} from {low:g} to {high:g}")
        return value

    return parse


def _prompting(text: str) -> Prompting:
    if text not in list(Prompting):
        raise argparse.ArgumentTypeError(f"is {text!r}, must be one of {', '.join(Prompting)}")
    return Prompting(text)


def _setting(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not name or not mark:
        raise argparse.ArgumentTypeError(f"is {text!r}, must be NAME=VALUE")
    return name, value


def _run(arguments: argparse.Namespace) -> int:
    from evaluate.progress import Progress
    from evaluate.runner import run_benchmarks

    benchmarks = _load(arguments.benchmark, arguments.num_problems, arguments.skip_problems)
    sampling = Sampling(
        arguments.max_tokens, arguments.temperature, arguments.top_p, arguments.seed, arguments.num_completions
    )
    num_answers = sum(len(b.problems) for b in benchmarks) * sampling.num_completions
    heads = [f"{b.name}: {len(b.problems)} problems, {b.source}, {b.license}" for b in benchmarks]
    with Progress(num_answers, sys.stderr, heads) as progress:
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
                on_answer=progress.count,
            )
        )
    print(json.dumps(summary.to_json(), indent=2) if arguments.json else _table(summary.benchmarks))
    if summary.num_errors:
        print(f"{summary.num_errors} requests failed, see `error` in {arguments.output}/answers.jsonl", file=sys.stderr)
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


def _compare(arguments: argparse.Namespace) -> int:
    from evaluate.compare import compare_folders, print_comparison

    comparison = compare_folders(arguments.a, arguments.b, margin=arguments.margin, allowed=arguments.allow_different)
    print_comparison(comparison, sys.stdout, as_json=arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
