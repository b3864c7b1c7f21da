"""Where the division of a unit's inputs goes: into what makes them, so that the checkpoint loads as any other. Pure.

q, k, v and gate, up read a norm's outputs: its weight is divided. down reads act(gate) * up, so up's rows are; o reads
a mean of v's rows, which are divided where every head has values of its own (with grouped heads, one row of v feeds
columns of several heads, and o is not scaled).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from compress.awq import divide_norm
from compress.hessian import Feeder
from compress.lanes import Solved
from compress.quantizer import divide_rows

_NORMS = {"self_attn.q_proj": "input_layernorm", "mlp.gate_proj": "post_attention_layernorm"}
_MATRICES = {"self_attn.o_proj": "self_attn.v_proj", "mlp.down_proj": "mlp.up_proj"}


def feeder_of(unit: Sequence[str], layer: Mapping[str, Tensor], stored_dtype: torch.dtype) -> Feeder | None:
    """What can be divided in place of the unit's inputs; layer: the dense layer's tensors by name."""
    if unit[0] in _NORMS:
        return Feeder(layer[f"{_NORMS[unit[0]]}.weight"].to(stored_dtype))
    num_rows = layer[f"{_MATRICES[unit[0]]}.weight"].shape[0]
    return Feeder(None) if num_rows == layer[f"{unit[0]}.weight"].shape[1] else None


def fold(
    unit: Sequence[str],
    scale: Tensor,
    layer: Mapping[str, Tensor],
    solved: Mapping[str, Solved],
    stored_dtype: torch.dtype,
) -> tuple[dict[str, Solved], dict[str, Tensor]]:
    """What the division by scale [C] makes of weights in `solved`, and of other tensors of the layer, by name."""
    if unit[0] in _NORMS:
        name = f"{_NORMS[unit[0]]}.weight"
        return {}, {name: divide_norm(layer[name].to(stored_dtype), scale)}
    matrix = _MATRICES[unit[0]]
    others = {}
    if f"{matrix}.bias" in layer:
        others[f"{matrix}.bias"] = layer[f"{matrix}.bias"] / scale
    if matrix not in solved:
        return {}, {**others, f"{matrix}.weight": layer[f"{matrix}.weight"] / scale.unsqueeze(1)}
    before = solved[matrix]
    grid = divide_rows(before.grid, scale) if before.grid else None
    return {matrix: replace(before, weight=before.weight / scale.unsqueeze(1), grid=grid)}, others
