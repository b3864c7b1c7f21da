"""Experts as the checkpoint's files hold them, one small MLP each, where transformers holds a layer's in one tensor.
And the Hessian of an expert that saw few tokens.

Shapes: N tokens of the layer, n of them routed to one expert, C columns/in, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from compress.hessian import HessianSum

# Tokens for each column of an expert's inputs below which its Hessian is mixed with that of all the layer's tokens, and
# for each column those that stand for all. Measured: docs/compression.md, "Models with experts".
TOKENS_PER_COLUMN = 1
SAMPLE_PER_COLUMN = 4


class Expert(nn.Module):
    """One expert: down(act(gate(x)) * up(x))."""

    def __init__(self, hidden: int, inner: int, activation: Callable[[Tensor], Tensor], like: Tensor) -> None:
        super().__init__()
        options: Any = {"bias": False, "device": like.device, "dtype": like.dtype}
        self.gate_proj = nn.Linear(hidden, inner, **options)
        self.up_proj = nn.Linear(hidden, inner, **options)
        self.down_proj = nn.Linear(inner, hidden, **options)
        self.act_fn = activation

    def inputs_of(self, module: str, tokens: Tensor) -> Tensor:
        """What the module of that name would read if tokens [N, C] were routed here."""
        if module != "down_proj":
            return tokens
        inner: Tensor = self.act_fn(self.gate_proj(tokens)) * self.up_proj(tokens)
        return inner

    def forward(self, tokens: Tensor) -> Tensor:
        outputs: Tensor = self.down_proj(self.inputs_of("down_proj", tokens))
        return outputs


class Experts(nn.ModuleList):
    """The experts of one layer, in the place of transformers' fused ones and with their arithmetic.

    routing [N, k]: the experts of each token in the last forward. leader: whose routing is taken instead of the own.
    """

    def __init__(self, fused: Any) -> None:
        num_experts, hidden, inner = fused.down_proj.shape
        super().__init__(Expert(hidden, inner, fused.act_fn, fused.down_proj) for _ in range(num_experts))
        self.routing: Tensor | None = None
        self.leader: Experts | None = None

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        if self.leader is not None:
            assert self.leader.routing is not None
            top_k_index = self.leader.routing
        self.routing = top_k_index
        outputs = torch.zeros_like(hidden_states)
        for index, expert in enumerate(self):
            tokens, choices = torch.where(top_k_index == index)
            if len(tokens):
                weighted = expert(hidden_states[tokens]) * top_k_weights[tokens, choices, None]
                outputs.index_add_(0, tokens, weighted.to(outputs.dtype))
        return outputs


def separate_experts(layer: Any) -> None:
    """Put Experts in the place of a decoder layer's fused ones, if it has any; their values are not taken along."""
    if is_sparse(layer):
        layer.mlp.experts = Experts(layer.mlp.experts)


def is_sparse(layer: Any) -> bool:
    """Whether the layer's MLP is made of experts."""
    return hasattr(layer.mlp, "experts")


def needed_tokens(num_columns: int) -> int:
    """Tokens that an expert must have seen for its Hessian [C, C] to stand alone."""
    return TOKENS_PER_COLUMN * num_columns


def mix(own: HessianSum, everyone: HessianSum) -> Tensor:
    """H [C, C] of an expert that saw n < m = needed_tokens(C): as if m - n more tokens had come, like those of
    `everyone`. Without tokens of its own that is the Hessian of all.
    """
    needed = needed_tokens(own.num_columns)
    if own.num_tokens == 0:
        return everyone.mean()
    share = own.num_tokens / needed
    return share * own.mean() + (1 - share) * everyone.mean()
