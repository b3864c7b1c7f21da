"""Start here: one base model and one scheme become one checkpoint folder.

    check everything that can be refused -> load -> for each decoder layer, on the device alone:
        for q,k,v | o | gate,up | down:  measure the inputs' Hessian -> solve -> put the stored values in place
        pass what the compressed layer puts out on to the next one
    -> write into a temporary folder -> fsync -> rename

So every Hessian is measured on what the compressed modules before it put out, as at inference.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.calibration import Calibration
from compress.checkpoint import copy_companions, weights_fingerprint, whole_folder, write_checkpoint
from compress.columns import Solved
from compress.decoder import embed_rows, load_decoder, measure_hessian, pass_unit, unit_inputs
from compress.errors import NumericalError
from compress.job import Job, check_job
from compress.packing import packed_tensors, quantization_config
from compress.report import CompressionReport, LayerReport
from compress.scheme import CheckpointFormat, Platform, Scheme
from compress.size import UNITS, deployable_size, measured_size, weight_files
from compress.solve import SolvedUnit, solve_unit

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Compressed:
    """packed: tensors that replace a weight, by the weight's name; the dense values are in the model itself."""

    packed: Mapping[str, dict[str, Tensor]]
    layers: tuple[LayerReport, ...]
    fallbacks: Mapping[str, int]


def compress_model(
    model: Path,
    out: Path,
    scheme: Scheme,
    calibration: Calibration | None = None,
    *,
    format: CheckpointFormat = CheckpointFormat.AUTO,
    device: str | None = None,
    platform: Platform | None = None,
    on_progress: Progress | None = None,
) -> CompressionReport:
    """Compress the Hugging Face checkpoint in `model` into the new folder `out`, which vllm serve loads unchanged.

    calibration may be None for rtn and magnitude. format AUTO packs where `platform`'s vLLM has a kernel. device: where
    layers are solved; platform: where the checkpoint will be served; both default to CUDA when this machine has it.
    on_progress(layers done, layers in all) after each layer. Raises InputError before any work for what cannot be done,
    NumericalError when the numbers admit no solution; then no folder `out` is left behind.
    """
    started = time.perf_counter()
    job = check_job(model, out, scheme, calibration, format=format, device=device, platform=platform)
    if job.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(job.device)
    decoder = load_decoder(model, job.stored_dtype if job.device.type == "cuda" else torch.float32)
    compressed = compress_layers(decoder, job, on_progress or (lambda done, total: None))
    with whole_folder(out) as folder:
        _write(folder, decoder, job, compressed)
        report = _report(folder, job, compressed, calibration, started)
        report.save(folder)
    return report


def compress_layers(decoder: Any, job: Job, on_progress: Progress) -> _Compressed:
    """Solve every layer of `decoder` in turn and leave the stored values in it."""
    batches = embed_rows(decoder, job.rows, job.device) if job.rows else []
    packed: dict[str, dict[str, Tensor]] = {}
    reports: list[LayerReport] = []
    fallbacks = {"dampening_raised": 0, "dead_columns": 0}
    for index, layer in enumerate(decoder.model.layers):
        layer.to(job.device)
        for unit in UNITS:
            inputs = [unit_inputs(layer, unit, batch) for batch in batches]
            try:
                hessian = measure_hessian(inputs, batches) if batches else None
                solved = _compress_unit(layer, f"model.layers.{index}", unit, hessian, job)
            except NumericalError as error:
                raise NumericalError(f"model.layers.{index} {', '.join(unit)}: {error}") from error
            batches = [pass_unit(layer, unit, batch, values) for batch, values in zip(batches, inputs, strict=True)]
            reports += solved.reports.values()
            if solved.factor is not None:
                fallbacks["dampening_raised"] += solved.factor.num_raised
                fallbacks["dead_columns"] += int(solved.factor.dead.sum())
            if job.format is CheckpointFormat.PACKED:
                packed |= {name: _pack(result) for name, result in solved.weights.items()}
        layer.to("cpu")
        on_progress(index + 1, len(decoder.model.layers))
    return _Compressed(packed, tuple(reports), fallbacks)


