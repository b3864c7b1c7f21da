"""The HTTP server in a replica, without an engine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from sweep.errors import EngineFailed
from sweep.replica import _serve, replica_environment
from sweep.serving import _start_failure


def test_an_application_that_does_not_start_is_an_error_and_no_exit() -> None:
    @asynccontextmanager
    async def fail(_: FastAPI) -> AsyncIterator[None]:
        raise RuntimeError("no tokenizer")
        yield

    async def run() -> None:
        server = uvicorn.Server(uvicorn.Config(FastAPI(lifespan=fail), log_level="critical"))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            await _serve(server, listener)

    with pytest.raises(EngineFailed, match="did not start"):
        asyncio.run(run())


def test_the_cause_of_a_failed_start_is_the_last_line_that_names_one(tmp_path: Path) -> None:
    traceback = (
        "RuntimeError: Traceback (most recent call last):\n  File\nsweep.errors.EngineFailed: its port is taken\n"
    )
    failure = _start_failure(traceback, tmp_path)
    assert "its port is taken" in str(failure)


def test_a_replica_on_a_gpu_has_one_thread() -> None:
    assert replica_environment(16, 0)["OMP_NUM_THREADS"] == "15"
    assert replica_environment(16, 1)["OMP_NUM_THREADS"] == "1"
