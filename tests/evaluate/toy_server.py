"""A real HTTP server on a free loopback port that answers as an OpenAI-compatible one, or misbehaves on purpose."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from evaluate.schema import Endpoint

MODEL = "toy"
USAGE = {"completion_tokens": 7, "prompt_tokens": 3}


@dataclass(frozen=True)
class Reply:
    """What the server does with one request.

    fault: "reset", "cut" (half the body), "hang-up" (no byte at all), "stall" (no byte, and no end), "noise" (no HTTP).
    events: sent one by one as a stream, `pause_s` apart.
    """

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    fault: str | None = None
    events: tuple[Any, ...] = ()
    pause_s: float = 0.0


def completion(text: str | None, finish_reason: str | None = "stop", *, tokens: int = 7, **message: Any) -> Reply:
    """A valid answer, as a chat server and as a completion server would give it at once."""
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish_reason}
    return Reply({"choices": [choice], "usage": {"completion_tokens": tokens, "prompt_tokens": 3}})


def streamed(*deltas: dict[str, Any], finish_reason: str | None = "stop", pause_s: float = 0.0) -> Reply:
    """The same in pieces; without finish_reason the stream ends too early."""
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    ends = [{"choices": [{"delta": {}, "finish_reason": finish_reason}]}, {"choices": [], "usage": USAGE}]
    return Reply(events=(*chunks, *(ends if finish_reason else ())), pause_s=pause_s)


class Server(ThreadingHTTPServer):
    """answer(body, n) gives the reply to the n-th request (from 1) with that body; `asked` holds all bodies."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: Callable[[dict[str, Any], int], Reply] = lambda body, n: completion("\\boxed{1}")
        self.models = Reply({"data": [{"id": MODEL}]})
        self.asked: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.seen_headers: list[dict[str, str]] = []
        self.lock = threading.Lock()
        self.is_over = threading.Event()  # set to end what stalls

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"http://127.0.0.1:{self.server_address[1]}/v1", MODEL)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        self._send(self.server.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body)
            self.server.paths.append(self.path)
            self.server.seen_headers.append(dict(self.headers))
            number = self.server.asked.count(body)
        self._send(self.server.answer(body, number))

    def _send(self, reply: Reply) -> None:
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        if reply.fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if reply.fault == "stall":
            self.server.is_over.wait(60)
        if reply.fault == "noise":
            self.wfile.write(b"\x00\xffgarbage\r\n\r\n")
        if reply.fault in ("reset", "hang-up", "stall", "noise"):
            self.close_connection = True
            return
        if reply.events:
            self._stream(reply)
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if reply.fault == "cut" else content)
        self.close_connection = reply.fault is not None

    def _stream(self, reply: Reply) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in reply.events:
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            time.sleep(reply.pause_s)
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps quiet."""
