"""The options of the command line, what their help says, and how their values are parsed; __main__.py runs the
commands. torch is not imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from compress.calibration import MAX_LENGTH, MAX_SAMPLES, MAX_SEED
from compress.distillation import DEFAULT_EPOCHS, DEFAULT_KD_WEIGHT
from compress.errors import InputError, nearest_name
from compress.methods import DEFAULT_PROPAGATE, Method, Propagate
from compress.scheme import CheckpointFormat, Platform

EXIT_CODES = "Exit codes: 0 done, 1 the numbers or the disk did not allow it, 2 the request cannot be met."

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder with config.json and *.safetensors.")]
OutFolder = Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make; it must not exist yet.")]
MethodName = Annotated[
    str, typer.Option(help=f"One of {', '.join(Method)}; all but rtn and magnitude need --calibration.")
]
NumBits = Annotated[
    str | None, typer.Option(metavar="N | ternary", help="2 to 8, or -1, 0, 1 times a scale; without it 16 bits.")
]
GroupSize = Annotated[
    int | None, typer.Option(help="Inputs that share a scale; without it, one scale per output channel.")
]
Asymmetric = Annotated[bool, typer.Option("--asymmetric", help="Grids with a zero point instead of centred on 0.")]
ObserverName = Annotated[
    str, typer.Option(help="How grids are fitted: minmax (nothing clipped), mse (least squared error), hqq.")
]
AverageBits = Annotated[
    float | None, typer.Option(help="Instead of --num-bits: stored bits a parameter of the whole model, in all.")
]
AllocationName = Annotated[
    str, typer.Option(help="Who gets them: measured (by loss), unsloth (a policy), uniform or random (controls).")
]
InputActivationsName = Annotated[
    str | None, typer.Option(help="int8 (W8A8) or fp8: with --num-bits 8, what the engine rounds inputs to.")
]
Sparsity = Annotated[
    str, typer.Option(metavar="S | N:M", help="Share of weights set to 0, or N non-zeros of every M inputs.")
]
ActOrder = Annotated[
    bool | None,
    typer.Option(help="Solve the columns with the largest inputs first; default: gptq without sparsity does."),
]
DampeningFrac = Annotated[float, typer.Option(help="Share of the Hessian's mean diagonal that is added to it.")]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="FILE.txt is joined and cut into rows; FILE.jsonl has text or messages."),
]
NumSamples = Annotated[int, typer.Option(min=1, max=MAX_SAMPLES, help="Calibration rows.")]
MaxLength = Annotated[int, typer.Option(min=1, max=MAX_LENGTH, help="Tokens of a row, at most.")]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Which rows are drawn.")]
FirstTokenWeight = Annotated[
    float, typer.Option(help="How often a row's first token counts for q, k and v; 64 helped a model with a sink.")
]
FormatName = Annotated[
    str, typer.Option(help="packed, dequantized (16-bit values), or auto: packed where vLLM has a kernel.")
]
PlatformName = Annotated[
    str | None, typer.Option(help="cpu or cuda: where it will be served; default: what this machine has.")
]
DeviceName = Annotated[str | None, typer.Option(help="cpu or cuda:N: where the work is done. Default: CUDA if there.")]
DeviceNames = Annotated[
    str | None,
    typer.Option(help="cpu, cuda:N or cuda:0,cuda:1: who shares the schemes. Default: all CUDA devices, else the CPU."),
]
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

StudentFolder = Annotated[
    Path, typer.Argument(metavar="STUDENT", help="A base model, or a compressed one (dequantized) to repair.")
]
TracesFile = Annotated[
    Path,
    typer.Option(metavar="FILE.jsonl", help='Lines of {"messages": [...]}, the answer last, or of {"text": ...}.'),
]
TeacherFolder = Annotated[
    Path | None, typer.Option(metavar="MODEL", help="Loaded beside, to be followed token by token too.")
]
KdWeight = Annotated[
    float | None,
    typer.Option(help=f"Share of the loss that follows the teacher's distribution. Default: {DEFAULT_KD_WEIGHT}."),
]
Temperature = Annotated[float, typer.Option(help="At which the two distributions are compared.")]
Epochs = Annotated[
    int | None, typer.Option(help=f"How often each trace is read. Default, without --num-steps: {DEFAULT_EPOCHS}.")
]
NumSteps = Annotated[int | None, typer.Option(help="Updates, instead of --epochs.")]
LearningRate = Annotated[float, typer.Option(help="Peak; small models bear more: 1e-3 at 1 M parameters.")]
BatchSize = Annotated[int, typer.Option(help="Tokens of an update, prompts included.")]
NumTraces = Annotated[int | None, typer.Option(help="Draw so many of the traces. Default: all.")]
TraceSeed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="What is drawn, what is held out, the order.")]


def parse_format(name: str) -> CheckpointFormat:
    return CheckpointFormat(_one_of("format", name, [str(format) for format in CheckpointFormat]))


def parse_platform(name: str | None) -> Platform | None:
    if name is None:
        return None
    return "cuda" if _one_of("platform", name, ["cpu", "cuda"]) == "cuda" else "cpu"


def parse_propagate(name: str | None) -> Propagate | None:
    return None if name is None else Propagate(_one_of("propagate", name, [str(name) for name in Propagate]))


def with_option(error: InputError, command: Any) -> str:
    """The message with the option's name in place of the key, where the command has one of that name."""
    option = "--" + error.key.replace("_", "-")
    option = {"--symmetric": "--asymmetric"}.get(option, option)
    known = [name for param in command.params for name in param.opts] if command is not None else []
    return str(error).replace(error.key, option, 1) if option in known else str(error)


def usage_line(error: typer.TyperException, program: str) -> str:
    """What is wrong with the command, the nearest right name, and where to read on."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else program
    message = " ".join(error.format_message().split()).rstrip(".")
    option = getattr(error, "option_name", None)
    if option is not None and context is not None:
        options = [name for param in context.command.get_params(context) for name in param.opts if name[:2] == "--"]
        nearest = nearest_name(option, options)
        message = f"option {option} is unknown, must be one of {', '.join(options)}"
        message += f" (nearest: {nearest})" if nearest else ""
    return f"{message}. See {command} --help."


def _one_of(key: str, value: str, valid: Sequence[str]) -> str:
    if value not in valid:
        raise InputError(key, value, f"one of {', '.join(valid)}", nearest_name(value, valid))
    return value
