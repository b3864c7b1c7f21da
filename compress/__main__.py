"""The command line: python -m compress run | grid | inspect.

Exit codes: 0 done, 1 the numbers or the disk did not allow it, 2 a request that cannot be met. torch is imported only
after everything that can be refused without it has been checked.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from compress.calibration import MAX_LENGTH, MAX_SAMPLES, MAX_SEED, load_calibration
from compress.errors import CompressError, InputError, SchemesFailedError, nearest_name
from compress.grid import load_grid, located
from compress.methods import DEFAULT_PROPAGATE, Method, Propagate, parse_width
from compress.report import load_report
from compress.scheme import CheckpointFormat, Platform, Scheme, parse_sparsity

PROGRAM = "python -m compress"
INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Compress a Hugging Face checkpoint (Llama, Qwen2, Qwen3, Mistral) into one that vllm serve loads unchanged.",
    epilog="Begin with: python -m compress run MODEL OUT --method rtn --num-bits 4 --group-size 64",
)
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder with config.json and *.safetensors.")]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="FILE.txt is joined and cut into rows; FILE.jsonl has text or messages."),
]
NumSamples = Annotated[int, typer.Option(min=1, max=MAX_SAMPLES, help="Calibration rows.")]
MaxLength = Annotated[int, typer.Option(min=1, max=MAX_LENGTH, help="Tokens of a row, at most.")]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Which rows are drawn.")]
FormatName = Annotated[
    str, typer.Option(help="packed, dequantized (16-bit values), or auto: packed where vLLM has a kernel.")
]
PlatformName = Annotated[
    str | None, typer.Option(help="cpu or cuda: where it will be served; default: what this machine has.")
]
DeviceName = Annotated[str | None, typer.Option(help="cpu or cuda:N: where it is solved; default: as platform.")]
PropagateName = Annotated[
    str | None,
    typer.Option(
        help="What each layer's inputs are measured on: dense, the unchanged model, shared by all schemes; compressed, "
        f"what the scheme made of the layers before. Default: {DEFAULT_PROPAGATE}."
    ),
]
MemoryGib = Annotated[
    float | None,
    typer.Option(min=0, help="Host memory for activations; more goes to files. Default: half of what is free."),
]
EXIT_CODES = "Exit codes: 0 done, 1 the numbers or the disk did not allow it, 2 the request cannot be met."


@app.command(epilog=EXIT_CODES)
def run(
    model: ModelFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make; it must not exist yet.")],
    method: Annotated[
        str, typer.Option(help=f"One of {', '.join(Method)}; all but rtn and magnitude need --calibration.")
    ],
    num_bits: Annotated[
        str | None, typer.Option(metavar="N | ternary", help="2 to 8, or -1, 0, 1 times a scale; without it 16 bits.")
    ] = None,
    group_size: Annotated[
        int | None, typer.Option(help="Inputs that share a scale; without it, one scale per output channel.")
    ] = None,
    asymmetric: Annotated[
        bool, typer.Option("--asymmetric", help="Grids with a zero point instead of centred on 0.")
    ] = False,
    observer: Annotated[
        str, typer.Option(help="How grids are fitted: minmax (nothing clipped), mse (least squared error), hqq.")
    ] = "minmax",
    average_bits: Annotated[
        float | None, typer.Option(help="Instead of --num-bits: stored bits a parameter of the whole model, in all.")
    ] = None,
    allocation: Annotated[
        str,
        typer.Option(help="Who gets them: measured (by loss), unsloth (a policy), uniform or random (controls)."),
    ] = "measured",
    input_activations: Annotated[
        str | None, typer.Option(help="int8 (W8A8) or fp8: with --num-bits 8, what the engine rounds inputs to.")
    ] = None,
    sparsity: Annotated[
        str, typer.Option(metavar="S | N:M", help="Share of weights set to 0, or N non-zeros of every M inputs.")
    ] = "0",
    act_order: Annotated[
        bool | None,
        typer.Option(help="Solve the columns with the largest inputs first; default: gptq without sparsity does."),
    ] = None,
    dampening_frac: Annotated[
        float, typer.Option(help="Share of the Hessian's mean diagonal that is added to it.")
    ] = 0.01,
    propagate: PropagateName = None,
    calibration: CalibrationFile = None,
    num_samples: NumSamples = 128,
    max_seq_length: MaxLength = 2048,
    seed: Seed = 0,
    format: FormatName = "auto",
    platform: PlatformName = None,
    device: DeviceName = None,
    memory_gib: MemoryGib = None,
    as_json: AsJson = False,
) -> int:
    """Compress MODEL into the new folder OUT.

    Four bits, rounded to nearest, no data needed:

    [bold]python -m compress run MODEL OUT --method rtn --num-bits 4 --group-size 64[/bold]

    Three bits with GPTQ, calibrated on lines of {"text": ...} or {"messages": [...]}:

    [bold]python -m compress run MODEL OUT --method gptq --num-bits 3 --group-size 64 --calibration traces.jsonl[/bold]

    Two non-zeros of every four and four bits in one pass:

    [bold]python -m compress run MODEL OUT --method sparsegpt --sparsity 2:4 --num-bits 4 --calibration text.txt[/bold]

    OUT appears whole or not at all, with compression_report.json beside the weights.
    """
    share, pattern = parse_sparsity(sparsity)
    scheme = Scheme(
        method=method,  # type: ignore[arg-type]  # parsed, with the nearest name, by Scheme itself
        num_bits=parse_width(num_bits),
        group_size=group_size,
        symmetric=not asymmetric,
        observer=observer,  # type: ignore[arg-type]
        average_bits=average_bits,
        allocation=allocation,  # type: ignore[arg-type]
        input_activations=input_activations,  # type: ignore[arg-type]
        sparsity=share,
        pattern=pattern,
        act_order=act_order,
        dampening_frac=dampening_frac,
        propagate=propagate,  # type: ignore[arg-type]  # likewise
    )
    wanted, target = _parse_format(format), _parse_platform(platform)
    from compress.checkpoint import check_absent
    from compress.job import check_without_torch

    texts = None
    if calibration is not None:
        texts = load_calibration(calibration, num_samples=num_samples, max_seq_length=max_seq_length, seed=seed)
    check_absent(out)
    check_without_torch(model, [scheme], texts)
    from compress.pipeline import compress_model

    report = compress_model(
        model,
        out,
        scheme,
        texts,
        format=wanted,
        device=device,
        platform=target,
        memory_gib=memory_gib,
        on_progress=_show_progress,
    )
    print(json.dumps(report.to_json(), indent=2) if as_json else _render_report(report))
    return 0


@app.command(epilog=EXIT_CODES)
def grid(
    model: ModelFolder,
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Gets one checkpoint folder a scheme.")],
    schemes: Annotated[Path, typer.Argument(metavar="SCHEMES.yaml", help="A list of schemes.")],
    calibration: CalibrationFile = None,
    num_samples: NumSamples = 128,
    max_seq_length: MaxLength = 2048,
    seed: Seed = 0,
    propagate: PropagateName = None,
    format: FormatName = "auto",
    platform: PlatformName = None,
    device: DeviceName = None,
    memory_gib: MemoryGib = None,
    as_json: AsJson = False,
) -> int:
    """Compress MODEL by every scheme of SCHEMES.yaml in one pass, into OUT_DIR/NAME each.

    [bold]python -m compress grid MODEL OUT_DIR SCHEMES.yaml --calibration text.txt[/bold]

    SCHEMES.yaml is a list of mappings; a list as a value stands for each of its items:

    [bold]- {method: gptq, num_bits: [2, 3, 4], group_size: 64}[/bold]

    [bold]- {method: sparsegpt, sparsity: 2:4, name: half}[/bold]

    Keys: method, num_bits, group_size, symmetric, sparsity (a share or n:m), act_order, dampening_frac, block_size,
    propagate; format; name, of the folder, instead of the scheme's own such as gptq-w3-g64-sym.

    The model is read once and each layer's inputs are measured once for all schemes that propagate dense. Run again,
    after a kill or Ctrl-C too, it goes on behind the last finished layer; checkpoints that are there are kept.
    """
    wanted, target = _parse_format(format), _parse_platform(platform)
    default = None
    if propagate is not None:
        default = Propagate(_one_of("propagate", propagate, [str(name) for name in Propagate]))
    entries = load_grid(schemes, format=wanted, propagate=default)
    texts = None
    if calibration is not None:
        texts = load_calibration(calibration, num_samples=num_samples, max_seq_length=max_seq_length, seed=seed)
    from compress.job import check_scheme, check_without_torch, choose_format

    _, shapes = check_without_torch(model, [], texts)
    for entry in entries:
        with located(schemes, entry.index):
            check_scheme(entry.scheme, shapes, texts)
            choose_format(entry.format, entry.scheme, target, shapes)
    from compress.pipeline import compress_models

    outs, failed = {entry.name: out_dir / entry.name for entry in entries}, {}
    try:
        compress_models(
            model,
            list(outs.values()),
            [entry.scheme for entry in entries],
            texts,
            formats=[entry.format for entry in entries],
            device=device,
            platform=target,
            memory_gib=memory_gib,
            on_progress=_show_progress,
        )
    except SchemesFailedError as error:
        failed = {out.name: str(failure) for out, failure in error.failures.items()}
    made = {name: load_report(out) for name, out in outs.items() if name not in failed}
    if as_json:
        reports = {name: report.to_json() for name, report in made.items() if report}
        print(json.dumps({"checkpoints": reports, "failed": failed}, indent=2))
    else:
        print(_render_grid(made))
    for name, cause in failed.items():
        print(f"error: {name}: {cause}", file=sys.stderr)
    return 1 if failed else 0


@app.command()
def inspect(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A base or a compressed model's folder.")],
    as_json: AsJson = False,
) -> int:
    """Say what CHECKPOINT holds: whole or torn, bytes as stored, and what its compression report says.

    [bold]python -m compress inspect OUT --json[/bold]
    """
    from compress.inspection import inspect_checkpoint

    found = inspect_checkpoint(checkpoint)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
        return 0
    print(
        f"{checkpoint}: {found.model_type}, {found.format}, {found.num_parameters:,} parameters, "
        f"{found.num_tensors} tensors, {found.served_gb:.6f} GB, {found.stored_bits:.3f} bits a parameter as stored"
    )
    if found.report is not None:
        print(_render_report(found.report))
        print("weights: as the report was written for" if found.unchanged else "weights: CHANGED since the report")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; refusals are at most three lines on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return int(app(args=given or ["--help"], prog_name=PROGRAM, standalone_mode=False) or 0)
    except InputError as error:
        print(f"error: {_with_option(error)}", file=sys.stderr)
        return 2
    except (CompressError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except typer.TyperException as error:
        print(f"error: {_usage_line(error)}", file=sys.stderr)
        return 2
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _parse_format(name: str) -> CheckpointFormat:
    return CheckpointFormat(_one_of("format", name, [str(format) for format in CheckpointFormat]))


def _parse_platform(name: str | None) -> Platform | None:
    if name is None:
        return None
    return "cuda" if _one_of("platform", name, ["cpu", "cuda"]) == "cuda" else "cpu"


def _one_of(key: str, value: str, valid: Sequence[str]) -> str:
    if value not in valid:
        raise InputError(key, value, f"one of {', '.join(valid)}", nearest_name(value, valid))
    return value


def _show_progress(done: int, total: int) -> None:
    end = "" if sys.stderr.isatty() and done < total else "\n"
    start = "\r" if sys.stderr.isatty() else ""
    print(f"{start}layer {done}/{total}", end=end, file=sys.stderr, flush=True)


def _render_report(report: Any) -> str:
    loss = "not measured" if report.loss is None else f"{report.loss:.3g} (mean over {len(report.layers)} weights)"
    fallbacks = ", ".join(f"{cause} {count}" for cause, count in report.fallbacks.items())
    lines = [
        ("scheme", report.scheme.name),
        ("format", report.format),
        ("effective bits", f"{report.effective_bits:.3f} ({report.size_source})"),
        ("checkpoint", f"{report.checkpoint_gb:.6f} GB packed; the folder served holds {report.served_gb:.6f} GB"),
        ("relative loss", loss),
        ("pruned", f"{report.sparsity:.4f} of the compressed weights"),
        ("fallbacks", fallbacks),
        ("took", f"{report.seconds:.1f} s on {report.device}, {report.peak_memory_gib:.2f} GiB at the peak"),
        ("fingerprint", report.weights_fingerprint[:16]),
    ]
    return "\n".join(f"{label:<15} {value}" for label, value in lines)


def _render_grid(reports: Mapping[str, Any]) -> str:
    width = max(map(len, reports), default=4)
    lines = [f"{'name':<{width}}  format       effective bits  pruned  relative loss  packed GB"]
    for name, report in reports.items():
        loss = "-" if report.loss is None else f"{report.loss:.3g}"
        lines.append(
            f"{name:<{width}}  {report.format:<11}  {report.effective_bits:>14.3f}  {report.sparsity:>6.3f}  "
            f"{loss:>13}  {report.checkpoint_gb:>9.6f}"
        )
    return "\n".join(lines)


def _with_option(error: InputError) -> str:
    """The message with the option's name in place of the key, where the key is one."""
    option = "--" + error.key.replace("_", "-")
    options = {"--symmetric": "--asymmetric"}.get(option, option)
    known = [name for param in typer.main.get_command(app).commands["run"].params for name in param.opts]  # type: ignore[attr-defined]
    return str(error).replace(error.key, options, 1) if options in known else str(error)


def _usage_line(error: typer.TyperException) -> str:
    """What is wrong with the command, the nearest right name, and where to read on."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else PROGRAM
    message = " ".join(error.format_message().split()).rstrip(".")
    option = getattr(error, "option_name", None)
    if option is not None and context is not None:
        options = [name for param in context.command.get_params(context) for name in param.opts if name[:2] == "--"]
        nearest = nearest_name(option, options)
        message = f"option {option} is unknown, must be one of {', '.join(options)}"
        message += f" (nearest: {nearest})" if nearest else ""
    return f"{message}. See {command} --help."


if __name__ == "__main__":
    sys.exit(main())
