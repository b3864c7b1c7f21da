import asyncio

import pytest

from evaluate.stalls import LEAST_S, MANY_TIMES, StallWatch


def test_limit_is_the_timeout_until_answers_tell_how_long_they_take() -> None:
    watch = StallWatch(1200.0)
    assert watch.limit_s() == watch.limit_s(3) == 1200.0
    watch.sign()
    assert watch.limit_s() == 1200.0
    watch.sign(0.5)
    assert [watch.limit_s(n) for n in range(6)] == [LEAST_S * 2**n for n in range(5)] + [1200.0]
    watch.sign(10.0)
    watch.sign(0.1)
    assert watch.limit_s() == MANY_TIMES * 10.0
    watch.sign(100.0)
    assert watch.limit_s() == 1200.0


def test_limit_never_exceeds_the_timeout() -> None:
    watch = StallWatch(2.0)
    watch.sign(0.5)
    assert watch.limit_s() == watch.limit_s(5) == 2.0


def test_silence_ends_what_was_under_way_and_nothing_else() -> None:
    async def wait(watch: StallWatch, seconds: float) -> str:
        try:
            async with watch.watching(0):
                await asyncio.sleep(seconds)
        except TimeoutError:
            return "stalled"
        return "done"

    async def run() -> list[str]:
        async with StallWatch(0.4) as watch:
            return await asyncio.gather(wait(watch, 30), wait(watch, 0.01), wait(watch, 30))

    assert asyncio.run(run()) == ["stalled", "done", "stalled"]


def test_without_a_timeout_nothing_is_given_up() -> None:
    async def run() -> None:
        async with StallWatch(0) as watch, watch.watching(0):
            await asyncio.sleep(0.2)

    asyncio.run(run())


def test_cancelling_is_no_stall() -> None:
    async def run() -> None:
        async with StallWatch(1.0) as watch:

            async def wait() -> None:
                async with watch.watching(0):
                    await asyncio.sleep(30)

            task = asyncio.create_task(wait())
            await asyncio.sleep(0.01)
            task.cancel()
            await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())
