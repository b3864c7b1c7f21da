"""`repair:` of a scheme: after compression the checkpoint learns from traces, with its zeros and grids kept."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.distillation import Distillation
from compress.errors import InputError, NumericalError, SchemeError, SchemesFailedError, nearest_name
from compress.traces import Traces, load_traces

if TYPE_CHECKING:
    from compress.calibration import Calibration
    from compress.report import CompressionReport
    from compress.scheme import CheckpointFormat, Scheme

SETTINGS = tuple(setting.name for setting in fields(Distillation))


@dataclass(frozen=True)
class Repair:
    """traces: the file, absolute; two repairs are equal by its content. With settings.kd_weight the teacher is the
    model that was compressed.
    """

    traces: str = field(compare=False)
    traces_hash: str
    settings: Distillation

    @property
    def name(self) -> str:
        """A word that tells repairs apart by everything that decides the result."""
        content = json.dumps([self.traces_hash, asdict(self.settings)], sort_keys=True)
        return f"repair.{hashlib.sha256(content.encode()).hexdigest()[:6]}"

    def load(self) -> Traces:
        """The file's traces. Raises InputError where they are gone, or not those that were named."""
        traces = load_traces(Path(self.traces))
        if traces.content_hash != self.traces_hash:
            raise InputError("repair.traces", f"{self.traces} (changed)", "the file that it was when this was planned")
        return traces

    def to_json(self) -> dict[str, Any]:
        """As parse_repair reads it, what is not set left out."""
        settings = {key: value for key, value in asdict(self.settings).items() if value is not None}
        return {"traces": self.traces, "traces_hash": self.traces_hash, **settings}


@dataclass(frozen=True)
class _Making:
    """place: where the compressed model goes, `out` itself without a repair."""

    out: Path
    place: Path
    scheme: Scheme
    format: CheckpointFormat
    traces: Traces | None


def parse_repair(value: object) -> Repair | None:
    """A mapping of `traces: FILE.jsonl` and Distillation's keys. Raises SchemeError that names the key, and for a file
    that holds no traces; one whose hash is given is not read.
    """
    if value is None or isinstance(value, Repair):
        return value
    known = ("traces", *SETTINGS)
    if not isinstance(value, Mapping) or not isinstance(value.get("traces"), str):
        raise SchemeError("repair", value, f"a mapping with traces: FILE.jsonl and any of {', '.join(SETTINGS)}")
    settings = {key: setting for key, setting in value.items() if key not in ("traces", "traces_hash")}
    for key in settings:
        if key not in SETTINGS:
            nearest = nearest_name(str(key), known)
            raise SchemeError(f"repair.{key}", "unknown", f"one of {', '.join(known)}", nearest)
    path = Path(value["traces"]).absolute()
    try:
        found = value.get("traces_hash") or _content_hash(path, path.stat().st_mtime_ns if path.exists() else 0)
        return Repair(str(path), found, Distillation(**settings))
    except InputError as error:
        raise SchemeError(f"repair.{error.key}", error.value, error.must) from None


def compress_and_repair(
    model: Path,
    outs: Sequence[Path],
    schemes: Sequence[Scheme],
    calibration: Calibration | None,
    formats: Sequence[CheckpointFormat],
    *,
    on_step: Callable[[int, int, float], None] | None = None,
    **options: Any,
) -> list[CompressionReport]:
    """compress_models for schemes of which some have a repair: those are made beside their folders and repaired into
    them. Raises what compress_models and distill_model raise; a repair without a finite loss is its scheme's failure.
    What was compressed when a process is killed or interrupted stays beside its folder, for the same request.
    """
    from compress.checkpoint import weights_fingerprint
    from compress.distill import distill_model
    from compress.job import choose_format
    from compress.pipeline import compress_models
    from compress.report import load_report

    missing = []
    for out, scheme, format in zip(outs, schemes, formats, strict=True):
        if scheme.repair is None:
            missing.append(_Making(out, out, scheme, format, None))
        elif out.exists():
            _check_existing(out, weights_fingerprint(model), scheme, calibration)
        else:
            chosen = choose_format(format, scheme, options.get("platform"), {})
            beside = out.with_name(f".{out.name}.unrepaired")
            missing.append(_Making(out, beside, scheme, chosen, scheme.repair.load()))
    failures: dict[Path, NumericalError] = {}
    plain = [replace(making.scheme, repair=None) for making in missing]
    places, wanted = [making.place for making in missing], [making.format for making in missing]
    try:
        compress_models(model, places, plain, calibration, formats=wanted, **options)
    except SchemesFailedError as error:
        failures = {making.out: error.failures[making.place] for making in missing if making.place in error.failures}
    for making in missing:
        repair, traces = making.scheme.repair, making.traces
        if repair is None or traces is None or making.out in failures:
            continue
        teacher = model if repair.settings.kd_weight else None
        device = options.get("device")
        try:
            distill_model(
                making.place, making.out, traces, repair.settings, teacher=teacher, device=device, on_step=on_step
            )
        except NumericalError as error:
            failures[making.out] = error
        except (InputError, OSError):
            shutil.rmtree(making.place)
            raise
        shutil.rmtree(making.place)
    if failures:
        raise SchemesFailedError(failures)
    return [report for out in outs if (report := load_report(out)) is not None]


def _check_existing(out: Path, base_fingerprint: str, scheme: Scheme, calibration: Calibration | None) -> None:
    """Raises InputError when the checkpoint that is there is of another request."""
    from compress.report import load_report

    report = load_report(out) if out.is_dir() else None
    if report is not None and report.distillation is not None and scheme.repair is not None:
        done, read = report.distillation, report.calibration or {}
        measured_on = calibration.content_hash if calibration is not None and scheme.needs_calibration else None
        asked = (
            base_fingerprint,
            replace(scheme, repair=None),
            scheme.repair.traces_hash,
            asdict(scheme.repair.settings),
        )
        found = (report.base_fingerprint, report.scheme, done.traces_hash, dict(done.settings))
        if asked == found and measured_on in (None, read.get("content_hash")):
            return
    raise InputError("OUT", out, "a folder that does not exist yet, or of the same request")


@lru_cache(maxsize=16)
def _content_hash(path: Path, changed_ns: int) -> str:
    """Of the traces; changed_ns: when the file was written, so that another content is read again."""
    return load_traces(path).content_hash
