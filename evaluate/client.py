"""Asks an OpenAI-compatible server for one completion at a time, through faults, without end only in reading.

try -> transport fault (connection, reset, stall, 429, 5xx, body cut short, 2xx that is no completion) -> wait -> again
    -> any other 4xx: terminal, recorded
    -> a completion: taken as it is
A long thought may take hours: there is a time-out for connecting and none for reading; evaluate.stalls notices a
server that no longer works at all, TCP keep-alive a host that is gone.
"""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from evaluate.errors import EndpointUnavailable, ModelNotServed, nearest
from evaluate.replies import Reply, missing_part, read_reply
from evaluate.schema import DEFAULT_STALL_TIMEOUT_S, Endpoint, Prompt, Prompting, Sampling
from evaluate.stalls import StallWatch
from evaluate.transport import FaultError, RefusalError, Transport

NUM_FIRST_CONTACTS = 3  # a wrong URL is told within a second
_NO_ROUTE = (404, 405, 501)


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how soon a transport fault is tried again: 0.2, 0.4, 0.8 ... s and up to a quarter more."""

    num_tries: int = 6
    first_delay_s: float = 0.2
    max_delay_s: float = 8.0
    max_retry_after_s: float = 600.0

    def delay_s(self, num_failed: int, retry_after_s: float | None) -> float:
        """Seconds to wait after the `num_failed`-th failure (from 1); the server's Retry-After is a lower bound."""
        backoff = min(self.first_delay_s * 2.0 ** (num_failed - 1), self.max_delay_s) * random.uniform(1.0, 1.25)
        return max(backoff, min(retry_after_s or 0.0, self.max_retry_after_s))


class Client:
    """One connection pool to one endpoint; use it in `async with`. stall_timeout_s: see evaluate.stalls."""

    def __init__(
        self,
        endpoint: Endpoint,
        sampling: Sampling,
        prompting: Prompting = Prompting.CHAT,
        *,
        concurrency: int = 64,
        retry: RetryPolicy | None = None,
        stall_timeout_s: float = DEFAULT_STALL_TIMEOUT_S,
    ) -> None:
        self._endpoint = endpoint
        self._sampling = sampling
        self._prompting = prompting
        self._retry = retry or RetryPolicy()
        self._watch = StallWatch(stall_timeout_s)
        self._transport = Transport(endpoint.url, endpoint.api_key_env, concurrency, self._watch)
        self._url = self._transport.url
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._watch)
        await self._stack.enter_async_context(self._transport)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def check_model(self) -> int | None:
        """Asks GET /models whether the model is served; a server without that route is taken at its word.

        Returns the model's context length in tokens where the server tells (vLLM: `max_model_len`), else None.
        Raises EndpointUnavailable, ModelNotServed.
        """
        try:
            listing = await self._persist(lambda: self._transport.get("/models"), NUM_FIRST_CONTACTS)
        except RefusalError as refusal:
            if refusal.status in _NO_ROUTE:
                await self._check_route()
                return None
            raise EndpointUnavailable(f"{self._url}/models: {refusal}{self._key_hint(refusal)}") from None
        except FaultError as fault:
            raise EndpointUnavailable(
                f"{self._url}: {fault}; is the server running, does the URL end in /v1?"
            ) from None
        data = listing.get("data")
        listed = data if isinstance(data, list) else []
        models = {m["id"]: m for m in listed if isinstance(m, dict) and isinstance(m.get("id"), str)}
        if models and self._endpoint.model not in models:
            close = nearest(self._endpoint.model, models)
            raise ModelNotServed(
                f"{self._url}: serves no model {self._endpoint.model!r}, but {', '.join(models)}{close}; give --model"
            )
        length = models.get(self._endpoint.model, {}).get("max_model_len")
        return length if isinstance(length, int) else None

    async def _check_route(self) -> None:
        """Sends an empty request, which a server refuses where it completes text. Raises EndpointUnavailable."""
        path, _ = self._request("", 0, 1)
        try:
            await self._transport.post(path, {})
        except RefusalError as refusal:
            if refusal.status in _NO_ROUTE:
                raise EndpointUnavailable(
                    f"{self._url}: HTTP {refusal.status} for /models and {path}; does the URL end in /v1?"
                ) from None
            if hint := self._key_hint(refusal):
                raise EndpointUnavailable(f"{self._url}{path}: {refusal}{hint}") from None
        except FaultError:
            return

    def _key_hint(self, refusal: RefusalError) -> str:
        is_key_wanted = refusal.status in (401, 403)
        return f"; the API key is read from ${self._endpoint.api_key_env}" if is_key_wanted else ""

    async def complete(self, prompt: Prompt, seed: int, max_tokens: int | None = None) -> Reply:
        """Asks for one completion of the prompt; max_tokens: less than the sampling's where there is less room.

        Returns a Reply with `error` once the server refused, or failed as often as the policy allows.
        Raises EndpointUnavailable when the server is gone: the last try found nobody to connect to, or all of them
        and all others in the meantime met silence.
        """
        path, body = self._request(prompt, seed, max_tokens or self._sampling.max_tokens)
        start, num_stalls = time.monotonic(), 0

        async def attempt() -> dict[str, Any]:
            """One try. A request that met silence goes on as a stream: its tokens are signs of life."""
            nonlocal num_stalls
            try:
                document = await self._transport.post(path, body, num_stalls)
            except FaultError as fault:
                if fault.has_stalled:
                    num_stalls += 1
                    body.update(stream=True, stream_options={"include_usage": True})
                raise
            if lack := missing_part(document):
                raise FaultError(f"completion without {lack}")
            return document

        try:
            reply = read_reply(await self._persist(attempt, self._retry.num_tries))
        except RefusalError as refusal:
            reply = Reply(error=str(refusal))
        except FaultError as fault:
            if fault.is_unreachable or (fault.has_stalled and self._watch.was_silent_since(start)):
                raise EndpointUnavailable(f"{self._url}: {fault}; run again to go on from here") from None
            reply = Reply(error=str(fault))
        return replace(reply, latency_s=time.monotonic() - start, max_tokens=body["max_tokens"])

    def _request(self, prompt: Prompt, seed: int, max_tokens: int) -> tuple[str, dict[str, Any]]:
        common = {
            "model": self._endpoint.model,
            "max_tokens": max_tokens,
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            "seed": seed,
        }
        if self._prompting is Prompting.CHAT and isinstance(prompt, str):
            return "/chat/completions", {"messages": [{"role": "user", "content": prompt}], **common}
        return "/completions", {"prompt": prompt, **common}

    async def _persist(
        self, attempt: Callable[[], Coroutine[Any, Any, dict[str, Any]]], num_contacts: int
    ) -> dict[str, Any]:
        """Tries until an answer stands; num_contacts: tries as long as nobody was ever there.

        Raises RefusalError, or the last FaultError after the last try.
        """
        num_failed, has_connected = 0, False
        while True:
            try:
                return await attempt()
            except FaultError as fault:
                num_failed += 1
                has_connected = has_connected or not (fault.is_unreachable or fault.has_stalled)
                if num_failed >= (self._retry.num_tries if has_connected else num_contacts):
                    raise
                delay_s = self._retry.delay_s(num_failed, fault.retry_after_s)
            await asyncio.sleep(delay_s)
