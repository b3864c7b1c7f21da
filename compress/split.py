"""A pass on several devices: the schemes are dealt out, and each device's share is a pass in a process of its own.

What propagates compressed has a stream of its own, which nothing shares, so streams are dealt out one by one. Schemes
that propagate dense stay together: they share forward, Hessians and factors, and a second device would do those again.

    parent                                     child, one a device
    deal, start a child for each share   ->    compress_models for its share
    least of all progress                <-    (layers done, layers in all) after each layer
    reports from the folders             <-    None, or what went wrong
    STOP to the others after an error    ->    leave nothing behind, end
A child whose parent is gone ends at once and leaves its unfinished folders to the next, as a killed pass does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from multiprocessing import Pipe, connection
from pathlib import Path
from typing import Any

from compress.activations import host_share_bytes
from compress.calibration import Calibration
from compress.errors import CompressError, NumericalError, SchemesFailedError
from compress.methods import Propagate
from compress.report import CompressionReport, load_report
from compress.scheme import CheckpointFormat, Scheme

Progress = Callable[[int, int], None]
STOP = "stop"
SOLVING_COST = 0.15  # of a scheme on a shared stream, in those of a stream of its own (docs/compression.md)


class _StoppedError(CompressError):
    """Another share failed: this one is to leave nothing behind."""


def deal(outs: Sequence[Path], schemes: Sequence[Scheme], num_shares: int) -> list[list[int]]:
    """Positions of the schemes of each share, none empty; what is there already is looked at by the first."""
    together = [i for i, out in enumerate(outs) if out.exists() or schemes[i].propagate is Propagate.DENSE]
    shares = [list(together), *([] for _ in range(num_shares - 1))]
    costs = [1 + SOLVING_COST * len(together) if together else 0.0, *([0.0] * (num_shares - 1))]
    for index in sorted({*range(len(outs))} - {*together}):
        cheapest = costs.index(min(costs))
        shares[cheapest].append(index)
        costs[cheapest] += 1
    return [share for share in shares if share]


def compress_on_devices(
    devices: Sequence[str],
    shares: Sequence[Sequence[int]],
    model: Path,
    outs: Sequence[Path],
    schemes: Sequence[Scheme],
    calibration: Calibration | None,
    formats: Sequence[CheckpointFormat],
    *,
    memory_gib: float | None,
    on_progress: Progress | None,
    **options: Any,
) -> list[CompressionReport]:
    """compress_models with a share of the schemes, by their positions, on each device; memory_gib is of all together.

    Raises what compress_models raises, and CompressError for a process that ended without a word.
    """
    room_gib = host_share_bytes() / 2**30 if memory_gib is None else memory_gib
    with ExitStack() as stack:
        children = []
        for device, share in zip(devices, shares, strict=False):
            request: dict[str, Any] = {
                "model": model,
                "outs": [outs[index] for index in share],
                "schemes": [schemes[index] for index in share],
                "calibration": calibration,
                "formats": [formats[index] for index in share],
                "device": device,
                "memory_gib": room_gib / len(shares),
                **options,
            }
            children.append(stack.enter_context(_Child(device, request)))
        failures = _wait(children, on_progress or (lambda done, total: None))
    if failures:
        raise SchemesFailedError(failures)
    return [report for out in outs if (report := load_report(out)) is not None]


class _Child:
    """A process with one share. As a context it is over at the end: after an error it was told to leave nothing."""

    def __init__(self, device: str, request: dict[str, Any]) -> None:
        self.device = device
        self.done: tuple[int, int] | None = None
        self.is_running = True
        self.pipe, theirs = Pipe()
        search = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "compress.split", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(search)},
        )
        theirs.close()
        with suppress(BrokenPipeError):  # dead already: receive() says so
            self.pipe.send(request)

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            with suppress(OSError):
                self.pipe.send(STOP)
            self._process.wait()
        self.pipe.close()
        self._process.wait()

    def receive(self) -> Any:
        """Raises CompressError when it ended without a word."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            code = self._process.wait()
            raise CompressError(f"the process that compressed on {self.device} ended (exit code {code})") from None


def _wait(children: Sequence[_Child], on_progress: Progress) -> dict[Path, NumericalError]:
    """Until all shares are made: the failures of single schemes. Raises what any other failure of a share was."""
    failures: dict[Path, NumericalError] = {}
    told = 0
    while running := {child.pipe: child for child in children if child.is_running}:
        for pipe in connection.wait(list(running)):
            child = running[pipe]  # type: ignore[index]
            message = child.receive()
            if isinstance(message, tuple):
                child.done = message
            elif isinstance(message, SchemesFailedError):
                failures |= message.failures
            elif isinstance(message, Exception):
                raise message
            child.is_running = isinstance(message, tuple)
            least, total = min(child.done or (0, 0) for child in children)
            if least > told:
                told = least
                on_progress(least, total)
    return failures


def _work(pipe: connection.Connection) -> int:
    """One child. Returns its exit code."""
    from compress.pipeline import compress_models

    is_stopped = threading.Event()

    def listen() -> None:
        try:
            pipe.recv()
            is_stopped.set()
        except (EOFError, OSError):
            os._exit(1)

    def tell(message: object) -> None:
        try:
            pipe.send(message)
        except OSError:  # before listen() could see that the parent is gone
            os._exit(1)

    def on_progress(done: int, total: int) -> None:
        if is_stopped.is_set():
            raise _StoppedError
        tell((done, total))

    try:
        request = pipe.recv()
        threading.Thread(target=listen, daemon=True).start()
        compress_models(**request, on_progress=on_progress)
    except KeyboardInterrupt:
        return 130
    except _StoppedError:
        return 1
    except Exception as error:  # noqa: BLE001  # the parent raises it
        tell(error)
        return 1
    tell(None)
    return 0


if __name__ == "__main__":
    sys.exit(_work(connection.Connection(int(sys.argv[1]))))
