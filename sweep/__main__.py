"""The command line: python -m sweep launch | resume | status | pareto | traces | ui.

Exit codes: 0 all trials complete, 1 some failed, 2 a study that cannot be run or a wrong command. Only what a plan
needs is imported before the plan stands; Ray, vLLM, torch and MLflow come after it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from compress.errors import InputError, nearest_name
from evaluate.errors import EvaluateError
from sweep.errors import SweepError

if TYPE_CHECKING:
    from sweep.plan import Plan

PROGRAM = "python -m sweep"
MIN_WIDTH = 120  # of the plan's table where the output is no terminal
INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Which compressed version of a large reasoning model should you run? One sweep over bits, sparsity and base "
    "models, scored on accuracy and tokens per question.",
    epilog="Begin with: python -m sweep launch conf/quickstart.yaml --dry-run",
)
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
StudyName = Annotated[str | None, typer.Argument(metavar="[STUDY]", help="A study's name; without it, the latest.")]


@app.command(epilog="Exit codes: 0 all trials complete, 1 some failed, 2 the study cannot be run as it is written.")
def launch(
    conf: Annotated[Path, typer.Argument(metavar="CONF", help="The study's YAML, such as conf/quickstart.yaml.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Dotted keys of the YAML with other values; lists by index."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; start and write nothing.")] = False,
    as_json: AsJson = False,
    address: Annotated[
        str | None, typer.Option(metavar="ADDR", help="A Ray cluster to join, such as ray://head:10001; default: here.")
    ] = None,
) -> int:
    """Run a study: compress, serve and score every trial, then show the Pareto front.

    Look first (no GPU is taken, nothing is written):

    [bold]python -m sweep launch conf/quickstart.yaml --dry-run[/bold]

    Change keys without touching the file; an unquoted 2:4 is a pattern:

    [bold]python -m sweep launch conf/quickstart.yaml study=mine num_problems=40 models.0.path=my/model
    'space=\\[{method: sparsegpt, sparsity: \\[0.5, 2:4]}]'[/bold]

    Search instead of trying everything:

    [bold]python -m sweep launch conf/quickstart.yaml 'search={algorithm: tpe, num_trials: 12}'[/bold]
    """
    from sweep.config import load_study
    from sweep.inputs import launch_obstacles
    from sweep.parsing import config_error
    from sweep.plan import make_plan

    study = load_study(conf, overrides or [])
    plan = make_plan(study)
    if not dry_run and (obstacles := launch_obstacles(study)):
        raise config_error(str(conf), obstacles)
    if dry_run or not as_json:
        _print_plan(plan, as_json=as_json)
    if dry_run:
        return 0
    _choose_authentication(address)
    from sweep.launch import launch_study

    code: int = launch_study(study, plan, config_path=conf, address=address, as_json=as_json)
    return code


@app.command()
def resume(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="The name after study: in its YAML.")],
    address: Annotated[str | None, typer.Option(metavar="ADDR", help="A Ray cluster to join; default: here.")] = None,
) -> int:
    """Finish a study that was interrupted. Checkpoints and answers that exist are kept, not made again.

    [bold]python -m sweep resume quickstart[/bold]
    """
    _choose_authentication(address)
    from sweep.launch import resume_study

    code: int = resume_study(study, address=address)
    return code


@app.command()
def status(study: StudyName = None, as_json: AsJson = False) -> int:
    """Show how far a study is: trials done, running and failed, and the cause of each failure.

    [bold]python -m sweep status quickstart[/bold]
    """
    from sweep.report import print_status

    code: int = print_status(study, as_json=as_json)
    return code


@app.command()
def pareto(
    study: StudyName = None,
    as_json: AsJson = False,
    picture: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the front into this file too.")] = None,
) -> int:
    """Show a study's table and its Pareto front.

    [bold]python -m sweep pareto quickstart --picture front.png[/bold]
    """
    from sweep.report import print_pareto

    code: int = print_pareto(study, as_json=as_json, picture=picture)
    return code


@app.command()
def traces(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's folder; with --endpoint, its name there.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help='One {"messages": [...]} a line.')],
    benchmark: Annotated[
        list[str], typer.Option(metavar="NAME[=FILE]", help="Repeatable: a generated task, or a train-side file.")
    ],
    against: Annotated[
        list[str] | None, typer.Option(metavar="NAME[=FILE]", help="Repeatable: test sets that no prompt may be from.")
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL/v1", help="Ask this server; without it MODEL is served here meanwhile.")
    ] = None,
    num_samples: Annotated[int, typer.Option(min=1, max=100_000, help="Traces over all sources.")] = 128,
    max_tokens: Annotated[int, typer.Option(min=1, max=1_000_000, help="Per trace.")] = 4096,
    temperature: Annotated[float, typer.Option(min=0, max=10)] = 0.6,
    top_p: Annotated[float, typer.Option(min=1e-6, max=1)] = 0.95,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the prompts drawn and of the sampling.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, max=10_000, help="Requests at once.")] = 64,
    correct_only: Annotated[bool, typer.Option("--correct-only", help="Keep what the grader takes for right.")] = False,
    num_gpus: Annotated[int, typer.Option(min=0, max=64, help="Of the engine started here; 0: vLLM on CPU.")] = 0,
    as_json: AsJson = False,
) -> int:
    """Let a model write the text that its compression is calibrated on: its own thoughts on train-side prompts.

    [bold]python -m sweep traces models/pocket-llama-1m traces.jsonl --benchmark temporal --benchmark arithmetic
    --max-tokens 256[/bold]

    Then: python -m compress run MODEL OUT --calibration traces.jsonl, or calibration.file=traces.jsonl in a study.
    """
    _choose_authentication(None)
    from sweep.traces import print_traces

    sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    options = {"concurrency": concurrency, "correct_only": correct_only}
    code: int = print_traces(
        model, output, benchmark, against or [], endpoint, num_samples, sampling, num_gpus, as_json=as_json, **options
    )
    return code


@app.command()
def ui() -> int:
    """Open MLflow on the results of all studies.

    [bold]python -m sweep ui[/bold]
    """
    from sweep.tracking import open_ui

    code: int = open_ui()
    return code


def _choose_authentication(address: str | None) -> None:
    """A local ray.init() turns on token authentication; the processes it starts learn of it when they import Ray."""
    if address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; refusals are at most three lines on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = int(app(args=given or ["--help"], prog_name=PROGRAM, standalone_mode=False) or 0)
        sys.stdout.flush()
        return code
    except SweepError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (InputError, EvaluateError) as error:  # what only a launch finds out
        print(error, file=sys.stderr)
        return 2
    except typer.TyperException as error:
        print(_usage_line(error), file=sys.stderr)
        return 2
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class _PlainConsole(Console):
    """Text as it is, and a closed pipe as the BrokenPipeError that it is."""

    def __init__(self, width: int | None = None) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, width=width)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _print_plan(plan: Plan, *, as_json: bool) -> None:
    from sweep.plan import render_plan

    if as_json:
        print(json.dumps(plan.to_json(), indent=2))
        return
    console = _PlainConsole()
    if not console.is_terminal:
        console = _PlainConsole(max(console.width, MIN_WIDTH))
    for part in render_plan(plan):
        console.print(part, soft_wrap=isinstance(part, str))


def _usage_line(error: typer.TyperException) -> str:
    """What is wrong with the command, the nearest right name, and where to read on."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else PROGRAM
    message = " ".join(error.format_message().split())
    option = getattr(error, "option_name", None)
    if option is not None and context is not None:
        options = [
            name for param in context.command.get_params(context) for name in param.opts if name.startswith("--")
        ]
        nearest = nearest_name(option, options)
        hint = f" (nearest: {nearest})" if nearest else ""
        message = f"option {option} is unknown, must be one of {', '.join(options)}{hint}"
    elif context is not None and message.startswith("No such command") and "Did you mean" not in message:
        message += f" Must be one of {', '.join(context.command.list_commands(context))}."
    return f"{command}: {message if message.endswith(('.', '?')) else message + '.'} See {command} --help."


if __name__ == "__main__":
    sys.exit(main())
