"""Slots: what a trial takes before it touches a device, so that trials and replicas never wait for each other.

A slot stands for the devices of one trial. It covers the compress actor and then the engine; the trial itself holds
nothing. One named actor per study hands the slots out, and its death tells the engines that their study is gone.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray

LEASE_S = 60.0  # a holder that has not renewed for this long is taken for dead
RENEW_S = 10.0
NAMESPACE = "lrm-sweep"
SWEEP_S = 5.0  # how often waiting trials look for expired leases
EMPTY_PATIENCE_S = 10.0  # for which a slot is left to a model that has none, and to the trial that leads a model


@dataclass(frozen=True)
class EngineState:
    """layout: of the weights that the engine holds, None until it serves. start_s: seconds that its start took."""

    layout: str | None = None
    start_s: float = 0.0


@dataclass(frozen=True)
class SlotState:
    """What the pool knows of one slot. model: the base model that its last holder came with, and so its engine's."""

    index: int
    app_name: str
    holder: str | None = None
    expires_at: float = 0.0
    free_since: float = 0.0
    model: str | None = None
    engine: EngineState | None = None


@dataclass(frozen=True)
class TrialProgress:
    """How far a running trial is."""

    phase: str = "waiting"
    questions: int = 0
    tokens: int = 0


class SlotPool:
    """The actor's body; async, so that waiting trials cost nothing."""

    def __init__(self, app_names: tuple[str, ...]) -> None:
        self._slots = [SlotState(index, name) for index, name in enumerate(app_names)]
        self._changed = asyncio.Condition()
        self._progress: dict[str, TrialProgress] = {}

    async def ping(self) -> bool:
        return True

    async def acquire(self, holder: str, model: str, leads: bool = True) -> SlotState:
        """Wait for a slot: one of the same `model`, else an empty one, else another model's.

        Where a slot is of this model already, others are taken only after some patience: else two models would end
        each other's engines whenever one of their trials is the quicker. The first slot of a model is for the trial
        that leads, its baseline: the others' checkpoints are made while it is served.
        A holder that asks again is a trial whose process died and was started anew: it gets its slot back at once.
        """
        async with self._changed:
            if held := self._held_by(holder):
                return self._put(replace(held, expires_at=time.monotonic() + LEASE_S))
            asked = time.monotonic()
            while True:
                now = time.monotonic()
                free = [slot for slot in self._slots if slot.holder is None or slot.expires_at < now]
                usable = [slot for slot in free if self._may_take(slot, model, leads, asked, now)]
                if usable:
                    best = min(usable, key=lambda slot: (slot.model != model, slot.engine is not None, slot.index))
                    return self._put(replace(best, holder=holder, expires_at=now + LEASE_S, model=model))
                try:
                    await asyncio.wait_for(self._changed.wait(), SWEEP_S)
                except TimeoutError:
                    continue

    async def renew(self, holder: str) -> bool:
        held = self._held_by(holder)
        if held:
            self._put(replace(held, expires_at=time.monotonic() + LEASE_S))
        return held is not None

    def _may_take(self, slot: SlotState, model: str, leads: bool, asked: float, now: float) -> bool:
        """Whether a free slot is better used now than kept; an idle engine is worth as long as its start took."""
        if slot.model == model:
            return True
        if all(other.model != model for other in self._slots):
            return leads or now - asked >= EMPTY_PATIENCE_S
        patience = slot.engine.start_s if slot.engine else EMPTY_PATIENCE_S
        return now - max(asked, slot.free_since) >= patience

    async def record_engine(self, holder: str, engine: EngineState | None) -> None:
        held = self._held_by(holder)
        if held:
            self._put(replace(held, engine=engine))

    async def release(self, holder: str) -> None:
        async with self._changed:
            held = self._held_by(holder)
            if held:
                self._put(replace(held, holder=None, free_since=time.monotonic()))
            self._progress.pop(holder, None)
            self._changed.notify_all()

    async def report(self, holder: str, progress: TrialProgress) -> None:
        self._progress[holder] = progress

    async def progress(self) -> dict[str, TrialProgress]:
        return dict(self._progress)

    async def engines(self) -> list[str]:
        """Names of the applications that exist or are being started."""
        return [slot.app_name for slot in self._slots if slot.engine is not None]

    def _held_by(self, holder: str) -> SlotState | None:
        return next((slot for slot in self._slots if slot.holder == holder), None)

    def _put(self, slot: SlotState) -> SlotState:
        self._slots[slot.index] = slot
        return slot


class Slot:
    """A leased slot, in the trial's process."""

    def __init__(self, pool: Any, state: SlotState) -> None:
        self._pool, self._state = pool, state

    @property
    def app_name(self) -> str:
        return self._state.app_name

    @property
    def engine(self) -> EngineState | None:
        return self._state.engine

    def record(self, engine: EngineState | None) -> None:
        """Tell the pool, so that whoever takes the slot after this trial's death knows what to end or to use."""
        self._state = replace(self._state, engine=engine)
        ray.get(self._pool.record_engine.remote(self._state.holder, engine))

    def report(self, progress: TrialProgress) -> None:
        """Tell the driver; not waited for."""
        self._pool.report.remote(self._state.holder, progress)


def start_pool(name: str, num_slots: int) -> Any:
    """Create the study's named actor; it lives as long as the driver's job."""
    app_names = tuple(f"{name}-{index}" for index in range(num_slots))
    actor = ray.remote(SlotPool).options(name=name, num_cpus=0, max_concurrency=1000, namespace=NAMESPACE)
    return actor.remote(app_names)


def find_pool(name: str) -> Any:
    """The pool of a running study. Raises ValueError where there is none."""
    return ray.get_actor(name, namespace=NAMESPACE)


@contextmanager
def lease(pool_name: str, holder: str, model: str, *, leads: bool = True) -> Iterator[Slot]:
    """Hold a slot for the length of the block; renewed from a thread, given back whatever happens."""
    pool = find_pool(pool_name)
    pool.report.remote(holder, TrialProgress())
    slot = Slot(pool, ray.get(pool.acquire.remote(holder, model, leads)))
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(pool, holder, done), daemon=True)
    renewing.start()
    try:
        yield slot
    finally:
        done.set()
        ray.get(pool.release.remote(holder))


def _renew(pool: Any, holder: str, done: threading.Event) -> None:
    while not done.wait(RENEW_S):
        pool.renew.remote(holder)
