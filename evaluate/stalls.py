"""Notices a server that has stopped working, without a time-out that would cut a long thought short.

A sign of life is an answer to any request of the client, or a token of any that is streamed: requests wait for each
other in a server's queue, so silence on one alone says nothing. Where no sign came for too long, every request that
was under way all that time is given up; the client then asks it again as a stream, in which each token is a sign, so
that a thought is repeated at most once however long it takes.

Too long is `timeout_s`; once answers came, also MANY_TIMES the slowest of them and at least LEAST_S, a request that was
lost is then noticed within a minute. That shorter limit doubles with each stall of a request, for a server that does
not stream.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Self

LEAST_S = 60.0
MANY_TIMES = 20


class StallWatch:
    """Watches the requests of one client; use it in `async with`. timeout_s: 0 for never giving up."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._last_sign = time.monotonic()
        self._slowest_s = 0.0
        self._watched: dict[asyncio.Timeout, tuple[float, int]] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._timeout_s > 0:
            self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def sign(self, latency_s: float = 0.0) -> None:
        """The server did something; latency_s: how long it took to an answer."""
        self._last_sign = time.monotonic()
        self._slowest_s = max(self._slowest_s, latency_s)

    def limit_s(self, num_stalls: int = 0) -> float:
        """Seconds of silence that are too long for a request that stalled so many times."""
        if self._slowest_s == 0.0:
            return self._timeout_s
        return min(self._timeout_s, max(LEAST_S, MANY_TIMES * self._slowest_s) * 2.0**num_stalls)

    def was_silent_since(self, moment: float) -> bool:
        """Whether no sign came after a moment of time.monotonic()."""
        return self._last_sign < moment

    @asynccontextmanager
    async def watching(self, num_stalls: int) -> AsyncIterator[None]:
        """Raises TimeoutError in its body once the server stalled."""
        async with asyncio.timeout(None) as deadline:
            self._watched[deadline] = time.monotonic(), num_stalls
            try:
                yield
            finally:
                del self._watched[deadline]

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(self._timeout_s / 4, 5.0))
            now = time.monotonic()
            for deadline, (start, num_stalls) in self._watched.items():
                is_silent = now - max(start, self._last_sign) > self.limit_s(num_stalls)
                if is_silent and not deadline.expired():
                    deadline.reschedule(0)
