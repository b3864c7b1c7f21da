"""The driver of a study as a process of its own, and everything that descends from it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK = "SWEEP_TEST_DRIVER"  # in the environment of a driver and so of all that it starts
PATIENCE_S = 540.0  # an engine starts in 30 s alone and in minutes beside other work
GONE_S = 30.0  # what a dead driver's processes may take to end
POLL_S = 0.2


@dataclass(frozen=True)
class Driver:
    """A running `python -m sweep ...` in a session of its own; its output goes to two files."""

    process: subprocess.Popen[bytes]
    mark: str
    output: Path
    errors: Path

    def text(self) -> str:
        """What it has printed: results first, then progress and refusals."""
        return "".join(path.read_text(encoding="utf-8", errors="replace") for path in (self.output, self.errors))

    def wait(self) -> int:
        """The exit code, once it has ended by itself."""
        return self.process.wait(PATIENCE_S)

    def interrupt(self) -> None:
        """Ctrl-C as a terminal sends it: to the driver and to everything in its process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """kill -9 of the driver alone."""
        self.process.kill()
        self.process.wait()

    def processes(self) -> dict[int, str]:
        """{pid: command line} of every living process that it started, itself included."""
        return {pid: _command(pid) for pid in _pids() if self._started(pid)}

    def wait_until_gone(self) -> float:
        """Seconds until no process of it was left. Raises AssertionError with what lives after GONE_S."""
        started = time.monotonic()
        while living := self.processes():
            assert time.monotonic() - started < GONE_S, f"still alive after {GONE_S:g} s: {living}"
            time.sleep(POLL_S)
        return time.monotonic() - started

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Return once `condition` holds; AssertionError when the driver ends before that."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, f"the driver ended before {what}:\n{self.text()}"
            assert time.monotonic() < deadline, f"no {what} within {PATIENCE_S:g} s:\n{self.text()}"
            time.sleep(POLL_S)

    def _started(self, pid: int) -> bool:
        """By the environment, which a process that renames itself may overwrite in part, or by the session."""
        with suppress(OSError):
            if os.getsid(pid) == self.process.pid and _state(pid) != "Z":
                return True
            return f"{MARK}={self.mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return False


def sweep_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sweep", *arguments]


@contextmanager
def sweep_driver(folder: Path, *arguments: str) -> Iterator[Driver]:
    """Start `python -m sweep ARGUMENTS` in `folder`; what of it still lives at the end is killed, by process id."""
    mark = uuid.uuid4().hex
    output, errors = (folder / f"driver-{arguments[0]}-{mark[:8]}.{stream}" for stream in ("stdout", "stderr"))
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(
            sweep_command(*arguments),
            cwd=folder,
            env={**os.environ, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    driver = Driver(process, mark, output, errors)
    try:
        yield driver
    finally:
        while living := driver.processes():
            for pid in living:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.poll()
            time.sleep(POLL_S)
        process.wait()


def sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m sweep ARGUMENTS` in `folder` to its end."""
    command = sweep_command(*arguments)
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def sweep_json(folder: Path, *arguments: str) -> Any:
    """What `python -m sweep ARGUMENTS --json` prints."""
    done = sweep(folder, *arguments, "--json")
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def answer_lines(store: Path) -> dict[Path, list[bytes]]:
    """Whole lines of every answers.jsonl of a store."""
    return {path: path.read_bytes().split(b"\n")[:-1] for path in store.glob("answers/*/answers.jsonl")}


def checkpoint_bytes(store: Path) -> dict[Path, tuple[bytes, int]]:
    """Content and time of change of every file of the finished checkpoints."""
    whole = [path.parent for path in store.glob("checkpoints/*/compression_report.json")]
    files = [path for folder in whole if not folder.name.startswith(".") for path in folder.iterdir()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def is_compressing(store: Path) -> bool:
    """A living process has finished a layer of a checkpoint; its temporary folder ends in its process id."""
    progress = store.glob("checkpoints/.*.tmp-*/.progress.jsonl")
    return any(path.stat().st_size and Path("/proc", path.parent.name.split("-")[-1]).exists() for path in progress)


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120].strip()
    return "(ended)"


def _state(pid: int) -> str:
    """R, S, ...; Z for one that has ended and that nobody has waited for."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
