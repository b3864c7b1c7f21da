"""Slots: nobody waits for ever, never more holders than slots, and a dead holder's slot is taken over."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

import sweep.leases
from sweep.leases import NAMESPACE, EngineState, SlotPool, TrialProgress, find_pool, lease, start_pool
from tests.sweep.actors import Device, Holder, ShortLeases, Witness

PATIENCE_S = 120  # of a wait that ends at once unless the code is wrong


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), PATIENCE_S))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty slots are not kept for other models."""
    monkeypatch.setattr(sweep.leases, "EMPTY_PATIENCE_S", 0.0)


def test_a_slot_is_held_by_one_and_goes_to_the_next_when_it_is_given_back() -> None:
    async def steps() -> None:
        pool = SlotPool(("app-0",))
        assert (await pool.acquire("first", "m")).app_name == "app-0"
        waiting = asyncio.create_task(pool.acquire("second", "m"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await pool.release("first")
        assert (await waiting).holder == "second"

    run(steps)


def test_the_slot_whose_engine_serves_the_model_comes_first_then_an_empty_one(impatient: None) -> None:
    async def steps() -> None:
        pool = SlotPool(("app-0", "app-1", "app-2"))
        for holder, model in (("a", "alpha"), ("b", "beta")):
            await pool.acquire(holder, model)
            await pool.record_engine(holder, EngineState("layout"))
        await pool.release("a")
        await pool.release("b")
        beta = await pool.acquire("c", "beta")
        assert (beta.app_name, beta.engine) == ("app-1", EngineState("layout"))
        assert (await pool.acquire("d", "beta")).app_name == "app-2"  # empty: alpha's engine stays warm
        assert (await pool.acquire("e", "beta")).app_name == "app-0"  # rather than none

    run(steps)


def test_a_quicker_model_leaves_the_other_its_engine_until_it_has_lain_idle_for_a_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def steps() -> None:
        monkeypatch.setattr(sweep.leases, "SWEEP_S", 0.01)
        pool = SlotPool(("app-0", "app-1"))
        for holder, model in (("a", "alpha"), ("b", "beta")):
            await pool.acquire(holder, model)
            await pool.record_engine(holder, EngineState("layout", start_s=0.5))
        await pool.release("a")
        waiting = asyncio.create_task(pool.acquire("c", "beta"))
        await asyncio.sleep(0.1)
        assert not waiting.done()  # beta has an engine, though a busy one
        assert (await pool.acquire("d", "alpha")).app_name == "app-0"
        await pool.release("d")
        assert (await waiting).app_name == "app-0"  # half a second later

    run(steps)


def test_an_empty_slot_is_left_to_models_that_have_none_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async def steps() -> None:
        monkeypatch.setattr(sweep.leases, "SWEEP_S", 0.01)
        monkeypatch.setattr(sweep.leases, "EMPTY_PATIENCE_S", 0.5)
        pool = SlotPool(("app-0", "app-1", "app-2"))
        assert (await pool.acquire("a", "alpha")).app_name == "app-0"
        second = asyncio.create_task(pool.acquire("b", "alpha"))
        await asyncio.sleep(0.1)
        assert not second.done()
        assert (await pool.acquire("c", "beta")).app_name == "app-1"
        assert (await second).app_name == "app-2"

    run(steps)


def test_the_first_slot_of_a_model_is_for_its_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def steps() -> None:
        monkeypatch.setattr(sweep.leases, "SWEEP_S", 0.01)
        monkeypatch.setattr(sweep.leases, "EMPTY_PATIENCE_S", 0.5)
        pool = SlotPool(("app-0", "app-1"))
        compressed = asyncio.create_task(pool.acquire("alpha/rtn", "alpha", False))
        await asyncio.sleep(0.1)
        assert not compressed.done()
        assert (await pool.acquire("alpha/baseline", "alpha")).app_name == "app-0"
        await pool.release("alpha/baseline")
        assert (await compressed).app_name == "app-0"
        alone = await pool.acquire("beta/rtn", "beta", False)  # its baseline was scored by an earlier launch
        assert alone.app_name == "app-1"

    run(steps)


def test_a_model_without_any_engine_takes_another_ones_at_once() -> None:
    async def steps() -> None:
        pool = SlotPool(("app-0",))
        await pool.acquire("a", "alpha")
        await pool.record_engine("a", EngineState("layout", start_s=1000.0))
        await pool.release("a")
        assert (await pool.acquire("b", "beta")).engine == EngineState("layout", start_s=1000.0)

    run(steps)


def test_engines_are_those_that_exist_or_are_being_started() -> None:
    async def steps() -> None:
        pool = SlotPool(("app-0", "app-1"))
        assert await pool.engines() == []
        await pool.acquire("a", "alpha")
        await pool.record_engine("a", EngineState())
        assert await pool.engines() == ["app-0"]
        await pool.release("a")
        assert await pool.engines() == ["app-0"]  # warm, for the next trial
        await pool.acquire("b", "alpha")
        assert await pool.engines() == ["app-0"]

    run(steps)


def test_an_expired_lease_is_taken_over_with_what_is_known_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    async def steps() -> None:
        pool = SlotPool(("app-0",))
        monkeypatch.setattr(sweep.leases, "LEASE_S", -1.0)
        await pool.acquire("dead", "alpha")
        await pool.record_engine("dead", EngineState("layout"))
        monkeypatch.setattr(sweep.leases, "LEASE_S", 1000.0)
        taken = await pool.acquire("next", "beta")
        assert (taken.holder, taken.engine) == ("next", EngineState("layout"))
        assert not await pool.renew("dead")
        await pool.record_engine("dead", None)
        await pool.release("dead")
        waiting = asyncio.create_task(pool.acquire("third", "alpha"))
        await asyncio.sleep(0.05)
        assert not waiting.done()  # whoever came back from the dead gave nothing away
        assert await pool.engines() == ["app-0"]
        waiting.cancel()

    run(steps)


def test_a_renewed_lease_is_not_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def steps() -> None:
        monkeypatch.setattr(sweep.leases, "SWEEP_S", 0.01)
        pool = SlotPool(("app-0",))
        monkeypatch.setattr(sweep.leases, "LEASE_S", -1.0)
        await pool.acquire("slow", "alpha")
        monkeypatch.setattr(sweep.leases, "LEASE_S", 1000.0)
        assert await pool.renew("slow")
        waiting = asyncio.create_task(pool.acquire("next", "alpha"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        waiting.cancel()

    run(steps)


def test_a_trial_that_waits_sees_a_lease_expire_without_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def steps() -> None:
        monkeypatch.setattr(sweep.leases, "SWEEP_S", 0.01)
        monkeypatch.setattr(sweep.leases, "LEASE_S", 0.2)
        pool = SlotPool(("app-0",))
        await pool.acquire("dead", "alpha")
        assert (await pool.acquire("next", "alpha")).holder == "next"

    run(steps)


def test_a_trial_that_is_started_anew_gets_its_own_slot_back(impatient: None) -> None:
    async def steps() -> None:
        pool = SlotPool(("app-0", "app-1"))
        await pool.acquire("other", "alpha")
        first = await pool.acquire("retried", "alpha")
        again = await pool.acquire("retried", "alpha")
        assert again.app_name == first.app_name == "app-1"
        await pool.release("retried")
        assert (await pool.acquire("next", "alpha")).app_name == "app-1"

    run(steps)


def test_progress_is_told_of_trials_that_run() -> None:
    async def steps() -> None:
        pool = SlotPool(("app-0",))
        await pool.acquire("a", "alpha")
        await pool.report("a", TrialProgress("answering", 3, 70))
        assert await pool.progress() == {"a": TrialProgress("answering", 3, 70)}
        await pool.release("a")
        assert await pool.progress() == {}

    run(steps)


def use_device() -> None:
    actor = ray.remote(Device).options(
        num_cpus=0,
        num_gpus=1,
        scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=None),  # type: ignore[arg-type]
    )
    device: Any = actor.remote()
    assert len(ray.get(device.gpus.remote())) == 1
    ray.kill(device)


def lease_and_use(config: dict[str, Any], pool_name: str, witness: Any) -> None:
    """The way of a trial: a slot, then an actor that holds a GPU, then another."""
    trial, model = config["trial"]
    with lease(pool_name, trial, model) as slot:
        ray.get(witness.note.remote(trial, "took", slot.app_name))
        use_device()
        slot.record(EngineState())
        use_device()
        slot.record(EngineState("layout"))
        if trial == "broken":
            ray.get(witness.note.remote(trial, "gave", slot.app_name))
            raise RuntimeError("the engine died")
        slot.record(None)
        ray.get(witness.note.remote(trial, "gave", slot.app_name))
    tune.report({"done": 1})


def num_holders(events: list[tuple[str, str, str]]) -> list[int]:
    holders: set[str] = set()
    counts = []
    for trial, event, _ in events:
        holders = holders | {trial} if event == "took" else holders - {trial}
        counts.append(len(holders))
    return counts


@pytest.mark.usefixtures("local_ray")
def test_four_trials_share_two_gpus_without_waiting_for_each_other(tmp_path: Path) -> None:
    pool = start_pool("four-trials", 2)
    witness: Any = ray.remote(num_cpus=0)(Witness).remote()
    trainable = tune.with_resources(
        tune.with_parameters(lease_and_use, pool_name="four-trials", witness=witness),
        tune.PlacementGroupFactory([{"CPU": 0.001}]),
    )
    trials = [("one", "alpha"), ("broken", "alpha"), ("three", "beta"), ("four", "beta")]
    results = tune.Tuner(
        trainable,
        param_space={"trial": tune.grid_search(trials)},
        tune_config=tune.TuneConfig(max_concurrent_trials=4),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    ).fit()
    assert [results[index].error is None for index in range(4)] == [True, False, True, True]
    events = ray.get(witness.seen.remote())
    assert {trial for trial, event, _ in events if event == "gave"} == {trial for trial, _ in trials}
    assert max(num_holders(events)) == 2  # both slots are used, and no third trial gets in
    assert ray.get(pool.progress.remote()) == {}
    await_free_gpus(2)
    ray.kill(pool)
    ray.kill(witness)


def await_free_gpus(number: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while ray.available_resources().get("GPU", 0) != number:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.05)


@pytest.mark.usefixtures("local_ray")
def test_a_slot_is_given_back_after_an_exception() -> None:
    pool = start_pool("given-back", 1)
    with pytest.raises(RuntimeError, match="fell over"), lease("given-back", "first", "alpha"):
        raise RuntimeError("fell over")
    with lease("given-back", "second", "alpha") as slot:
        assert (slot.app_name, slot.engine) == ("given-back-0", None)
        slot.record(EngineState())
        assert slot.engine == EngineState()
        slot.record(EngineState("layout"))
    with lease("given-back", "third", "beta") as slot:
        assert slot.engine == EngineState("layout")
        slot.record(None)
        assert ray.get(pool.engines.remote()) == []
    ray.kill(pool)


def start_short_pool(name: str) -> Any:
    actor = ray.remote(ShortLeases).options(name=name, num_cpus=0, max_concurrency=100, namespace=NAMESPACE)
    return actor.remote((f"{name}-0",))


@pytest.mark.usefixtures("local_ray")
def test_the_slot_of_a_killed_process_is_taken_over() -> None:
    pool = start_short_pool("taken-over")
    holder: Any = ray.remote(num_cpus=0)(Holder).remote()
    assert ray.get(holder.take.remote("taken-over")) == "taken-over-0"
    ray.kill(holder)
    with lease("taken-over", "next", "beta") as slot:
        assert slot.engine is not None  # so that it ends what the dead one had started
    ray.kill(pool)


@pytest.mark.usefixtures("local_ray")
def test_a_lease_is_renewed_for_as_long_as_its_block_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep.leases, "RENEW_S", 0.05)
    pool = start_short_pool("renewed")
    before = threading.active_count()
    with lease("renewed", "slow", "alpha"):
        deadline = time.monotonic() + PATIENCE_S
        while ray.get(pool.renewals.remote()) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    deadline = time.monotonic() + PATIENCE_S
    while threading.active_count() > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ray.kill(pool)


@pytest.mark.usefixtures("local_ray")
def test_a_pool_that_is_gone_is_not_found() -> None:
    pool = start_pool("gone", 1)
    assert ray.get(find_pool("gone").ping.remote())
    ray.kill(pool)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            find_pool("gone")
        except ValueError:
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)
