"""The command line: python -m compress run | grid | distill | inspect.

Exit codes: 0 done, 1 the numbers or the disk did not allow it, 2 a request that cannot be met. torch is imported only
after everything that can be refused without it has been checked.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from compress import arguments as given
from compress.arguments import EXIT_CODES, AsJson, ModelFolder, OutFolder
from compress.calibration import Calibration, load_calibration
from compress.distillation import DEFAULT_KD_WEIGHT, Distillation
from compress.errors import CompressError, InputError, SchemesFailedError
from compress.grid import load_grid, located
from compress.methods import parse_width
from compress.rendering import render_grid, render_inspection, render_report, show_progress, show_step
from compress.report import load_report
from compress.scheme import Scheme, parse_sparsity
from compress.traces import load_traces

PROGRAM = "python -m compress"
INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Compress a Hugging Face checkpoint (Llama, Qwen2, Qwen3, Mistral; with experts Qwen2-MoE, Qwen3-MoE, "
    "DeepSeek) into one that vllm serve loads unchanged.",
    epilog="Begin with: python -m compress run MODEL OUT --method rtn --num-bits 4 --group-size 64",
)


@app.command(epilog=EXIT_CODES)
def run(
    model: ModelFolder,
    out: OutFolder,
    method: given.MethodName,
    num_bits: given.NumBits = None,
    group_size: given.GroupSize = None,
    asymmetric: given.Asymmetric = False,
    observer: given.ObserverName = "minmax",
    average_bits: given.AverageBits = None,
    allocation: given.AllocationName = "measured",
    input_activations: given.InputActivationsName = None,
    sparsity: given.Sparsity = "0",
    act_order: given.ActOrder = None,
    dampening_frac: given.DampeningFrac = 0.01,
    propagate: given.PropagateName = None,
    calibration: given.CalibrationFile = None,
    num_samples: given.NumSamples = 128,
    max_seq_length: given.MaxLength = 2048,
    seed: given.Seed = 0,
    first_token_weight: given.FirstTokenWeight = 1.0,
    format: given.FormatName = "auto",
    platform: given.PlatformName = None,
    device: given.DeviceName = None,
    memory_gib: given.MemoryGib = None,
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
    wanted, target = given.parse_format(format), given.parse_platform(platform)
    from compress.checkpoint import check_absent
    from compress.job import check_without_torch

    texts = _load_calibration(calibration, num_samples, max_seq_length, seed, first_token_weight)
    check_absent(out)
    check_without_torch(model, [scheme], texts)
    from compress.pipeline import compress_model

    with _no_empty_folder(out.parent):
        report = compress_model(
            model,
            out,
            scheme,
            texts,
            format=wanted,
            device=device,
            platform=target,
            memory_gib=memory_gib,
            on_progress=show_progress,
        )
    print(json.dumps(report.to_json(), indent=2) if as_json else render_report(report))
    return 0


@app.command(epilog=EXIT_CODES)
def grid(
    model: ModelFolder,
    out_dir: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Gets one checkpoint folder a scheme.")],
    schemes: Annotated[Path, typer.Argument(metavar="SCHEMES.yaml", help="A list of schemes.")],
    calibration: given.CalibrationFile = None,
    num_samples: given.NumSamples = 128,
    max_seq_length: given.MaxLength = 2048,
    seed: given.Seed = 0,
    first_token_weight: given.FirstTokenWeight = 1.0,
    propagate: given.PropagateName = None,
    format: given.FormatName = "auto",
    platform: given.PlatformName = None,
    device: given.DeviceNames = None,
    memory_gib: given.MemoryGib = None,
    as_json: AsJson = False,
) -> int:
    """Compress MODEL by every scheme of SCHEMES.yaml in one pass, into OUT_DIR/NAME each.

    [bold]python -m compress grid MODEL OUT_DIR SCHEMES.yaml --calibration text.txt[/bold]

    SCHEMES.yaml is a list of mappings; a list as a value stands for each of its items:

    [bold]- {method: gptq, num_bits: [2, 3, 4], group_size: 64}[/bold]

    [bold]- {method: sparsegpt, sparsity: 2:4, name: half}[/bold]

    Keys: method, num_bits (2 to 8, ternary) or average_bits with allocation, group_size, symmetric, observer,
    input_activations, sparsity (a share or n:m), overrides and only (rules for single modules), act_order,
    dampening_frac, block_size, propagate, repair (a mapping of traces and the options of distill); format; name, of the
    folder, instead of the scheme's own such as gptq-w3-g64-sym. docs/compression.md says what each does.

    The model is read once and each layer's inputs are measured once for all schemes that propagate dense. Run again,
    after a kill or Ctrl-C too, it goes on behind the last finished layer; checkpoints that are there are kept.
    """
    wanted, target = given.parse_format(format), given.parse_platform(platform)
    entries = load_grid(schemes, format=wanted, propagate=given.parse_propagate(propagate))
    texts = _load_calibration(calibration, num_samples, max_seq_length, seed, first_token_weight)
    from compress.job import check_scheme, check_without_torch, choose_format

    _, shapes = check_without_torch(model, [], texts)
    for entry in entries:
        with located(schemes, entry.index):
            check_scheme(entry.scheme, shapes, texts)
            choose_format(entry.format, entry.scheme, target, shapes)
    from compress.pipeline import compress_models

    outs, failed = {entry.name: out_dir / entry.name for entry in entries}, {}
    try:
        with _no_empty_folder(out_dir):
            compress_models(
                model,
                list(outs.values()),
                [entry.scheme for entry in entries],
                texts,
                formats=[entry.format for entry in entries],
                device=device,
                platform=target,
                memory_gib=memory_gib,
                on_progress=show_progress,
                on_step=show_step,
            )
    except SchemesFailedError as error:
        failed = {out.name: str(failure) for out, failure in error.failures.items()}
    made = {name: load_report(out) for name, out in outs.items() if name not in failed}
    if as_json:
        reports = {name: report.to_json() for name, report in made.items() if report}
        print(json.dumps({"checkpoints": reports, "failed": failed}, indent=2))
    else:
        print(render_grid(made))
    for name, cause in failed.items():
        print(f"error: {name}: {cause}", file=sys.stderr)
    return 1 if failed else 0


@contextmanager
def _no_empty_folder(folder: Path) -> Iterator[None]:
    """After an error the folder, and those that it lies in, are gone again where they were made and hold nothing."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        yield
    except BaseException:
        for parent in missing:
            with suppress(OSError):  # it holds something
                parent.rmdir()
        raise


