"""Asks an OpenAI-compatible server for one completion at a time, through faults, without end only in reading.

try -> transport fault (connection, reset, 429, 5xx, body cut short, 2xx that is no completion) -> wait -> try again
    -> any other 4xx: terminal, recorded
    -> a completion: taken as it is
A long thought may take hours: there is a time-out for connecting and none for reading; TCP keep-alive notices a
host that is gone.
"""

import asyncio
import email.utils
import json
import os
import random
import socket
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import httpx

from evaluate.errors import EndpointUnavailable, ModelNotServed, nearest
from evaluate.replies import Reply, missing_part, read_reply
from evaluate.schema import Endpoint, Prompting, Sampling

CONNECT_TIMEOUT_S = 10.0
NUM_FIRST_CONTACTS = 3  # a wrong URL is told within a second
KEEPALIVE_EXPIRY_S = 2.0  # below uvicorn's 5 s, so that no request meets a connection about to be closed
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how soon a transport fault is tried again: 0.2, 0.4, 0.8 ... s and up to a quarter more."""

    num_tries: int = 6
    first_delay_s: float = 0.2
    max_delay_s: float = 8.0
    max_retry_after_s: float = 120.0

    def delay_s(self, num_failed: int, retry_after_s: float | None) -> float:
        """Seconds to wait after the `num_failed`-th failure (from 1); the server's Retry-After is a lower bound."""
        backoff = min(self.first_delay_s * 2.0 ** (num_failed - 1), self.max_delay_s) * random.uniform(1.0, 1.25)
        return max(backoff, min(retry_after_s or 0.0, self.max_retry_after_s))


class _FaultError(Exception):
    """A transport fault: worth another try."""

    def __init__(self, cause: str, *, is_unreachable: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(cause)
        self.is_unreachable = is_unreachable
        self.retry_after_s = retry_after_s


class _RefusalError(Exception):
    """An answer that another try would only repeat."""


class Client:
    """One connection pool to one endpoint; use it in `async with`."""

    def __init__(
        self,
        endpoint: Endpoint,
        sampling: Sampling,
        prompting: Prompting = Prompting.CHAT,
        *,
        concurrency: int = 64,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._sampling = sampling
        self._prompting = prompting
        self._retry = retry or RetryPolicy()
        self._url = endpoint.url.rstrip("/")
        self._http = _connect(self._url, endpoint.api_key_env, concurrency)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def check_model(self) -> None:
        """Asks GET /models whether the model is served; a server without that route is taken at its word.

        Raises EndpointUnavailable, ModelNotServed.
        """
        try:
            listing = await self._persist("GET", "/models", None)
        except _RefusalError as refusal:
            if str(refusal).startswith(("HTTP 404", "HTTP 405")):
                return
            hint = f"; the API key is read from ${self._endpoint.api_key_env}" if "HTTP 40" in str(refusal) else ""
            raise EndpointUnavailable(f"{self._url}/models: {refusal}{hint}") from None
        except _FaultError as fault:
            raise EndpointUnavailable(
                f"{self._url}: {fault}; is the server running, does the URL end in /v1?"
            ) from None
        names = [m.get("id") for m in listing.get("data") or [] if isinstance(m, dict)]
        served = [n for n in names if isinstance(n, str)]
        if served and self._endpoint.model not in served:
            close = nearest(self._endpoint.model, served)
            raise ModelNotServed(
                f"{self._url}: serves no model {self._endpoint.model!r}, but {', '.join(served)}{close}"
            )

    async def complete(self, prompt: str, seed: int) -> Reply:
        """Asks for one completion of the prompt.

        Returns a Reply with `error` once the server refused, or failed as often as the policy allows.
        Raises EndpointUnavailable when the last try found nobody to connect to: the server is gone.
        """
        path, body = self._request(prompt, seed)
        start = time.monotonic()
        try:
            reply = read_reply(await self._persist("POST", path, body))
        except _RefusalError as refusal:
            reply = Reply(error=str(refusal))
        except _FaultError as fault:
            if fault.is_unreachable:
                raise EndpointUnavailable(f"{self._url}: {fault}; run again to go on from here") from None
            reply = Reply(error=str(fault))
        return replace(reply, latency_s=time.monotonic() - start, max_tokens=body["max_tokens"])

    def _request(self, prompt: str, seed: int) -> tuple[str, dict[str, Any]]:
        common = {
            "model": self._endpoint.model,
            "max_tokens": self._sampling.max_tokens,
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            "seed": seed,
        }
        if self._prompting is Prompting.CHAT:
            return "/chat/completions", {"messages": [{"role": "user", "content": prompt}], **common}
        return "/completions", {"prompt": prompt, **common}

    async def _persist(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """Tries until an answer stands. Raises _RefusalError, or the last _FaultError after the last try."""
        num_failed, has_connected = 0, False
        while True:
            try:
                return await self._try(method, path, body)
            except _FaultError as fault:
                num_failed, has_connected = num_failed + 1, has_connected or not fault.is_unreachable
                is_first_contact = body is None and not has_connected
                if num_failed >= (NUM_FIRST_CONTACTS if is_first_contact else self._retry.num_tries):
                    raise
                delay_s = self._retry.delay_s(num_failed, fault.retry_after_s)
            await asyncio.sleep(delay_s)

    async def _try(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            response = await self._http.request(method, self._url + path, json=body)
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise _RefusalError(f"no URL that can be asked ({error})") from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _FaultError(f"cannot be reached ({_one_line(error)})", is_unreachable=True) from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _FaultError(f"connection broke ({_one_line(error)})") from None
        if response.status_code == 429 or response.status_code >= 500:
            raise _FaultError(_describe(response), retry_after_s=_retry_after_s(response))
        if not response.is_success:
            raise _RefusalError(_describe(response))
        return _parse(response, is_completion=body is not None)


def _connect(url: str, api_key_env: str, concurrency: int) -> httpx.AsyncClient:
    keepalive = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    limits = httpx.Limits(
        max_connections=concurrency, max_keepalive_connections=concurrency, keepalive_expiry=KEEPALIVE_EXPIRY_S
    )
    is_local = any(f"//{host}" in url.replace("[", "") for host in _LOOPBACK)
    key = os.environ.get(api_key_env)
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(limits=limits, socket_options=keepalive) if is_local else None,
        limits=limits,
        timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
        headers={"Authorization": f"Bearer {key}"} if key else None,
        trust_env=not is_local,  # a proxy of the environment is for hosts elsewhere
    )


def _parse(response: httpx.Response, *, is_completion: bool) -> dict[str, Any]:
    """The JSON object of a 2xx response. Raises _FaultError when it is none, or not the completion asked for."""
    try:
        document = json.loads(response.content)
    except ValueError:
        raise _FaultError(f"HTTP {response.status_code} with a body that is no JSON") from None
    if not isinstance(document, dict):
        raise _FaultError(f"HTTP {response.status_code} with {type(document).__name__} instead of an object")
    if is_completion and (lack := missing_part(document)):
        raise _FaultError(f"HTTP {response.status_code} without {lack}: {response.text[:120]!r}")
    return document


def _describe(response: httpx.Response) -> str:
    """Status and body on one line; a key that the server echoes is blotted out."""
    key = response.request.headers.get("Authorization", "").removeprefix("Bearer ")
    text = response.text.replace(key, "***") if key else response.text
    return f"HTTP {response.status_code} {response.reason_phrase}: {' '.join(text.split())[:200]}".rstrip(": ")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds that a Retry-After header asks for, given as a number or as an HTTP date."""
    value = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
