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


@dataclass(frozen=True)
class SlotState:
    """What the pool knows of one slot. `model` is the base model of its engine, `layout` None while none is usable."""

    index: int
    app_name: str
    holder: str | None = None
    expires_at: float = 0.0
    has_engine: bool = False
    layout: str | None = None
    model: str | None = None


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

    async def acquire(self, holder: str, model: str) -> SlotState:
        """Wait for a slot: one whose engine serves `model` already, else an empty one, else any.

        A holder that asks again is a trial whose process died and was started anew: it gets its slot back at once.
        """
        async with self._changed:
            if held := self._held_by(holder):
                return self._put(replace(held, expires_at=time.monotonic() + LEASE_S))
            while True:
                free = [slot for slot in self._slots if slot.holder is None or slot.expires_at < time.monotonic()]
                if free:
                    best = min(free, key=lambda slot: (slot.model != model, slot.has_engine, slot.index))
                    return self._put(replace(best, holder=holder, expires_at=time.monotonic() + LEASE_S))
                try:
                    await asyncio.wait_for(self._changed.wait(), SWEEP_S)
                except TimeoutError:
                    continue

    async def renew(self, holder: str) -> bool:
        held = self._held_by(holder)
        if held:
            self._put(replace(held, expires_at=time.monotonic() + LEASE_S))
        return held is not None

    async def record_engine(self, holder: str, has_engine: bool, layout: str | None, model: str | None) -> None:
        held = self._held_by(holder)
        if held:
            self._put(replace(held, has_engine=has_engine, layout=layout, model=model))

    async def release(self, holder: str) -> None:
        async with self._changed:
            held = self._held_by(holder)
            if held:
                self._put(replace(held, holder=None))
            self._progress.pop(holder, None)
            self._changed.notify_all()

    async def report(self, holder: str, progress: TrialProgress) -> None:
        self._progress[holder] = progress

    async def progress(self) -> dict[str, TrialProgress]:
        return dict(self._progress)

    async def engines(self) -> list[str]:
        """Names of the applications that exist or are being started."""
        return [slot.app_name for slot in self._slots if slot.has_engine]

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
    def has_engine(self) -> bool:
        return self._state.has_engine

    @property
    def engine_layout(self) -> str | None:
        return self._state.layout

    def engine_starts(self) -> None:
        """Recorded before the start, so that whoever takes the slot after this trial's death ends the engine."""
        self._record(has_engine=True, layout=None, model=None)

    def engine_runs(self, layout: str, model: str) -> None:
        self._record(has_engine=True, layout=layout, model=model)

    def engine_ended(self) -> None:
        self._record(has_engine=False, layout=None, model=None)

    def report(self, progress: TrialProgress) -> None:
        """Tell the driver; not waited for."""
        self._pool.report.remote(self._state.holder, progress)

    def _record(self, *, has_engine: bool, layout: str | None, model: str | None) -> None:
        self._state = replace(self._state, has_engine=has_engine, layout=layout, model=model)
        ray.get(self._pool.record_engine.remote(self._state.holder, has_engine, layout, model))


def start_pool(name: str, num_slots: int) -> Any:
    """Create the study's named actor; it lives as long as the driver's job."""
    app_names = tuple(f"{name}-{index}" for index in range(num_slots))
    actor = ray.remote(SlotPool).options(name=name, num_cpus=0, max_concurrency=1000, namespace=NAMESPACE)
    return actor.remote(app_names)


def find_pool(name: str) -> Any:
    """The pool of a running study. Raises ValueError where there is none."""
    return ray.get_actor(name, namespace=NAMESPACE)


@contextmanager
def lease(pool_name: str, holder: str, model: str) -> Iterator[Slot]:
    """Hold a slot for the length of the block; renewed from a thread, given back whatever happens."""
    pool = find_pool(pool_name)
    pool.report.remote(holder, TrialProgress())
    slot = Slot(pool, ray.get(pool.acquire.remote(holder, model)))
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
