"""The arguments of the command line and what their help says; evaluate/__main__.py runs the commands."""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from evaluate.benchmarks import BENCHMARKS
from evaluate.errors import nearest
from evaluate.schema import DEFAULT_STALL_TIMEOUT_S, Prompting

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


_COLLAPSE_EXAMPLES = """examples:
  python -m evaluate collapse 0=answers/base 0.3=answers/sparse30 0.5=answers/sparse50 0.6=answers/sparse60
  python -m evaluate collapse 0=answers/base 12=answers/gptq-4bit 13=answers/gptq-3bit --threshold 0.7 \\
      --chance temporal_sequences=0.25 --chance folio=0.333

LEVEL is any number that grows with compression: the sparsity, 16 - bits. Retention is the accuracy over that of the
lowest level, each benchmark counting once, knowledge and reasoning apart; intervals come from resampled questions.
A curve collapses where it first falls below --threshold, linear between levels. The folders are checked as `compare`
checks them."""


_COST_EXAMPLES = """examples:
  python -m evaluate cost answers/base --usd-per-gpu-hour 2.50 --num-gpus 2
  python -m evaluate cost answers/base --usd-per-gpu-hour 2.50 --tokens-per-s 5200

The throughput is what `run` measured while its queue was full, kept in DIR/throughput.json. Completion tokens alone
are priced, wrong answers too: USD per correct answer is USD per question over accuracy."""


_REGRADE_EXAMPLES = """examples:
  python -m evaluate regrade answers/my-model
  python -m evaluate regrade answers/my-model --benchmark aime=moved/aime24.jsonl

No model is asked: the completions stay as they are, their verdicts and the summary are replaced, and the line printed
says how many verdicts changed. Needed when the graders' version rises; `run` then goes on with the folder."""


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, with the nearest option; an unknown one before what is missing in its place."""

    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = args or ()
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        parsers = [
            self,
            *(p for a in self._actions if isinstance(a, argparse._SubParsersAction) for p in a.choices.values()),
        ]
        options = [option for parser in parsers for option in parser._option_string_actions]
        given = [argument.partition("=")[0] for argument in self._given if argument.startswith("--")]
        unknown = next((option for option in given if option not in (*options, "--")), None)
        if unknown and ("required" in message or "unrecognized" in message):
            message = f"unrecognized arguments: {unknown}{nearest(unknown, options)}"
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def parse_arguments(argv: Sequence[str], description: str | None) -> argparse.Namespace:
    """Parses a command line; `command` holds the command's name. Exits with code 2 and one line on a bad one."""
    parser = _Parser(prog="python -m evaluate", description=description, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", metavar="{run,grade,regrade,compare,collapse,cost}", required=True)
    run, grade, regrade, compare, collapse, cost = (
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
            ("regrade", "grade the stored answers of a folder anew, without any model", _REGRADE_EXAMPLES),
            ("compare", "set one folder of answers against another, problem by problem", _COMPARE_EXAMPLES),
            ("collapse", "tell where accuracy collapses as compression grows", _COLLAPSE_EXAMPLES),
            ("cost", "price the answers of a folder, per 1,000 questions and per correct answer", _COST_EXAMPLES),
        )
    )
    _add_run_arguments(run)
    grade.add_argument("--benchmark", required=True, metavar="NAME", help=f"whose grader: {', '.join(BENCHMARKS)}")
    grade.add_argument("file", type=Path, metavar="FILE.jsonl", help="the completions")
    grade.add_argument("--json", action="store_true", help="only the output lines on stdout, no closing count")
    regrade.add_argument("folder", type=Path, metavar="DIR", help="the --output folder of a run")
    regrade.add_argument(
        "--benchmark", action="append", default=[], metavar="NAME=FILE", help="repeatable; a file that was moved"
    )
    regrade.add_argument("--json", action="store_true", help="the counts as one JSON object")
    _add_compare_arguments(compare)
    _add_collapse_arguments(collapse)
    _add_cost_arguments(cost)
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
        help="silence on all requests, at most, after which they are asked again as streams, whose every token is a"
        " sign of life; no limit to a thought; 0 waits for ever (default %(default)g)",
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
        type=_named(str),
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="repeatable; whatever else decides the answers (weights=FINGERPRINT, dtype=bfloat16): other values in the"
        " same DIR are refused",
    )
    add(
        "--energy-gpus",
        type=_gpus,
        metavar="I[,I...]",
        help="GPUs of this machine that serve the model, as nvidia-smi numbers them: their energy per question is kept"
        " in DIR/throughput.json",
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
    _add_allow_different(compare)
    add("--json", action="store_true", help="one JSON object on stdout instead of a table")


def _add_collapse_arguments(collapse: argparse.ArgumentParser) -> None:
    add = collapse.add_argument
    add("folders", nargs="+", type=_named(Path), metavar="LEVEL=DIR", help="answers of one level of compression")
    add(
        "--threshold",
        type=_number(float, 0, 1),
        default=0.5,
        metavar="R",
        help="retention below which accuracy has collapsed (default %(default)s)",
    )
    add(
        "--chance",
        type=_named(_number(float, 0, 1)),
        action="append",
        default=[],
        metavar="NAME=P",
        help="repeatable; a benchmark's accuracy of guessing, taken off everywhere (default 0)",
    )
    _add_allow_different(collapse)
    add("--json", action="store_true", help="one JSON object on stdout instead of a table")


def _add_cost_arguments(cost: argparse.ArgumentParser) -> None:
    add = cost.add_argument
    add("folder", type=Path, metavar="DIR", help="a folder of answers that `run` wrote")
    add(
        "--usd-per-gpu-hour",
        type=_number(float, 0, 10**6),
        required=True,
        metavar="P",
        help="price of a GPU for an hour",
    )
    add("--num-gpus", type=_number(int, 1, 10**6), default=1, metavar="N", help="GPUs that served it (default 1)")
    add("--tokens-per-s", type=_number(float, 1e-9, 10**9), metavar="T", help="of all of them, instead of the measured")
    add("--json", action="store_true", help="one JSON object on stdout instead of a table")


def _add_allow_different(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-different",
        action="append",
        default=[],
        metavar="KEY",
        help="repeatable; compare although this differs, a KEY as the refusal names it or its first part (settings)",
    )


def _named(parse_value: Callable[[str], Any]) -> Callable[[str], tuple[str, Any]]:
    """Parses NAME=VALUE."""

    def parse(text: str) -> tuple[str, Any]:
        name, mark, value = text.partition("=")
        if not name or not mark:
            raise argparse.ArgumentTypeError(f"is {text!r}, must be NAME=VALUE")
        return name, parse_value(value)

    return parse


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


def _gpus(text: str) -> tuple[int, ...]:
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"is {text!r}, must be numbers of GPUs such as 0,1")
    return tuple(sorted({int(part) for part in text.split(",")}))


def _prompting(text: str) -> Prompting:
    if text not in list(Prompting):
        raise argparse.ArgumentTypeError(f"is {text!r}, must be one of {', '.join(Prompting)}")
    return Prompting(text)
