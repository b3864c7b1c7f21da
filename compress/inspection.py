"""What a checkpoint folder holds, from its files alone: whole or torn, how many bytes, and what its report says."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compress.checkpoint import read_config, weights_fingerprint
from compress.families import count_parameters, shapes_from_config
from compress.report import CompressionReport, load_report
from compress.size import measured_size, read_header, weight_files


@dataclass(frozen=True)
class Inspection:
    """stored_bits: 8 x bytes of the folder's tensors / num_parameters, as measured, whatever the report claims.
    unchanged: whether config and weights are those that the report was written for, None without a report.
    """

    checkpoint: str
    model_type: str
    format: str
    num_parameters: int
    num_tensors: int
    served_gb: float
    stored_bits: float
    dtypes: dict[str, int]
    weights_fingerprint: str
    unchanged: bool | None
    report: CompressionReport | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "report": self.report.to_json() if self.report else None}


def inspect_checkpoint(folder: Path) -> Inspection:
    """Read a base or a compressed checkpoint. Raises ModelError for a missing, torn or unknown one."""
    config = read_config(folder, "CHECKPOINT")
    report = load_report(folder)
    quantization = config.pop("quantization_config", None)
    num_parameters = count_parameters(shapes_from_config(config))
    size = measured_size(folder, num_parameters)
    headers = [header for path in weight_files(folder) for header in read_header(path).values()]
    dtypes: dict[str, int] = {}
    for dtype, shape in headers:
        dtypes[dtype] = dtypes.get(dtype, 0) + math.prod(shape)
    fingerprint = weights_fingerprint(folder)
    return Inspection(
        checkpoint=str(folder),
        model_type=config["model_type"],
        format=quantization["format"] if quantization else "dequantized" if report else "base model",
        num_parameters=num_parameters,
        num_tensors=len(headers),
        served_gb=sum(path.stat().st_size for path in weight_files(folder)) / 1e9,
        stored_bits=size.effective_bits,
        dtypes=dtypes,
        weights_fingerprint=fingerprint,
        unchanged=None if report is None else report.weights_fingerprint == fingerprint,
        report=report,
    )
