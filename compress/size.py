"""Bytes of a compressed model: from its shapes (computed) or from its files (measured). Pure, standard library only.

The deployable artifact is the packed one, in compressed-tensors' layout: R rows/out, C columns/in, G groups per row
  codes        R x ceil(C * bits / 32) words of 4 bytes; ternary: R x ceil(C / 5) bytes, 3^5 = 243 values in each
  scales       R x G values of 2 bytes
  zero points  ceil(R * bits / 32) x G words of 4 bytes, asymmetric schemes only
  shape        two 8-byte integers per packed weight
W8A8 and FP8: R x C bytes and R scales. A ternary code counts as 1.6 bits, which no format that vLLM loads reaches.
and 2 bytes for every other value. Zeros of a sparse 16-bit weight are stored like any other value: no format that
vLLM loads leaves them out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compress.errors import ModelError
from compress.families import FULL_PRECISION, count_parameters, linear_shapes
from compress.methods import TERNARY, code_bits
from compress.rules import module_schemes
from compress.scheme import Scheme

TRITS_PER_BYTE = 5

BYTES_PER_VALUE = 2
SHAPE_BYTES = 16
HEADER_LIMIT = 100_000_000
_DTYPE_BYTES = (
    dict.fromkeys(("F64", "I64", "U64"), 8)
    | dict.fromkeys(("F32", "I32", "U32"), 4)
    | dict.fromkeys(("F16", "BF16", "I16", "U16"), 2)
    | dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 1)
)


@dataclass(frozen=True)
class SizeReport:
    """num_bytes of all tensors; effective_bits = 8 * num_bytes / num_parameters; checkpoint_gb = num_bytes / 1e9."""

    num_parameters: int
    num_bytes: int
    effective_bits: float
    checkpoint_gb: float
    source: Literal["computed", "measured"]


def deployable_size(
    shapes: Mapping[str, tuple[int, ...]],
    scheme: Scheme | None,
    schemes: Mapping[str, Scheme | None] | None = None,
) -> SizeReport:
    """Size of the packed artifact of a model with these tensor shapes; scheme None = the 16-bit baseline.

    schemes: {weight: its own scheme}; without them as the scheme's rules say, and a budget is taken as spent.
    """
    num_parameters = count_parameters(shapes)
    if schemes is None and scheme is not None and scheme.average_bits is not None:
        return _report(num_parameters, int(scheme.average_bits * num_parameters / 8), "computed")
    num_bytes = stored_bytes(shapes)
    if schemes is None:
        schemes = module_schemes(scheme, linear_shapes(shapes)) if scheme else {}
    for name, own in schemes.items():
        rows, columns = shapes[f"{name}.weight"]
        if own is not None:
            num_bytes += packed_bytes(rows, columns, own) - BYTES_PER_VALUE * rows * columns
    return _report(num_parameters, num_bytes, "computed")


def stored_bytes(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes of tensors that nothing is done to: 16 bits a value, 32 where less would not do."""
    return sum(BYTES_PER_VALUE * (1 + name.endswith(FULL_PRECISION)) * math.prod(shapes[name]) for name in shapes)


def packed_bytes(rows: int, columns: int, scheme: Scheme) -> int:
    """Bytes of one packed weight with its scales, zero points and shape."""
    if scheme.num_bits is None:
        return BYTES_PER_VALUE * rows * columns
    if scheme.input_activations is not None:
        return rows * columns + BYTES_PER_VALUE * rows
    groups = columns // scheme.group_size if scheme.group_size else 1
    if scheme.num_bits == TERNARY:
        codes = rows * math.ceil(columns / TRITS_PER_BYTE)
    else:
        codes = 4 * rows * math.ceil(columns * scheme.num_bits / 32)
    zero_points = 0 if scheme.symmetric else 4 * groups * math.ceil(rows * code_bits(scheme.num_bits) / 32)
    return codes + BYTES_PER_VALUE * rows * groups + zero_points + SHAPE_BYTES


def measured_size(folder: Path, num_parameters: int) -> SizeReport:
    """Size of the tensors that the folder's safetensors files really hold. Raises ModelError for a torn file."""
    num_bytes = sum(
        _DTYPE_BYTES[dtype] * math.prod(shape)
        for path in weight_files(folder)
        for dtype, shape in read_header(path).values()
    )
    return _report(num_parameters, num_bytes, "measured")


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors files in order. Raises ModelError when there is none."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ModelError("model", folder, "a folder with config.json and *.safetensors files")
    return paths


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """{tensor name: (dtype, shape)} of a safetensors file. Raises ModelError when it is torn or another format.

    Layout: 8 bytes little-endian header length, a JSON header, then the data that its offsets describe.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= HEADER_LIMIT:
                raise ValueError("header length")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}
        if unknown := {dtype for dtype, _ in tensors.values()} - _DTYPE_BYTES.keys():
            raise ValueError(f"dtype {unknown}")
        end = 0  # of the data: tensors lie one behind the other
        for start, stop, name in sorted((*entry["data_offsets"], name) for name, entry in header.items()):
            dtype, shape = tensors[name]
            if start != end or stop - start != math.prod(shape) * _DTYPE_BYTES[dtype]:
                raise ValueError(f"offsets of {name}")
            end = stop
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(str(path), "unreadable", "a safetensors file") from error
    expected = 8 + length + end
    if path.stat().st_size != expected:
        raise ModelError(str(path), f"{path.stat().st_size} bytes", f"{expected} bytes, as its header says: it is torn")
    return tensors


def _report(num_parameters: int, num_bytes: int, source: Literal["computed", "measured"]) -> SizeReport:
    return SizeReport(num_parameters, num_bytes, 8 * num_bytes / num_parameters, num_bytes / 1e9, source)