def _compress_unit(layer: nn.Module, prefix: str, unit: Sequence[str], hessian: Tensor | None, job: Job) -> SolvedUnit:
    modules = {f"{prefix}.{name}": layer.get_submodule(name) for name in unit}
    weights = {name: module.weight.detach().float() for name, module in modules.items()}  # type: ignore[operator]
    solved = solve_unit(weights, hessian, job.scheme, job.stored_dtype)
    with torch.no_grad():
        for name, module in modules.items():
            module.weight.copy_(solved.weights[name].weight.to(job.stored_dtype))  # type: ignore[operator]
    return solved


def _pack(result: Solved) -> dict[str, Tensor]:
    assert result.codes is not None and result.grid is not None  # a packed format is chosen for quantized schemes alone
    return {name: tensor.cpu() for name, tensor in packed_tensors(result.codes, result.grid).items()}


def _write(folder: Path, decoder: Any, job: Job, compressed: _Compressed) -> None:
    """Weights under the names that the config promises; tied heads and buffers are left out."""
    state = decoder.state_dict()
    tensors: dict[str, Tensor] = {}
    for name in job.shapes:
        packed = compressed.packed.get(name.removesuffix(".weight"))
        if packed is None:
            tensors[name] = state[name].to(job.stored_dtype)
        else:
            tensors |= {name.removesuffix("weight") + suffix: tensor for suffix, tensor in packed.items()}
    config = {key: value for key, value in job.config.items() if key != "torch_dtype"}
    config["dtype"] = str(job.stored_dtype).removeprefix("torch.")
    packed_format = job.format is CheckpointFormat.PACKED
    write_checkpoint(folder, tensors, config, quantization_config(job.scheme) if packed_format else None)
    copy_companions(job.model, folder)


def _report(
    folder: Path, job: Job, compressed: _Compressed, calibration: Calibration | None, started: float
) -> CompressionReport:
    size = deployable_size(job.shapes, job.scheme)
    if job.format is CheckpointFormat.PACKED:
        size = measured_size(folder, size.num_parameters)
    losses = [layer.loss for layer in compressed.layers if layer.loss is not None]
    return CompressionReport(
        model=str(job.model),
        scheme=job.scheme,
        format=job.format,
        num_parameters=size.num_parameters,
        num_bytes=size.num_bytes,
        effective_bits=size.effective_bits,
        checkpoint_gb=size.checkpoint_gb,
        size_source=size.source,
        served_gb=sum(path.stat().st_size for path in weight_files(folder)) / 1e9,
        loss=sum(losses) / len(losses) if losses else None,
        sparsity=_mean_sparsity(job, compressed.layers),
        fallbacks=compressed.fallbacks,
        layers=compressed.layers,
        calibration=_describe(calibration, job.rows) if calibration else None,
        weights_fingerprint=weights_fingerprint(folder),
        device=str(job.device),
        seconds=time.perf_counter() - started,
        peak_memory_gib=_peak_memory(job.device) / 2**30,
    )


def _mean_sparsity(job: Job, layers: Sequence[LayerReport]) -> float:
    """Share of pruned weights over all layers, by their number of weights."""
    sizes = [job.shapes[f"{layer.name}.weight"] for layer in layers]
    pruned = sum(layer.sparsity * rows * columns for layer, (rows, columns) in zip(layers, sizes, strict=True))
    return pruned / sum(rows * columns for rows, columns in sizes)


def _describe(calibration: Calibration, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    settings = {key: getattr(calibration, key) for key in ("num_samples", "max_seq_length", "seed")}
    return {"content_hash": calibration.content_hash, **settings, "num_tokens": sum(map(len, rows))}


def _peak_memory(device: torch.device) -> int:
    """Bytes: of the device's tensors on CUDA, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
