"""One checkpoint under way in the walk: what its layer at hand has become, and every tensor as its files hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from compress.families import FULL_PRECISION, Unit, is_expert
from compress.folding import fold
from compress.forward import Measured
from compress.job import Job, Target
from compress.lanes import Solved
from compress.magnitude import round_to_nearest
from compress.outbox import Outbox
from compress.packing import dense_weight, packed_layout, packed_tensors
from compress.progress import PartialCheckpoint
from compress.quantizer import to_codes
from compress.report import LayerReport
from compress.scheme import CheckpointFormat
from compress.solve import SolvedUnit, grid_spec


@dataclass
class Making:
    """One target under way: its partial checkpoint, and what the layer at hand has become so far: weights by their name
    within the layer, others: tensors that take the division of a unit's inputs; sent: those on their way to the files.
    """

    target: Target
    partial: PartialCheckpoint
    weights: dict[str, Solved] = field(default_factory=dict)
    others: dict[str, Tensor] = field(default_factory=dict)
    reports: list[LayerReport] = field(default_factory=list)
    fallbacks: dict[str, int] = field(default_factory=dict)
    starved: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)

    def take(
        self,
        unit: Unit,
        solved: SolvedUnit,
        measured: Measured | None,
        dense: Mapping[str, Tensor],
        stored_dtype: torch.dtype,
    ) -> None:
        self.weights |= {name.split(".", 3)[3]: result for name, result in solved.weights.items()}
        if solved.input_scale is not None:
            weights, others = fold(unit, solved.input_scale, dense, self.weights, stored_dtype)
            self.weights |= weights
            self.others |= others
        num_tokens = measured.num_tokens if measured else None
        self.reports += [replace(report, num_tokens=num_tokens) for report in solved.reports.values()]
        if measured and measured.is_starved and solved.weights:
            self.starved.add(unit[0].rpartition(".")[0])
        counts = {
            "dampening_raised": sum(factor.num_raised for factor in solved.factors),
            "dead_columns": max((int(factor.dead.sum()) for factor in solved.factors), default=0),
        }
        if is_expert(unit[0]):
            counts["experts_with_few_tokens"] = 0
        self.fallbacks |= {cause: self.fallbacks.get(cause, 0) + count for cause, count in counts.items()}

    def send(self, job: Job, outbox: Outbox, index: int, dense: Mapping[str, Tensor]) -> None:
        """What of the layer `dense` holds goes to the files, as it stands in the checkpoint, and is let go."""
        tensors = _stored_tensors(job, self, index, {name: dense[name] for name in dense if name not in self.sent})
        for name, tensor in tensors.items():
            outbox.write(self.partial.tensors, name, tensor)
        self.sent |= set(dense)
        for name in dense:
            self.weights.pop(name.removesuffix(".weight"), None)

    def finish_layer(self, outbox: Outbox) -> None:
        if "experts_with_few_tokens" in self.fallbacks:
            self.fallbacks["experts_with_few_tokens"] = len(self.starved)
        outbox.then(partial(self.partial.finish_layer, self.reports, self.fallbacks))
        self.weights, self.others, self.reports, self.fallbacks = {}, {}, [], {}
        self.starved, self.sent = set(), set()


def layout(job: Job, target: Target) -> dict[str, Tensor]:
    """Every tensor of the target's checkpoint, on the meta device, in the order of the model."""
    tensors: dict[str, Tensor] = {}
    for name, shape in job.shapes.items():
        like = torch.empty(shape, dtype=_dtype_of(name, job), device="meta")
        scheme = target.schemes.get(name.removesuffix(".weight"))
        spec = grid_spec(scheme, job.stored_dtype) if scheme else None
        if target.format is CheckpointFormat.PACKED and spec is not None:
            prefix = name.removesuffix("weight")
            tensors |= {f"{prefix}{suffix}": part for suffix, part in packed_layout(shape, spec).items()}
        else:
            tensors[name] = like
    return tensors


def outer_tensor(job: Job, target: Target, name: str, tensor: Tensor) -> Tensor:
    """A tensor outside the layers as the checkpoint holds it: rounded to nearest where a budget says so."""
    scheme = target.schemes.get(name.removesuffix(".weight"))
    spec = grid_spec(scheme, job.stored_dtype) if scheme else None
    return (round_to_nearest(tensor.float(), spec).weight if spec else tensor).to(job.stored_dtype)


def changed_tensors(job: Job, making: Making) -> dict[str, Tensor]:
    """What differs from the dense layer so far, by the name within the layer."""
    weights = {f"{name}.weight": solved.weight for name, solved in making.weights.items()}
    return {name: tensor.to(job.stored_dtype) for name, tensor in (weights | making.others).items()}


def layer_tensors(job: Job, making: Making, index: int) -> dict[str, Tensor]:
    """A finished layer as the checkpoint holds it, weights unpacked, by the name within the layer."""
    tensors: dict[str, Tensor] = {}
    prefix = f"model.layers.{index}."
    read = making.partial.tensors.read
    for full_name in (name for name in job.shapes if name.startswith(prefix)):
        weight = full_name.removesuffix(".weight")
        scheme = making.target.schemes.get(weight)
        spec = grid_spec(scheme, job.stored_dtype) if scheme else None
        if making.target.format is CheckpointFormat.PACKED and spec is not None:
            suffixes = packed_layout(job.shapes[full_name], spec)
            packed = {suffix: read(f"{weight}.{suffix}") for suffix in suffixes}
            tensors[full_name.removeprefix(prefix)] = dense_weight(packed, spec).to(job.stored_dtype)
        else:
            tensors[full_name.removeprefix(prefix)] = read(full_name)
    return tensors


def _stored_tensors(job: Job, making: Making, index: int, dense: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The layer as it stands in the checkpoint; what no scheme changes is as in the model."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in dense.items():
        full_name = f"model.layers.{index}.{name}"
        solved = making.weights.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if solved is None:
            tensors[full_name] = making.others.get(name, tensor).to(_dtype_of(name, job))
        elif making.target.format is CheckpointFormat.PACKED and solved.grid is not None:
            prefix = full_name.removesuffix("weight")
            packed = packed_tensors(to_codes(solved.weight, solved.grid), solved.grid)
            tensors |= {f"{prefix}{suffix}": part for suffix, part in packed.items()}
        else:
            tensors[full_name] = solved.weight.to(job.stored_dtype)
    return tensors


def _dtype_of(name: str, job: Job) -> torch.dtype:
    """What a tensor that is not packed is stored in."""
    return torch.float32 if name.endswith(FULL_PRECISION) else job.stored_dtype
