"""Codes in the layout of compressed-tensors' "pack-quantized" format, as vLLM's kernels read it. Pure.

Shapes: R rows/out, C columns/in, G groups. 32 / bits codes share a signed 32-bit word, the first in the lowest bits,
each raised by 2^(bits-1) so that it is not negative. Codes are packed along C, zero points along R.
Source: compressed_tensors 0.17, compressors/pack_quantized (2, 4 and 8 bits; other widths are laid out otherwise).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compress.errors import FormatError
from compress.quantizer import Grid
from compress.scheme import Scheme

PACKABLE_BITS = (2, 4, 8)


def pack_codes(codes: Tensor, num_bits: int) -> Tensor:
    """int8 codes [R, C] -> int32 words [R, ceil(C * num_bits / 32)]. Raises FormatError for widths not in 2, 4, 8."""
    if num_bits not in PACKABLE_BITS:
        raise FormatError("num_bits", num_bits, "2, 4 or 8 to be packed")
    per_word = 32 // num_bits
    raised = codes.to(torch.int64) + (1 << (num_bits - 1))
    raised = torch.nn.functional.pad(raised, (0, -codes.shape[1] % per_word))
    shifts = torch.arange(per_word, device=codes.device) * num_bits
    words = (raised.reshape(codes.shape[0], -1, per_word) << shifts).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def unpack_codes(words: Tensor, num_bits: int, num_columns: int) -> Tensor:
    """The inverse of pack_codes: int32 words -> int8 codes [R, num_columns]."""
    shifts = torch.arange(32 // num_bits, device=words.device) * num_bits
    raised = (words.to(torch.int64).unsqueeze(-1) >> shifts) & ((1 << num_bits) - 1)
    codes = raised.flatten(1)[:, :num_columns] - (1 << (num_bits - 1))
    return codes.to(torch.int8)


def packed_tensors(codes: Tensor, grid: Grid) -> dict[str, Tensor]:
    """The tensors that stand in a checkpoint for one weight, by the suffix that follows the layer's name."""
    tensors = {
        "weight_packed": pack_codes(codes, grid.spec.num_bits),
        "weight_scale": grid.scale.to(grid.spec.scale_dtype).contiguous(),
        "weight_shape": torch.tensor(codes.shape, dtype=torch.int64),
    }
    if not grid.spec.symmetric:
        zero_point = grid.zero_point.to(torch.int8)
        tensors["weight_zero_point"] = pack_codes(zero_point.T, grid.spec.num_bits).T.contiguous()
    return tensors


def quantization_config(scheme: Scheme) -> dict[str, Any]:
    """The config.json entry that tells vLLM how every linear layer but the head is packed."""
    weights: dict[str, Any] = {
        "num_bits": scheme.num_bits,
        "type": "int",
        "symmetric": scheme.symmetric,
        "strategy": "group" if scheme.group_size else "channel",
        "group_size": scheme.group_size,
        "dynamic": False,
        "observer": "minmax",
        "observer_kwargs": {},
        "actorder": None,
        "block_structure": None,
    }
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
