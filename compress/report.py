"""What a compression did, as stored beside the weights in compression_report.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from compress.distillation import DistillationReport
from compress.errors import ModelError
from compress.methods import Width
from compress.scheme import CheckpointFormat, Scheme

REPORT_NAME = "compression_report.json"


@dataclass(frozen=True)
class LayerReport:
    """One weight. loss: tr((W-Q)H(W-Q)')/tr(WHW'), None without calibration. weight_error: |W-Q|^2/|W|^2.
    sparsity: share of weights pruned. dampening_frac: as it was needed, None where no Hessian was factored. num_tokens:
    calibration tokens that reached it, fewer than all for an expert; None without calibration.
    """

    name: str
    loss: float | None
    weight_error: float
    sparsity: float
    dampening_frac: float | None
    num_tokens: int | None = None


@dataclass(frozen=True)
class CompressionReport:
    """num_bytes, effective_bits, checkpoint_gb: the deployable packed artifact, measured on its files or computed as
    size_source says. served_gb: tensors of the folder as written. loss: mean over layers, None without calibration.
    sparsity: share of the compressed weights that were pruned. fallbacks: {cause: how often}. calibration: its
    content hash, settings and tokens. seconds: of the pass, from which num_schemes came at once. activations: where
    they were kept, None where none were needed. peak_memory_gib: of the device that solved. base_fingerprint: of the
    model that was compressed.
    nominal_bits: mean bits of a code, scales left out. widths: what a budget gave each weight. distillation: what was
    learned afterwards; scheme is None where nothing was compressed before, and loss, layers and seconds are those of
    the compression where something was.
    """

    model: str
    scheme: Scheme | None
    format: CheckpointFormat
    num_parameters: int
    num_bytes: int
    effective_bits: float
    checkpoint_gb: float
    size_source: Literal["computed", "measured"]
    served_gb: float
    loss: float | None
    sparsity: float
    fallbacks: Mapping[str, int]
    layers: tuple[LayerReport, ...]
    calibration: Mapping[str, Any] | None
    weights_fingerprint: str
    device: str
    seconds: float
    peak_memory_gib: float
    num_schemes: int = 1
    activations: str | None = None
    base_fingerprint: str | None = None
    nominal_bits: float | None = None
    widths: Mapping[str, Width] | None = None
    distillation: DistillationReport | None = None

    @property
    def method(self) -> str:
        """What made the weights last: distill, or the scheme's method."""
        return "distill" if self.distillation is not None or self.scheme is None else str(self.scheme.method)

    def to_json(self) -> dict[str, Any]:
        """Plain values; from_json reads them back."""
        scheme = None if self.scheme is None else {"name": self.scheme.name, **self.scheme.to_json()}
        return {"method": self.method, **asdict(self), "scheme": scheme, "format": str(self.format)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CompressionReport:
        """Raises KeyError, TypeError or SchemeError when the mapping is no report."""
        scheme = values["scheme"] and {key: value for key, value in values["scheme"].items() if key != "name"}
        distillation = values.get("distillation")
        layers = tuple(LayerReport(**layer) for layer in values["layers"])
        return cls(
            **{
                **{key: value for key, value in values.items() if key != "method"},
                "scheme": scheme and Scheme.from_json(scheme),
                "distillation": distillation and DistillationReport(**distillation),
                "format": CheckpointFormat(values["format"]),
                "layers": layers,
            }
        )

    def save(self, folder: Path) -> None:
        """Write the report into a checkpoint folder."""
        (folder / REPORT_NAME).write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")


def load_report(folder: Path) -> CompressionReport | None:
    """The folder's report, None when it has none. Raises ModelError when the file is no report."""
    path = folder / REPORT_NAME
    if not path.exists():
        return None
    try:
        return CompressionReport.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(str(path), "unreadable", "a report that compress wrote") from error
