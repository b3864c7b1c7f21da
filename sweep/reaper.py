"""Ends what a killed driver leaves behind: Ray's own agents live on for a minute when their raylet is gone.

A process of its own beside the driver, `python -m sweep.reaper PID GRACE_S`. Its standard input is a pipe that the
driver holds: a byte says that the driver has ended its processes itself, the pipe's end without one that it was killed.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

WATCH_EVERY_S = 1.0
GRACE_S = 8.0  # most end by themselves in less


@contextmanager
def reaper(grace_s: float = GRACE_S) -> Iterator[None]:
    """Watch over this process's descendants while the block runs; if it is killed, end what lives `grace_s` later."""
    command = [sys.executable, "-m", "sweep.reaper", str(os.getpid()), str(grace_s)]
    # A session of its own, so that Ctrl-C reaches the driver alone.
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert watcher.stdout is not None
    watcher.stdout.readline()  # it watches
    try:
        yield
    finally:
        watcher.communicate(b".")


def watch(driver: psutil.Process, grace_s: float) -> None:
    """Return when the driver has ended its processes, or was killed and nothing that descends from it lives."""
    print("watching", flush=True)
    known: set[psutil.Process] = set()  # equal by process id and start time, so that no later process is meant
    while not select.select([sys.stdin], [], [], WATCH_EVERY_S)[0]:
        with suppress(psutil.Error):
            known |= set(driver.children(recursive=True))
    if os.read(sys.stdin.fileno(), 1):
        return
    _, alive = psutil.wait_procs(known - {psutil.Process()}, grace_s)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()


if __name__ == "__main__":
    watch(psutil.Process(int(sys.argv[1])), float(sys.argv[2]))
