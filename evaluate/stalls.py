"""Notices a server that has stopped working, without a time-out that would cut a long thought short.

A sign of life is an answer to any request of the client, or a token of any that is streamed: requests wait for each
other in a server's queue, so silence on one alone says nothing. Where no sign came for `timeout_s`, every request
that was under way all that time is given up; the client then asks it again as a stream, in which each token is a
sign, so that a thought is repeated at most once however long it takes.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Self


class StallWatch:
    """Watches the requests of one client; use it in `async with`. timeout_s: 0 for never giving up."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._last_sign = time.monotonic()
        self._started: dict[asyncio.Timeout, float] = {}
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

    def sign(self) -> None:
        """The server did something."""
        self._last_sign = time.monotonic()

    def was_silent_since(self, moment: float) -> bool:
        """Whether no sign came after a moment of time.monotonic()."""
        return self._last_sign < moment

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Raises TimeoutError in its body once the server stalled."""
        async with asyncio.timeout(None) as deadline:
            self._started[deadline] = time.monotonic()
            try:
                yield
            finally:
                del self._started[deadline]

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(self._timeout_s / 4, 5.0))
            latest_start = time.monotonic() - self._timeout_s
            if self._last_sign < latest_start:
                for deadline, start in self._started.items():
                    if start < latest_start and not deadline.expired():
                        deadline.reschedule(0)
