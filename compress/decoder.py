"""The decoder as a walk over its layers: transformers' own modules do the forwards, one layer on the device at a time,
its weights read from the model's files when its turn comes.

Shapes: N tokens, T positions of a row, C columns/in. A batch is [rows, T, hidden]; rows are padded on the right, which
causal attention never looks back at, so no mask is needed; `real` says which positions are no padding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.activations import Batch
from compress.errors import CalibrationError, ModelError
from compress.experts import is_sparse, separate_experts
from compress.families import FULL_PRECISION, Stage, Unit
from compress.shards import TensorReader

# Tokens of one forward, and so of one product into the Hessian: see HessianSum.add.
BATCH_TOKENS = 8192
# What a layer adds to the residual stream, in order.
BLOCKS = ("self_attn", "mlp")
# Modules whose outputs are all that a block adds; none in a layer of experts.
BLOCK_ENDS = ("self_attn.o_proj", "mlp.down_proj")


class _ReachedError(Exception):
    """Ends a forward at the module whose inputs were asked for."""


class Decoder:
    """A causal language model of which only the embedding's rows and one layer at a time are in memory, in `dtype`."""

    def __init__(self, model: Path, dtype: torch.dtype, device: torch.device) -> None:
        self.config = load_config(model)
        self.dtype, self.device, self.reader = dtype, device, TensorReader(model)
        try:
            with torch.device("meta"):
                skeleton = _skeleton(self.config, dtype)
                for layer in skeleton.model.layers:
                    separate_experts(layer)
            self._rotary: Any = type(skeleton.model.rotary_emb)(config=self.config)
        except (KeyError, ValueError, TypeError) as error:
            raise ModelError(f"{model}/config.json", f"unusable ({error})", "one that transformers builds") from error
        self._layers: Sequence[nn.Module] = skeleton.model.layers

    @property
    def num_layers(self) -> int:
        return len(self._layers)

    def read_layer(self, index: int) -> dict[str, Tensor]:
        """The tensors of a layer on the device, by their names within it."""
        names = self._layers[index].state_dict()
        return {name: self.read(f"model.layers.{index}.{name}").to(self.device) for name in names}

    def read(self, name: str) -> Tensor:
        """A tensor of the model, on the CPU."""
        return self.reader.read(name).to(torch.float32 if name.endswith(FULL_PRECISION) else self.dtype)

    def layer(self, index: int, tensors: Mapping[str, Tensor]) -> nn.Module:
        """transformers' module of a layer, holding `tensors` themselves."""
        layer = copy.deepcopy(self._layers[index])
        layer.load_state_dict(dict(tensors), assign=True)
        fuse_norms(layer)
        return layer.requires_grad_(False)

    def embed(
        self, rows: Sequence[Sequence[int]], first_token_weight: float = 1.0, embedding: Tensor | None = None
    ) -> Iterator[Batch]:
        """Token rows as batches of about BATCH_TOKENS on the device, rows of like length together. embedding: in place
        of the model's own.
        """
        weight = self.reader.read("model.embed_tokens.weight") if embedding is None else embedding
        pending: list[Sequence[int]] = []
        for row in sorted(rows, key=len):
            if pending and (len(pending) + 1) * len(row) > BATCH_TOKENS:
                yield self._embed(weight, pending, first_token_weight)
                pending = []
            pending.append(row)
        yield self._embed(weight, pending, first_token_weight)

    def _embed(self, weight: Tensor, rows: Sequence[Sequence[int]], first_token_weight: float) -> Batch:
        length = max(map(len, rows))
        tokens = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
        real = torch.arange(length) < torch.tensor([len(row) for row in rows]).unsqueeze(1)
        hidden = weight[tokens].to(self.dtype)
        turns = self._rotary(hidden, torch.arange(length).unsqueeze(0))
        positions = turns.to(self.device) if isinstance(turns, Tensor) else tuple(t.to(self.device) for t in turns)
        padded = None if real.all() else real.to(self.device)
        return Batch(hidden.to(self.device), padded, positions, first_token_weight)


