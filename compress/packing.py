"""Codes in the layouts of compressed-tensors that vLLM's kernels read. Pure.

Shapes: R rows/out, C columns/in, G groups. "pack-quantized": codes stand one after the other in a stream of bits, each
raised by 2^(bits-1) so that it is not negative, the first in the lowest bits of a signed 32-bit word; a row's stream
takes ceil(C * bits / 32) words. Codes are packed along C, zero points along R.
"int-quantized" (W8A8) and "float-quantized" (FP8): one byte a value and one scale a row.
Sources: compressed_tensors 0.17 for 2, 4 and 8 bits; it pads the other widths, while vLLM's loader (WNA16) counts on
the stream without gaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from compress.errors import FormatError
from compress.methods import NUM_BITS, InputActivations, code_bits
from compress.quantizer import Grid, GridSpec, fit_grid, from_codes, to_codes
from compress.scheme import Scheme

STREAM = 32


def pack_codes(codes: Tensor, num_bits: int) -> Tensor:
    """int8 codes [R, C] -> int32 words [R, ceil(C * num_bits / 32)]. Raises FormatError for widths not in 2 to 8."""
    if num_bits not in NUM_BITS:
        raise FormatError("num_bits", num_bits, "2 to 8 to be packed")
    num_rows, num_columns = codes.shape
    raised = codes.to(torch.int64) + (1 << (num_bits - 1))
    raised = torch.nn.functional.pad(raised, (0, -num_columns % STREAM)).reshape(num_rows, -1, STREAM)
    words = raised.new_zeros(num_rows, raised.shape[1], num_bits)
    for index in range(STREAM):
        word, shift = divmod(index * num_bits, 32)
        words[..., word] |= raised[..., index] << shift
        if shift + num_bits > 32:
            words[..., word + 1] |= raised[..., index] >> (32 - shift)
    words = words.flatten(1)[:, : -(-num_columns * num_bits // 32)] & 0xFFFFFFFF
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def unpack_codes(words: Tensor, num_bits: int, num_columns: int) -> Tensor:
    """The inverse of pack_codes: int32 words -> int8 codes [R, num_columns]."""
    stream = torch.nn.functional.pad(words.to(torch.int64) & 0xFFFFFFFF, (0, 1))
    first = torch.arange(num_columns, device=words.device) * num_bits
    index, shift = first // 32, first % 32
    pairs = stream[:, index] | (stream[:, index + 1] << 32)
    raised = (pairs >> shift) & ((1 << num_bits) - 1)
    return (raised - (1 << (num_bits - 1))).to(torch.int8)


def packed_tensors(codes: Tensor, grid: Grid) -> dict[str, Tensor]:
    """The tensors that stand in a checkpoint for one weight, by the suffix that follows the layer's name."""
    if grid.spec.inputs is not None:
        return {"weight": codes.contiguous(), "weight_scale": grid.scale.to(grid.spec.scale_dtype).contiguous()}
    tensors = {
        "weight_packed": pack_codes(codes, grid.spec.num_bits),
        "weight_scale": grid.scale.to(grid.spec.scale_dtype).contiguous(),
        "weight_shape": torch.tensor(codes.shape, dtype=torch.int64),
    }
    if not grid.spec.symmetric:
        zero_point = grid.zero_point.to(torch.int8)
        tensors["weight_zero_point"] = pack_codes(zero_point.T, grid.spec.num_bits).T.contiguous()
    return tensors


@lru_cache(maxsize=256)
def packed_layout(shape: tuple[int, ...], spec: GridSpec) -> Mapping[str, Tensor]:
    """Shapes and dtypes of packed_tensors for a weight of the shape [R, C], on the meta device."""
    weight = torch.empty(shape, device="meta")
    grid = fit_grid(weight, spec)
    return packed_tensors(to_codes(weight, grid), grid)


def dense_weight(packed: Mapping[str, Tensor], spec: GridSpec) -> Tensor:
    """The inverse of packed_tensors, fp32 [R, C]."""
    if spec.inputs is not None:
        scale = packed["weight_scale"].float()
        return from_codes(packed["weight"], Grid(spec, scale, torch.zeros_like(scale)))
    num_columns = int(packed["weight_shape"][1])
    codes = unpack_codes(packed["weight_packed"], spec.num_bits, num_columns)
    scale = packed["weight_scale"].float()
    zero_point = torch.zeros_like(scale)
    if "weight_zero_point" in packed:
        zero_point = unpack_codes(packed["weight_zero_point"].T, spec.num_bits, scale.shape[0]).T.float()
    return from_codes(codes, Grid(spec, scale, zero_point))


def quantization_config(
    scheme: Scheme, exceptions: Mapping[str, Scheme | None] | None = None, routers: Sequence[str] = ()
) -> dict[str, Any]:
    """The config.json entry that tells vLLM how every linear layer but the head is packed.

    exceptions: {name of a linear layer: its own scheme, or None where it stays 16 bits wide}; then every layer of the
    decoder must be among them, because vLLM looks fused layers up by name and falls back on none. routers: linear
    layers that no scheme is for, of a model with experts.
    """
    if exceptions is None:
        groups = {"group_0": _group(scheme, ["Linear"])}
        return _config(groups, _format(scheme), ["lm_head", *routers])
    layouts: dict[str, tuple[Scheme, list[str]]] = {}
    for name, own in exceptions.items():
        if own is not None:
            layouts.setdefault(str(_group(own, [])), (own, []))[1].append(name)
    groups = {f"group_{index}": _group(own, names) for index, (own, names) in enumerate(layouts.values())}
    formats = {_format(own) for own, _ in layouts.values()}
    if len(formats) > 1:
        for group, (own, _) in zip(groups.values(), layouts.values(), strict=True):
            group["format"] = _format(own)
    ignored = [name for name, own in exceptions.items() if own is None]
    return _config(groups, formats.pop() if len(formats) == 1 else "mixed-precision", ["lm_head", *routers, *ignored])


def _format(scheme: Scheme) -> str:
    match scheme.input_activations:
        case InputActivations.INT8:
            return "int-quantized"
        case InputActivations.FP8:
            return "float-quantized"
        case None:
            return "pack-quantized"


def _group(scheme: Scheme, targets: list[str]) -> dict[str, Any]:
    assert scheme.num_bits is not None  # a packed format is chosen for schemes of one width alone
    weights: dict[str, Any] = {
        "num_bits": code_bits(scheme.num_bits),
        "type": "float" if scheme.input_activations is InputActivations.FP8 else "int",
        "symmetric": scheme.symmetric,
        "strategy": "group" if scheme.group_size else "channel",
        "group_size": scheme.group_size,
        "dynamic": False,
        "observer": "minmax",
        "observer_kwargs": {},
        "actorder": None,
        "block_structure": None,
    }
    inputs = None
    if scheme.input_activations is not None:
        inputs = {**weights, "strategy": "token", "dynamic": True, "observer": None}
    return {"targets": targets, "weights": weights, "input_activations": inputs, "output_activations": None}


def _config(groups: dict[str, Any], format: str, ignored: list[str]) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ignored,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
