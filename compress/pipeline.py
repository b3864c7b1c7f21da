"""Start here: one base model and any number of schemes become one checkpoint folder each, in one pass.

    check everything that can be refused -> for each decoder layer, read from the model's files, on the device alone:
        for q,k,v | o | gate,up | down:  measure the inputs' Hessian -> solve it for all schemes -> write the results
    -> when a folder holds all layers: config, tokenizer, report -> fsync -> rename

walk.py holds the loop, solve.py what happens to one unit. A process that was killed is gone on with by the next.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compress.calibration import Calibration
from compress.checkpoint import (
    check_absent,
    copy_companions,
    publish,
    weights_fingerprint,
    whole_folders,
    write_config,
)
from compress.devices import parse_devices, peak_memory_gib, prepare_device
from compress.errors import InputError, NumericalError, SchemesFailedError
from compress.families import routers_of
from compress.job import HessianStore, Job, Target, check_job
from compress.kept import kept_hessians
from compress.making import layout
from compress.methods import Width, nominal_bits
from compress.packing import quantization_config
from compress.planning import plan
from compress.progress import PartialCheckpoint
from compress.repair import compress_and_repair
from compress.report import CompressionReport, LayerReport, load_report
from compress.scheme import CheckpointFormat, Platform, Scheme
from compress.shards import TensorWriter
from compress.size import deployable_size, measured_size, weight_files
from compress.split import compress_on_devices, deal
from compress.walk import Progress, compress_layers


def compress_model(
    model: Path,
    out: Path,
    scheme: Scheme,
    calibration: Calibration | None = None,
    *,
    format: CheckpointFormat = CheckpointFormat.AUTO,
    device: str | None = None,
    platform: Platform | None = None,
    memory_gib: float | None = None,
    on_progress: Progress | None = None,
) -> CompressionReport:
    """Compress the Hugging Face checkpoint in `model` into the new folder `out`: compress_models for one scheme.

    Raises InputError also when `out` exists, and the scheme's own NumericalError.
    """
    check_absent(out)
    options: dict[str, Any] = {"device": device, "platform": platform, "memory_gib": memory_gib}
    try:
        (report,) = compress_models(
            model, [out], [scheme], calibration, formats=[format], on_progress=on_progress, **options
        )
    except SchemesFailedError as error:
        raise error.failures[out] from None
    return report


def compress_models(
    model: Path,
    outs: Path | Sequence[Path],
    schemes: Sequence[Scheme],
    calibration: Calibration | None = None,
    *,
    formats: CheckpointFormat | Sequence[CheckpointFormat] = CheckpointFormat.AUTO,
    device: str | None = None,
    platform: Platform | None = None,
    memory_gib: float | None = None,
    hessians: HessianStore | None = None,
    on_progress: Progress | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> list[CompressionReport]:
    """Compress the Hugging Face checkpoint in `model` into one folder a scheme, which vllm serve loads unchanged.

    outs: a folder for each scheme, or one that gets a folder named by each scheme. One that is there already, of the
    same model, scheme, format and calibration, is left as it is; another one is refused. calibration may be None for
    rtn and magnitude. formats: of each or of all; AUTO packs where `platform`'s vLLM has a kernel. device: where layers
    are solved, with commas between several, which share the schemes (split.py); default all CUDA
    devices that torch sees, else the CPU.
    platform: where checkpoints will be served; default CUDA when this machine has it. memory_gib: host memory for
    activations, default half of what is free; what needs more goes to files. hessians: where those of a dense pass
    are kept for the next one. on_progress(layers done, layers in all) after each layer; on_step(done, in all, loss)
    after each step of a repair, on one device.

    Raises InputError before any work for what cannot be done, and OSError for a full disk; then nothing is left behind.
    Raises SchemesFailedError, once all others are made, when the numbers of some schemes admit no solution. A process
    that is killed or interrupted leaves folders of unfinished work, which the same request goes on with.
    """
    started = time.perf_counter()
    if memory_gib is not None and not (math.isfinite(memory_gib) and memory_gib >= 0):
        raise InputError("memory_gib", memory_gib, "a number of GiB, 0 or more")
    outs = [outs / scheme.name for scheme in schemes] if isinstance(outs, Path) else list(outs)
    formats = [formats] * len(outs) if isinstance(formats, CheckpointFormat) else list(formats)
    devices = parse_devices(device)
    shares = deal(outs, schemes, len(devices))
    options: dict[str, Any] = {"platform": platform, "memory_gib": memory_gib, "hessians": hessians}
    options |= {"on_progress": on_progress}
    if len(shares) > 1:
        _refuse_early(model, outs, schemes, formats, calibration, devices[0], platform)
        return compress_on_devices(devices, shares, model, outs, schemes, calibration, formats, **options)
    device = device and devices[0]
    if any(scheme.repair is not None for scheme in schemes):
        return compress_and_repair(
            model, outs, schemes, calibration, formats, device=device, on_step=on_step, **options
        )
    job = check_job(model, outs, schemes, calibration, formats=formats, device=device, platform=platform)
    memory_bytes = None if memory_gib is None else int(memory_gib * 2**30)
    with ThreadPoolExecutor() as pool:
        base = pool.submit(weights_fingerprint, model)  # reads as much as the pass does: beside it, unless needed first
        reports = {target.out: _existing(target, base.result(), job) for target in job.targets if target.out.exists()}
        missing = [target for target in job.targets if target.out not in reports]
        failures: dict[Path, NumericalError] = {}
        if missing:
            key = _pass_key(job)  # of the whole request: what is there by now does not change it
            made, failures = _compress(
                job.only(missing), key, pool, base.result, memory_bytes, hessians, on_progress, started
            )
            reports |= made
    if failures:
        raise SchemesFailedError(failures)
    return [reports[out] for out in outs]


def _refuse_early(
    model: Path,
    outs: list[Path],
    schemes: Sequence[Scheme],
    formats: list[CheckpointFormat],
    calibration: Calibration | None,
    device: str,
    platform: Platform | None,
) -> None:
    """Raise what any share would be refused for, before another one is at work; repairs see to themselves."""
    plain = [index for index, scheme in enumerate(schemes) if scheme.repair is None]
    if not plain:
        return
    job = check_job(
        model,
        [outs[index] for index in plain],
        [schemes[index] for index in plain],
        calibration,
        formats=[formats[index] for index in plain],
        device=device,
        platform=platform,
    )
    there = [target for target in job.targets if target.out.exists()]
    if there:
        fingerprint = weights_fingerprint(model)
        for target in there:
            _existing(target, fingerprint, job)


@dataclass(frozen=True)
class _Pass:
    """What the reports of one pass have in common."""

    job: Job
    base_fingerprint: str
    activations: str | None
    seconds: float


def _existing(target: Target, base_fingerprint: str, job: Job) -> CompressionReport:
    """The report of a checkpoint that is there already. Raises InputError when it is of another request."""
    report = load_report(target.out) if target.out.is_dir() else None
    if report is not None:
        asked = (base_fingerprint, target.scheme, target.format, _calibration_hash(target.scheme, job.calibration))
        measured_on = (report.calibration or {}).get("content_hash") if target.scheme.needs_calibration else None
        found = (report.base_fingerprint, report.scheme, report.format, measured_on)
        if asked == found and report.distillation is None:
            return report
    raise InputError("OUT", target.out, "a folder that does not exist yet, or of the same request")


def _compress(
    job: Job,
    key: str,
    pool: ThreadPoolExecutor,
    base_fingerprint: Callable[[], str],
    memory_bytes: int | None,
    hessians: HessianStore | None,
    on_progress: Progress | None,
    started: float,
) -> tuple[dict[Path, CompressionReport], dict[Path, NumericalError]]:
    """Reports of what was made, and why the others could not be."""
    prepare_device(job.device)
    job, unplanned = plan(job, memory_bytes)
    outs = [target.out for target in job.targets]
    with whole_folders(outs, key) as folders:
        with ExitStack() as stack:
            begun = [
                pool.submit(TensorWriter, folder, layout(job, target))
                for target, folder in zip(job.targets, folders, strict=True)
            ]
            for writer in [writer for writer in begun if writer.exception() is None]:  # all of them end, then this does
                stack.enter_context(writer.result())
            partials = [PartialCheckpoint(folder, w.result()) for folder, w in zip(folders, begun, strict=True)]
            kept = stack.enter_context(kept_hessians(job, hessians, base_fingerprint))
            place = compress_layers(job, partials, memory_bytes, on_progress or (lambda done, total: None), kept)
        done = _Pass(job, base_fingerprint(), place, time.perf_counter() - started)
        made = [(target, part) for target, part in zip(job.targets, partials, strict=True) if part.failure is None]
        finished = pool.map(lambda pair: _finish(done, *pair), made)
        reports = {target.out: report for (target, _), report in zip(made, finished, strict=True)}
        for target, partial in made:
            publish(partial.folder, target.out)
    failures = zip(outs, (partial.failure for partial in partials), strict=True)
    return reports, unplanned | {out: failure for out, failure in failures if failure is not None}


def _pass_key(job: Job) -> str:
    """Names everything that decides the bytes of a pass: a killed process is gone on with only by its like."""
    files = sorted([job.model / "config.json", *weight_files(job.model)])
    content = {
        "model": [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in files],
        "targets": [(str(t.out.absolute()), t.scheme.to_json(), str(t.format)) for t in job.targets],
        "calibration": job.calibration.content_hash if job.calibration else None,
        "device": job.device.type,
        "torch": torch.__version__,
        "threads": torch.get_num_threads() if job.device.type == "cpu" else None,
        "code": [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _finish(done: _Pass, target: Target, partial: PartialCheckpoint) -> CompressionReport:
    """Write what stands beside the weights."""
    job, folder = done.job, partial.folder
    config = {key: value for key, value in job.config.items() if key != "torch_dtype"}
    config["dtype"] = str(job.stored_dtype).removeprefix("torch.")
    packed = target.format is CheckpointFormat.PACKED
    exceptions = None
    if target.scheme.has_rules:
        exceptions = {name: own if own and own.has_grid else None for name, own in target.schemes.items()}
    quantization = quantization_config(target.scheme, exceptions, routers_of(job.shapes)) if packed else None
    write_config(folder, config, quantization)
    copy_companions(job.model, folder)
    report = _report(done, target, partial)
    report.save(folder)
    return report


def _report(done: _Pass, target: Target, partial: PartialCheckpoint) -> CompressionReport:
    job, folder, layers = done.job, partial.folder, partial.layers
    size = deployable_size(job.shapes, target.scheme, target.schemes)
    if target.format is CheckpointFormat.PACKED:
        size = measured_size(folder, size.num_parameters)
    losses = [layer.loss for layer in layers if layer.loss is not None]
    return CompressionReport(
        model=str(job.model),
        scheme=target.scheme,
        format=target.format,
        num_parameters=size.num_parameters,
        num_bytes=size.num_bytes,
        effective_bits=size.effective_bits,
        checkpoint_gb=size.checkpoint_gb,
        size_source=size.source,
        served_gb=sum(path.stat().st_size for path in weight_files(folder)) / 1e9,
        loss=sum(losses) / len(losses) if losses else None,
        sparsity=_mean_sparsity(job, layers),
        fallbacks=partial.fallbacks,
        layers=layers,
        calibration=_describe(job.calibration, job.rows) if job.calibration else None,
        weights_fingerprint=weights_fingerprint(folder),
        device=str(job.device),
        seconds=done.seconds,
        peak_memory_gib=peak_memory_gib(job.device),
        num_schemes=len(job.targets),
        activations=done.activations,
        base_fingerprint=done.base_fingerprint,
        nominal_bits=_nominal_bits(job, target),
        widths=_widths(target) if target.scheme.average_bits is not None else None,
    )


def _widths(target: Target) -> dict[str, Width]:
    return {name: own.num_bits for name, own in target.schemes.items() if own is not None and own.num_bits is not None}


def _nominal_bits(job: Job, target: Target) -> float | None:
    """Mean bits of a code over the weights that have codes, None without any."""
    sizes = {name: math.prod(job.shapes[f"{name}.weight"]) for name in _widths(target)}
    total = sum(nominal_bits(width) * sizes[name] for name, width in _widths(target).items())
    return total / sum(sizes.values()) if sizes else None


def _mean_sparsity(job: Job, layers: Sequence[LayerReport]) -> float:
    """Share of pruned weights over all layers, by their number of weights."""
    sizes = [job.shapes[f"{layer.name}.weight"] for layer in layers]
    pruned = sum(layer.sparsity * rows * columns for layer, (rows, columns) in zip(layers, sizes, strict=True))
    return pruned / sum(rows * columns for rows, columns in sizes)


def _calibration_hash(scheme: Scheme, calibration: Calibration | None) -> str | None:
    return calibration.content_hash if calibration is not None and scheme.needs_calibration else None


def _describe(calibration: Calibration, rows: Sequence[Sequence[int]]) -> Mapping[str, Any]:
    settings = {
        key: getattr(calibration, key) for key in ("num_samples", "max_seq_length", "seed", "first_token_weight")
    }
    return {"content_hash": calibration.content_hash, **settings, "num_tokens": sum(map(len, rows))}