def _load_calibration(
    path: Path | None, num_samples: int, max_seq_length: int, seed: int, first_token_weight: float
) -> Calibration | None:
    settings: dict[str, Any] = {"num_samples": num_samples, "max_seq_length": max_seq_length, "seed": seed}
    return load_calibration(path, first_token_weight=first_token_weight, **settings) if path is not None else None


@app.command(epilog=EXIT_CODES)
def distill(
    student: given.StudentFolder,
    out: OutFolder,
    traces: given.TracesFile,
    teacher: given.TeacherFolder = None,
    kd_weight: given.KdWeight = None,
    temperature: given.Temperature = 1.0,
    epochs: given.Epochs = None,
    num_steps: given.NumSteps = None,
    learning_rate: given.LearningRate = 1e-4,
    batch_size: given.BatchSize = 8192,
    max_seq_length: given.MaxLength = 2048,
    num_samples: given.NumTraces = None,
    seed: given.TraceSeed = 0,
    device: given.DeviceName = None,
    as_json: AsJson = False,
) -> int:
    """Train STUDENT on a teacher's answers, into the new folder OUT; also the way to repair a compressed model.

    Make traces, prune, repair:

    [bold]python -m sweep traces MODEL traces.jsonl --benchmark arithmetic --num-samples 2000[/bold]

    [bold]python -m compress run MODEL PRUNED --method sparsegpt --sparsity 2:4 --calibration traces.jsonl[/bold]

    [bold]python -m compress distill PRUNED OUT --traces traces.jsonl --teacher MODEL --num-steps 500[/bold]

    Prompts do not count, answers do. Zeros of pruned weights stay zeros; weights on a grid of num_bits are not trained,
    only embeddings, norms, biases and the head around them. One prompt in ten is held out: its loss before and after
    stands in OUT/compression_report.json.
    """
    if kd_weight is None:
        kd_weight = 0.0 if teacher is None else DEFAULT_KD_WEIGHT
    settings = Distillation(
        num_steps=num_steps,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        max_seq_length=max_seq_length,
        num_samples=num_samples,
        seed=seed,
        kd_weight=kd_weight,
        temperature=temperature,
    )
    found = load_traces(traces)
    from compress.distill import distill_model

    report = distill_model(student, out, found, settings, teacher=teacher, device=device, on_step=show_step)
    print(json.dumps(report.to_json(), indent=2) if as_json else render_report(report))
    return 0


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
    print(json.dumps(found.to_json(), indent=2) if as_json else render_inspection(found))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; refusals are at most three lines on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = int(app(args=words, prog_name=PROGRAM, standalone_mode=False) or 0)
        if code == INTERRUPTED:  # typer's word for a Ctrl-C that it caught
            raise KeyboardInterrupt
        return code
    except InputError as error:
        command = typer.main.get_command(app).commands.get(words[0])  # type: ignore[attr-defined]
        print(f"error: {given.with_option(error, command)}", file=sys.stderr)
        return 2
    except (CompressError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except typer.TyperException as error:
        print(f"error: {given.usage_line(error, PROGRAM)}", file=sys.stderr)
        return 2
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
