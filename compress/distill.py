"""Distillation: a student learns from a teacher's traces, or a compressed model is repaired by them.

    check everything -> student in fp32 -> held-out loss -> train -> round as stored -> held-out loss -> folder

What compression did is kept: zeros of the decoder's linear weights stay zeros, and weights that were rounded to a grid
are not trained at all, so codes and scales stay to the bit; embeddings, norms, biases and the head adapt to them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.checkpoint import (
    check_absent,
    check_weights,
    copy_companions,
    publish,
    read_config,
    weights_fingerprint,
    whole_folders,
    write_config,
)
from compress.devices import parse_device, peak_memory_gib
from compress.distillation import Distillation, DistillationReport
from compress.errors import CalibrationError, ModelError, SchemeError
from compress.families import Shapes, is_expert, linear_shapes, shapes_from_config
from compress.job import check_tokens, load_tokenizer
from compress.report import CompressionReport, load_report
from compress.rules import module_schemes
from compress.scheme import CheckpointFormat
from compress.size import deployable_size, weight_files
from compress.traces import TraceRow, Traces, trace_rows

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from compress.training import OnStep


@dataclass(frozen=True)
class _Student:
    """report: of the compression, None for a base model. frozen: linear weights on a grid, without ".weight"."""

    folder: Path
    config: Mapping[str, Any]
    shapes: Shapes
    fingerprint: str
    report: CompressionReport | None
    frozen: frozenset[str]


def distill_model(
    student: Path,
    out: Path,
    traces: Traces,
    settings: Distillation,
    *,
    teacher: Path | None = None,
    device: str | None = None,
    on_step: OnStep | None = None,
) -> CompressionReport:
    """Train the checkpoint in `student` on traces and write it to the new folder `out`, in the student's dtypes.

    teacher: a checkpoint of the same vocabulary whose distribution counts for settings.kd_weight of the loss. The
    report is the student's own, with `distillation` added. Raises InputError for what cannot be done, before any work;
    NumericalError for a loss that is not finite and OSError for a full disk: then nothing is left behind.
    """
    check_absent(out)
    if (teacher is None) != (settings.kd_weight == 0):
        must = "left out (or 0) without a teacher" if teacher is None else "above 0 beside a teacher"
        raise SchemeError("kd_weight", settings.kd_weight, must)
    learner = _read_student(student)
    tokenizer = load_tokenizer(student)
    if teacher is not None:
        check_weights(teacher, read_config(teacher, "teacher"))
        _check_same_vocabulary(tokenizer, student, load_tokenizer(teacher), teacher)
    learned, held_out, num_left_out = _rows(learner, traces, settings, tokenizer)

    import torch

    from compress.shards import TensorReader, TensorWriter

    chosen = parse_device(device)
    if chosen.type == "cuda":
        torch.cuda.reset_peak_memory_stats(chosen)
    reader = TensorReader(student)
    layout = {name: reader.read(name).to("meta") for name in reader.names}
    with whole_folders([out], secrets.token_hex(8), resumable=False) as (folder,):
        with TensorWriter(folder, layout) as writer:
            model = _load(student, torch.float32, chosen)
            dtypes = {name: like.dtype for name, like in layout.items()}
            done = _train(model, learner, dtypes, (learned, held_out), settings, teacher, on_step)
            values = model.state_dict()
            for name, like in layout.items():
                writer.write(name, values[name].to(like.dtype) if name in values else reader.read(name))
        write_config(folder, learner.config, None)
        copy_companions(student, folder)
        distillation = DistillationReport(
            student=str(student),
            student_fingerprint=learner.fingerprint,
            teacher=None if teacher is None else str(teacher),
            teacher_fingerprint=None if teacher is None else weights_fingerprint(teacher),
            traces=str(traces.path),
            traces_hash=traces.content_hash,
            settings=asdict(settings),
            num_traces=len(learned),
            num_held_out=len(held_out),
            num_left_out=num_left_out,
            num_held_out_tokens=sum(row.num_counted for row in held_out),
            device=str(chosen),
            peak_memory_gib=peak_memory_gib(chosen),
            **done,
        )
        report = _report(learner, folder, distillation)
        report.save(folder)
        publish(folder, out)
    return report


def _read_student(folder: Path) -> _Student:
    config = read_config(folder)
    if config.get("quantization_config"):
        must = "16-bit values: packed codes cannot be trained; make it again with --format dequantized"
        raise ModelError("STUDENT", f"{folder} (packed)", must)
    if any(map(is_expert, shapes_from_config(config))):
        must = "a model without experts: they are not trained; a teacher may have them"
        raise ModelError("STUDENT", f"{folder} ({config['model_type']})", must)
    shapes = check_weights(folder, config)
    fingerprint, report = weights_fingerprint(folder), load_report(folder)
    if report is not None and report.weights_fingerprint != fingerprint:
        must = "as its compression_report.json was written for; delete that to train it as a base model"
        raise ModelError("STUDENT", f"{folder} (weights changed)", must)
    return _Student(folder, config, shapes, fingerprint, report, _on_grids(report, shapes))


def _on_grids(report: CompressionReport | None, shapes: Shapes) -> frozenset[str]:
    """The linear weights that compression has rounded; those that a rule left alone are in no report."""
    if report is None or report.scheme is None:
        return frozenset()
    schemes = module_schemes(report.scheme, linear_shapes(shapes))
    rounded = (layer.name for layer in report.layers if (schemes[layer.name] or report.scheme).has_grid)
    return frozenset(rounded)


def _check_same_vocabulary(
    own: PreTrainedTokenizerBase, student: Path, other: PreTrainedTokenizerBase, teacher: Path
) -> None:
    tokens, taught = own.get_vocab(), other.get_vocab()
    if tokens != taught:
        token = min(key for key in {*tokens, *taught} if tokens.get(key) != taught.get(key))
        found = f"{teacher}, of another vocabulary than {student}: token {token!r} is {taught.get(token, 'missing')}"
        must = f"one where it is {tokens.get(token, 'missing')}; or left out with --kd-weight: its traces are enough"
        raise ModelError("teacher", found, must)


def _rows(
    student: _Student, traces: Traces, settings: Distillation, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[TraceRow], list[TraceRow], int]:
    """Rows to learn from, held-out rows, and how many traces have no answer within max_seq_length."""
    split = traces.split(settings.num_samples, settings.seed)
    learned, held_out = (trace_rows(part, tokenizer, settings.max_seq_length) for part in split)
    if not learned or not held_out:
        must = f"longer: the prompts of {traces.path} leave no room for {'an' if not learned else 'a held-out'} answer"
        raise CalibrationError("max_seq_length", settings.max_seq_length, must)
    check_tokens(student.folder, student.config, (row.tokens for row in [*learned, *held_out]))
    longest = max(len(row.tokens) for row in [*learned, *held_out])
    context = student.config.get("max_position_embeddings", longest)
    if longest > context:
        raise CalibrationError("max_seq_length", settings.max_seq_length, f"at most {context}, this model's context")
    return learned, held_out, sum(map(len, split)) - len(learned) - len(held_out)


def _load(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    bars: Any = logging  # its functions are untyped
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    finally:
        if shown:
            bars.enable_progress_bar()
    return loaded.to(device).eval()


def _train(
    model: Any,
    student: _Student,
    dtypes: Mapping[str, torch.dtype],
    rows: tuple[list[TraceRow], list[TraceRow]],
    settings: Distillation,
    teacher: Path | None,
    on_step: OnStep | None,
) -> dict[str, Any]:
    """Train the model in place and round it to the dtypes of its file; what the report says of it."""
    import torch

    from compress.training import Teacher, keep_zeros, mean_loss, plan_batches, train

    learned, held_out = rows
    device = next(model.parameters()).device
    linear = {name: model.get_submodule(name).weight for name in linear_shapes(student.shapes)}
    for name in student.frozen:
        linear.pop(name).requires_grad_(False)
    taught = None
    if teacher is not None:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        taught = Teacher(_load(teacher, dtype, device), settings.kd_weight, settings.temperature)
    started = time.perf_counter()
    loss_before = mean_loss(model, held_out)
    batches = plan_batches(learned, settings)
    num_masked = keep_zeros(linear)
    train(model, batches, settings.learning_rate, taught, on_step)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameter.to(dtypes[name]))
    sizes = {True: 0, False: 0}
    for parameter in model.parameters():
        sizes[parameter.requires_grad] += parameter.numel()
    read = [row for batch in batches for row in batch]
    return {
        "num_steps": len(batches),
        "num_tokens": sum(len(row.tokens) for row in read),
        "num_answer_tokens": sum(row.num_counted for row in read),
        "num_trained": sizes[True] - num_masked,
        "num_masked": num_masked,
        "num_frozen": sizes[False],
        "loss_before": loss_before,
        "loss_after": mean_loss(model, held_out),
        "seconds": time.perf_counter() - started,
    }


def _report(student: _Student, folder: Path, distillation: DistillationReport) -> CompressionReport:
    """The student's report, or that of a base model, with what was learned."""
    fingerprint = weights_fingerprint(folder)
    if student.report is not None:
        return replace(student.report, weights_fingerprint=fingerprint, distillation=distillation)
    size = deployable_size(student.shapes, None)
    return CompressionReport(
        model=str(student.folder),
        scheme=None,
        format=CheckpointFormat.DEQUANTIZED,
        num_parameters=size.num_parameters,
        num_bytes=size.num_bytes,
        effective_bits=size.effective_bits,
        checkpoint_gb=size.checkpoint_gb,
        size_source=size.source,
        served_gb=sum(path.stat().st_size for path in weight_files(folder)) / 1e9,
        loss=None,
        sparsity=0.0,
        fallbacks={},
        layers=(),
        calibration=None,
        weights_fingerprint=fingerprint,
        device=distillation.device,
        seconds=distillation.seconds,
        peak_memory_gib=distillation.peak_memory_gib,
        base_fingerprint=student.fingerprint,
        distillation=distillation,
    )
