"""What tests run in Ray's workers; few imports, because each of those processes pays for them."""

from __future__ import annotations

import os
from typing import Any

import sweep.leases
from sweep.leases import EngineState, SlotPool, lease


class Witness:
    """Sees who holds what, in the order in which it happens."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []

    def note(self, trial: str, event: str, what: str) -> None:
        self.events.append((trial, event, what))

    def seen(self) -> list[tuple[str, str, str]]:
        return self.events


class Device:
    """An actor that holds a GPU, as the compress actor and the replica do."""

    def gpus(self) -> list[str]:
        return os.environ["CUDA_VISIBLE_DEVICES"].split(",")


class Holder:
    """A trial's process that takes a slot and is killed with it."""

    def take(self, pool_name: str) -> str:
        self.context = lease(pool_name, "killed", "alpha")
        slot = self.context.__enter__()
        slot.record(EngineState())
        return slot.app_name


class ShortLeases(SlotPool):
    """A pool whose leases last for a moment, and that counts how often one is renewed."""

    def __init__(self, app_names: tuple[str, ...]) -> None:
        sweep.leases.LEASE_S, sweep.leases.SWEEP_S = 0.5, 0.05
        super().__init__(app_names)
        self.num_renewed = 0

    async def renew(self, holder: str) -> bool:
        self.num_renewed += 1
        return await super().renew(holder)

    async def renewals(self) -> int:
        return self.num_renewed


def values_of(name: str) -> dict[str, float] | None:
    """A table in place of an engine: what each trial measures, None for those that fail."""
    model, scheme = name.split("/")
    if scheme == "rtn-w2-g64-sym":
        return None
    bits = float(scheme[5]) if scheme.startswith("rtn") else 16.0
    return {"accuracy": bits / 16, "tokens_per_question": 100.0 - bits * (model == "beta"), "effective_bits": bits}


def answer_from_table(config: dict[str, Any]) -> None:
    from ray import tune

    values = values_of(config["trial"])
    if values is None:
        raise RuntimeError("the engine died")
    tune.report(values)
