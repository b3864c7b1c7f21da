"""Hessians that a dense pass leaves on disk: a later pass over the same model and calibration reads them instead of
taking tokens through the model, and gives the same bytes. So later proposals of a search share the first one's work.

A set is a folder named by what decides its values, with a safetensors file a unit: the running sums as they were. Sets
are never thrown out; one that no longer fits the budget is not kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from compress.checkpoint import publish, whole_folders
from compress.errors import InputError
from compress.families import Unit, layer_stages
from compress.forward import Measured
from compress.hessian import HessianSum
from compress.job import HessianStore, Job
from compress.methods import Propagate

BYTES_PER_VALUE = 4


@dataclass(frozen=True)
class KeptHessians:
    """One set: whole, to be read; or in the making, to be written."""

    folder: Path
    is_whole: bool

    def load(self, index: int, units: Sequence[Unit], device: torch.device) -> dict[Unit, Measured]:
        """What was measured of units of a layer."""
        return {unit: _load(self._path(index, unit), device) for unit in units}

    def save(self, index: int, measured: Mapping[Unit, Measured]) -> None:
        for unit, found in measured.items():
            _save(self._path(index, unit), found)

    def _path(self, index: int, unit: Unit) -> Path:
        return self.folder / f"{index}.{unit[0]}.safetensors"


@contextmanager
def kept_hessians(
    job: Job, store: HessianStore | None, base_fingerprint: Callable[[], str]
) -> Iterator[KeptHessians | None]:
    """The set of the job's dense pass: whole, or one that is whole when the block ends without an error and every
    layer was saved. None where nothing is kept: no store, no dense pass with calibration, no room in the budget.
    """
    is_dense = any(target.scheme.propagate is Propagate.DENSE for target in job.targets)
    if store is None or not is_dense or not job.rows:
        yield None
        return
    key = _key(job, base_fingerprint())
    folder = store.folder / key
    if folder.is_dir():
        yield KeptHessians(folder, is_whole=True)
        return
    units = [
        (index, unit) for index, stages in enumerate(layer_stages(job.shapes)) for stage in stages for unit in stage
    ]
    needed = sum(BYTES_PER_VALUE * job.shapes[f"model.layers.{i}.{unit[0]}.weight"][1] ** 2 for i, unit in units)
    if needed + _bytes_below(store.folder) > store.budget_bytes:
        yield None
        return
    with whole_folders([folder], key) as (place,):
        kept = KeptHessians(place, is_whole=False)
        yield kept
        if all(kept._path(index, unit).exists() for index, unit in units):
            with suppress(InputError):  # another process was quicker: its values are the same
                publish(place, folder)


def _key(job: Job, base_fingerprint: str) -> str:
    """Names all that decides the values of a set."""
    content = {
        "model": base_fingerprint,
        "rows": [list(row) for row in job.rows],
        "first_token_weight": float(job.first_token_weight),
        "device": job.device.type,
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors")) if folder.is_dir() else 0


def _save(path: Path, measured: Measured) -> None:
    from safetensors.torch import save_file

    sums = {"own": measured.own} | ({"everyone": measured.everyone()} if measured.everyone else {})
    tensors = {name: found.total for name, found in sums.items() if found.total is not None}
    counts = {name: [found.num_columns, found.num_tokens] for name, found in sums.items()}
    part = path.with_suffix(".part")
    save_file({name: tensor.cpu() for name, tensor in tensors.items()}, part, {"counts": json.dumps(counts)})
    part.replace(path)


def _load(path: Path, device: torch.device) -> Measured:
    from safetensors import safe_open

    with safe_open(path, framework="pt", device=str(device)) as file:
        names = set(file.keys())
        sums = {
            name: HessianSum(num_columns, num_tokens, file.get_tensor(name) if name in names else None)
            for name, (num_columns, num_tokens) in json.loads(file.metadata()["counts"]).items()
        }
    everyone = sums.get("everyone")
    return Measured(sums["own"], (lambda: everyone) if everyone else None)
