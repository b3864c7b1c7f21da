"""A request to compress, checked before any work: everything that can be refused is refused here.

Importing this module imports no torch, so that most refusals come at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.budget import allocate, budgeted_shapes
from compress.calibration import Calibration, calibration_rows
from compress.checkpoint import check_parents, check_weights, read_config
from compress.devices import default_platform, parse_device
from compress.errors import CalibrationError, FormatError, ModelError
from compress.families import Shapes, linear_shapes
from compress.methods import Allocation
from compress.rules import module_schemes
from compress.scheme import CheckpointFormat, Platform, Scheme, check_shape
from compress.servable import dequantized_obstacle, packed_obstacle

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Target:
    """One checkpoint to make. format: PACKED or DEQUANTIZED; schemes: {weight: its scheme, or None: left as it is}."""

    out: Path
    scheme: Scheme
    format: CheckpointFormat
    schemes: Mapping[str, Scheme | None]


@dataclass(frozen=True)
class Job:
    """A request that nothing speaks against. rows: token ids; stored_dtype: of scales and of values not packed."""

    model: Path
    targets: tuple[Target, ...]
    config: Mapping[str, Any]
    shapes: Shapes
    calibration: Calibration | None
    rows: Sequence[Sequence[int]]
    device: torch.device
    stored_dtype: torch.dtype

    @property
    def first_token_weight(self) -> float:
        return self.calibration.first_token_weight if self.calibration else 1.0

    def only(self, targets: Iterable[Target]) -> Job:
        """The same for fewer targets."""
        return replace(self, targets=tuple(targets))


@dataclass(frozen=True)
class HessianStore:
    """Where Hessians of dense passes are kept (kept.py), and the bytes that all of them together may take."""

    folder: Path
    budget_bytes: int


def check_job(
    model: Path,
    outs: Sequence[Path],
    schemes: Sequence[Scheme],
    calibration: Calibration | None,
    *,
    formats: Sequence[CheckpointFormat],
    device: str | None = None,
    platform: Platform | None = None,
) -> Job:
    """Raises InputError (its subclasses say what about) for a request that cannot be met."""
    from compress.sensitivity import mlp_errors

    config, shapes = check_without_torch(model, schemes, calibration)
    for out in outs:
        check_parents(out)
    targets = tuple(
        Target(
            out,
            scheme,
            choose_format(format, scheme, platform, shapes),
            module_schemes(scheme, linear_shapes(shapes), partial(mlp_errors, model, scheme, shapes)),
        )
        for out, scheme, format in zip(outs, schemes, formats, strict=True)
    )
    chosen_device = parse_device(device)
    rows = _tokenize(model, config, calibration) if calibration else []
    return Job(model, targets, config, shapes, calibration, rows, chosen_device, _stored_dtype(config))


def check_without_torch(
    model: Path, schemes: Sequence[Scheme], calibration: Calibration | None
) -> tuple[dict[str, Any], Shapes]:
    """The part of check_job that is quick: the model's config and shapes. Raises InputError."""
    config = read_config(model)
    shapes = check_weights(model, config)
    for scheme in schemes:
        check_scheme(scheme, shapes, calibration)
    return config, shapes


def check_scheme(scheme: Scheme, shapes: Shapes, calibration: Calibration | None) -> None:
    """Raises InputError when the scheme does not fit the model's shapes, or calibration is missing for it."""
    if scheme.needs_calibration and calibration is None:
        raise CalibrationError("calibration", "missing", f"a .txt or .jsonl file for {scheme.method}")
    if scheme.average_bits is not None:  # an allocation that asks for no losses shows whether there is any
        for name, shape in budgeted_shapes(shapes).items():
            check_shape(scheme, name, *shape)
        allocate(replace(scheme, allocation=Allocation.UNIFORM), shapes)
    linear = linear_shapes(shapes)
    for name, own in module_schemes(scheme, linear).items():
        if own is not None:
            check_shape(own, name, *linear[name])


def choose_format(
    wanted: CheckpointFormat, scheme: Scheme, platform: Platform | None, shapes: Shapes
) -> CheckpointFormat:
    """PACKED or DEQUANTIZED. Raises FormatError when packed is wanted and the platform's vLLM would not load it."""
    obstacle = packed_obstacle(scheme, platform or default_platform(), linear_shapes(shapes))
    if wanted is CheckpointFormat.PACKED and obstacle is not None:
        raise FormatError("format", "packed", f"auto or dequantized here: {obstacle}")
    inputs_obstacle = dequantized_obstacle(scheme)
    if inputs_obstacle and (obstacle or wanted is CheckpointFormat.DEQUANTIZED):
        raise FormatError("format", wanted, f"packed, where vLLM has a kernel: {obstacle or inputs_obstacle}")
    if wanted is CheckpointFormat.AUTO:
        return CheckpointFormat.DEQUANTIZED if obstacle else CheckpointFormat.PACKED
    return wanted


def _stored_dtype(config: Mapping[str, Any]) -> torch.dtype:
    import torch

    name = config.get("dtype") or config.get("torch_dtype")
    return torch.float16 if name == "float16" else torch.bfloat16


def _tokenize(model: Path, config: Mapping[str, Any], calibration: Calibration) -> list[list[int]]:
    from compress.decoder import check_lengths, load_config

    rows = calibration_rows(calibration, load_tokenizer(model))
    check_tokens(model, config, rows)
    check_lengths(load_config(model), rows)
    return rows


def check_tokens(model: Path, config: Mapping[str, Any], rows: Iterable[Sequence[int]]) -> None:
    """Raises ModelError for a token that the model's embedding does not have."""
    largest = max(map(max, rows))
    if largest >= config["vocab_size"]:
        raise ModelError(f"{model} tokenizer", f"giving token {largest}", f"below vocab_size {config['vocab_size']}")


def load_tokenizer(model: Path) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises ModelError where transformers cannot load it."""
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model)
    except Exception as error:  # the tokenizers library raises nothing more special
        raise ModelError(f"{model} tokenizer", "unreadable", "loadable by transformers' AutoTokenizer") from error
    return tokenizer
