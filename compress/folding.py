"""Where the division of a unit's inputs goes: into what makes them, so that the checkpoint loads as any other. Pure.

q, k, v and gate, up read a norm's outputs: its weight is divided. down reads act(gate) * up, so up's rows are; o reads
a mean of v's rows, which are divided where every head has values of its own (with grouped heads, one row of v feeds
columns of several heads, and o is not scaled). DeepSeek's latents have norms of their own. Nothing can be divided for
experts' gate and up, whose norm all experts and the router read, nor for o behind latents.
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

_NORMS = {
    "self_attn.q_proj": "input_layernorm",
    "self_attn.q_a_proj": "input_layernorm",
    "self_attn.q_b_proj": "self_attn.q_a_layernorm",
    "self_attn.kv_b_proj": "self_attn.kv_a_layernorm",
    "mlp.gate_proj": "post_attention_layernorm",
}
_MATRICES = {"o_proj": "v_proj", "down_proj": "up_proj"}


def feeder_of(unit: Sequence[str], layer: Mapping[str, Tensor], stored_dtype: torch.dtype) -> Feeder | None:
    """What can be divided in place of the unit's inputs; layer: the dense layer's tensors by name."""
    if unit[0] in _NORMS:
        return Feeder(layer[f"{_NORMS[unit[0]]}.weight"].to(stored_dtype))
    matrix = layer.get(f"{_matrix_of(unit)}.weight")
    return Feeder(None) if matrix is not None and matrix.shape[0] == layer[f"{unit[0]}.weight"].shape[1] else None


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
    matrix = _matrix_of(unit)
    others = {}
    if f"{matrix}.bias" in layer:
        others[f"{matrix}.bias"] = layer[f"{matrix}.bias"] / scale
    if matrix not in solved:
        return {}, {**others, f"{matrix}.weight": layer[f"{matrix}.weight"] / scale.unsqueeze(1)}
    before = solved[matrix]
    grid = divide_rows(before.grid, scale) if before.grid else None
    return {matrix: replace(before, weight=before.weight / scale.unsqueeze(1), grid=grid)}, others


def _matrix_of(unit: Sequence[str]) -> str:
    """The matrix whose rows the unit's inputs would be made of; not every layer has it."""
    parent, _, module = unit[0].rpartition(".")
    return f"{parent}.{_MATRICES.get(module)}"