def load_config(model: Path) -> Any:
    """transformers' config of the model. Raises ModelError for one that it does not take."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model)
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(f"{model}/config.json", f"unusable ({error})", "one that transformers loads") from error


def check_lengths(config: Any, rows: Sequence[Sequence[int]]) -> None:
    """Raises CalibrationError for a row longer than the model's positions, or than its sliding window: attention here
    looks back without one.
    """
    longest, positions = max(map(len, rows)), config.max_position_embeddings
    limit = min(getattr(config, "sliding_window", None) or positions, positions)
    if longest > limit:
        raise CalibrationError("max_seq_length", longest, f"at most {limit}, as far as this model attends")


def fuse_norms(layer: nn.Module) -> None:
    """Have RMS norms computed by one kernel on CUDA; transformers' own form reads and writes the values six times."""
    for module in layer.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(rms_norm, module)


def rms_norm(module: Any, hidden: Tensor) -> Tensor:
    """What transformers' module makes of hidden [..., C], but for the last bit of 16-bit values on CUDA."""
    if not hidden.is_cuda:
        normed: Tensor = type(module).forward(module, hidden)
        return normed
    return nn.functional.rms_norm(hidden, hidden.shape[-1:], module.weight, module.variance_epsilon)


def _skeleton(config: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    build: Any = AutoModelForCausalLM.from_config
    return build(config, dtype=dtype, attn_implementation="sdpa").eval()


@torch.no_grad()
def unit_inputs(layer: Any, units: Sequence[Unit], batch: Batch) -> dict[Unit, Tensor]:
    """What the weights of each unit of one block read, [rows, T, C], or [N, C] where padding is left out: in a layer of
    experts, by all that no token was routed to. batch.hidden is the residual stream before the block. The forward ends
    once all were seen.
    """
    return _run(layer, units, batch, whole=False)[0]


@torch.no_grad()
def pass_block(layer: Any, block: str, batch: Batch, units: Sequence[Unit] = ()) -> tuple[dict[Unit, Tensor], Batch]:
    """The batch behind attention ("self_attn") or the MLP ("mlp"), and what the weights of its `units` read."""
    return _run(layer, units, batch, whole=True, block=block)


@torch.no_grad()
def pass_inputs(layer: nn.Module, module: str, batch: Batch, inputs: Tensor) -> Batch:
    """The batch behind a block that ends with `module`, given what that reads."""
    return replace(batch, hidden=batch.hidden + layer.get_submodule(module)(inputs))


def block_of(units: Sequence[Unit]) -> str:
    """The block that units are part of, self_attn or mlp."""
    return units[0][0].partition(".")[0]


def ends_block(stage: Stage) -> bool:
    """Whether the residual stream changes after the stage."""
    return stage[0][0].rpartition(".")[2] in ("o_proj", "down_proj")


def _run(
    layer: Any, units: Sequence[Unit], batch: Batch, *, whole: bool, block: str | None = None
) -> tuple[dict[Unit, Tensor], Batch]:
    """The wiring is that of every family in families.FAMILIES: norm, attention, add; norm, MLP, add."""
    block = block or block_of(units)
    sparse = block == "mlp" and is_sparse(layer)
    seen: dict[Unit, Tensor] = {}

    def see(unit: Unit, inputs: Tensor) -> None:
        seen[unit] = inputs.flatten(0, -2) if sparse else inputs.reshape(*batch.hidden.shape[:2], -1)
        if not whole and len(seen) == len(units):
            raise _ReachedError

    hooks = [
        layer.get_submodule(unit[0]).register_forward_pre_hook(lambda _, inputs, unit=unit: see(unit, inputs[0]))
        for unit in units
    ]
    try:
        if block == "self_attn":
            normed = layer.input_layernorm(batch.hidden)
            output = layer.self_attn(hidden_states=normed, position_embeddings=batch.positions, attention_mask=None)[0]
        else:
            normed = layer.post_attention_layernorm(batch.hidden)
            output = batch.spread(layer.mlp(batch.tokens(normed).unsqueeze(0))[0]) if sparse else layer.mlp(normed)
    except _ReachedError:
        return seen, batch
    finally:
        for hook in hooks:
            hook.remove()
    return seen, replace(batch, hidden=batch.hidden + output)
