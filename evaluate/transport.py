"""One HTTP exchange with an endpoint, and what it tells: a document, a fault worth another try, or a refusal.

The key of the environment goes into a header and nowhere else: every message is cleaned of it.
"""

import email.utils
import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from evaluate.errors import BadInput
from evaluate.replies import join_chunks
from evaluate.stalls import StallWatch

CONNECT_TIMEOUT_S = 10.0
KEEPALIVE_S = 2.0  # below uvicorn's 5 s, so that no request meets a connection about to be closed
GET_TIMEOUT_S = 20.0  # for lists and the like, where nobody thinks
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")


class FaultError(Exception):
    """A transport fault: worth another try. is_unreachable: nobody to connect to; has_stalled: silence."""

    def __init__(
        self,
        cause: str,
        *,
        is_unreachable: bool = False,
        has_stalled: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(cause)
        self.is_unreachable = is_unreachable
        self.has_stalled = has_stalled
        self.retry_after_s = retry_after_s


class RefusalError(Exception):
    """An answer that another try would only repeat; status: HTTP's."""

    def __init__(self, cause: str, status: int) -> None:
        super().__init__(cause)
        self.status = status


class Transport:
    """As many connections to one URL as there may be requests at once; use it in `async with`.

    aiohttp rather than httpx: a tenth of the CPU a request, and a pool whose cost does not grow with its size
    (docs/evaluation.md). Raises BadInput for a URL or a key that no request can carry.
    """

    def __init__(self, url: str, api_key_env: str, concurrency: int, watch: StallWatch) -> None:
        self.url = url.rstrip("/")
        self._key = _read_key(api_key_env)
        self._concurrency = concurrency
        self._watch = watch
        host = _host(url)
        scheme = urlsplit(url).scheme
        is_direct = host in _LOOPBACK or bool(proxy_bypass(host))
        self._proxy = None if is_direct else getproxies().get(scheme, getproxies().get("all"))

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._concurrency, keepalive_timeout=KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else None,
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=self._proxy,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    async def get(self, path: str) -> dict[str, Any]:
        """Returns the JSON object at a path. Raises FaultError, RefusalError."""
        try:
            return await self._exchange("GET", path, None, aiohttp.ClientTimeout(total=GET_TIMEOUT_S))
        except TimeoutError:
            raise FaultError(f"no answer for {GET_TIMEOUT_S:g} s", has_stalled=True) from None

    async def post(self, path: str, body: Mapping[str, Any], num_stalls: int = 0) -> dict[str, Any]:
        """Returns the JSON object that answers `body`; a stream's chunks are joined to one. Raises as get does.

        num_stalls: how many times this request met silence.
        """
        start = time.monotonic()
        try:
            async with self._watch.watching(num_stalls):
                document = await self._exchange("POST", path, json.dumps(body).encode(), None)
        except TimeoutError:
            silence_s = self._watch.limit_s(num_stalls)
            raise FaultError(f"no sign of life for {silence_s:.3g} s", has_stalled=True) from None
        self._watch.sign(time.monotonic() - start)
        return document

    async def _exchange(
        self, method: str, path: str, content: bytes | None, timeout: aiohttp.ClientTimeout | None
    ) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} if content is not None else None
        options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        try:
            async with self._http.request(
                method, self.url + path, data=content, headers=headers, allow_redirects=False, **options
            ) as response:
                self._watch.sign()
                if response.status == 200 and response.content_type == "text/event-stream":
                    return await self._read_stream(response)
                return self._read(response, await response.read())
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise FaultError(self._line(f"cannot be reached ({_text(error)})"), is_unreachable=True) from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise FaultError(self._line(f"connection broke ({_text(error)})")) from None
        except ValueError as error:
            raise RefusalError(self._line(f"cannot be asked ({_text(error)})"), 0) from None

    async def _read_stream(self, response: aiohttp.ClientResponse) -> dict[str, Any]:
        """Collects server-sent events, each a sign of life. Raises FaultError for one that is no JSON."""
        chunks = []
        async for line in response.content:
            self._watch.sign()
            data = line.strip().removeprefix(b"data:").strip()
            if line.startswith(b"data:") and data != b"[DONE]":
                chunks.append(self._parse(response, data))
        return join_chunks(chunks)

    def _read(self, response: aiohttp.ClientResponse, body: bytes) -> dict[str, Any]:
        if 200 <= response.status < 300:
            return self._parse(response, body)
        message = self._line(f"HTTP {response.status} {response.reason}: {body.decode(errors='replace')}")
        if response.status == 429 or response.status >= 500:
            raise FaultError(message, retry_after_s=_retry_after_s(response))
        raise RefusalError(message, response.status)

    def _parse(self, response: aiohttp.ClientResponse, body: bytes) -> dict[str, Any]:
        try:
            document = json.loads(body)
        except ValueError:
            raise FaultError(f"HTTP {response.status} with a body that is no JSON") from None
        if not isinstance(document, dict):
            raise FaultError(f"HTTP {response.status} with {type(document).__name__} instead of an object")
        return document

    def _line(self, text: str) -> str:
        """One line of at most 240 characters; a key that a server or a library echoes is blotted out."""
        return " ".join((text.replace(self._key, "***") if self._key else text).split())[:240].rstrip(": ")


def _host(url: str) -> str:
    """The host of a URL. Raises BadInput where it is none that can be asked."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise BadInput(f"endpoint {url}: no URL that can be asked, must look like http://HOST:PORT/v1")
    return host


def _read_key(name: str) -> str:
    """The key in an environment variable, "" for none. Raises BadInput, which does not show it."""
    key = os.environ.get(name, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise BadInput(f"environment variable {name}: holds characters that no HTTP header carries; set the key again")
    return key


def _text(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _retry_after_s(response: aiohttp.ClientResponse) -> float | None:
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
