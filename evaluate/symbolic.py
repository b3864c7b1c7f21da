"""Whether two mathematical expressions are equal, as math-verify sees it, in worker processes of its own.

math-verify works on sympy, which can think for ever about a short text; its own time-outs are signals of the calling
thread and are off. Each pair is decided by a worker (`python -m evaluate.symbolic_worker`, one line of JSON in, one
out) which the kernel ends after TIME_LIMIT_S of processor time, so that a verdict does not depend on the load. Workers
start with the first question, at most one a core, and end with this process.
"""

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from queue import Empty, SimpleQueue
from threading import BoundedSemaphore
from typing import TypeVar

LONGEST = 1000  # characters; a longer text is a loop or a thought, never an expression that is compared
TIME_LIMIT_S = 10  # processor time of one pair; an ordinary pair takes 2 to 20 ms
T = TypeVar("T")
R = TypeVar("R")

_slots = BoundedSemaphore(min(8, len(os.sched_getaffinity(0))))  # workers at a time; each takes some 150 MB
_idle: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()


@lru_cache(maxsize=65536)
def are_equal(answer: str, reference: str) -> bool | None:
    """Returns whether math-verify takes `answer` for `reference`; None where it found no end within TIME_LIMIT_S,
    or one of the two is longer than LONGEST.

    Both are texts as they stand in a box, with or without math delimiters. Several threads may ask at a time.
    """
    if max(len(answer), len(reference)) > LONGEST:
        return None
    with _slots:
        return _ask(_borrow(), json.dumps([answer, reference]))


def _ask(worker: "subprocess.Popen[str]", question: str) -> bool | None:
    try:
        print(question, file=worker.stdin, flush=True)
        line = worker.stdout.readline() if worker.stdout else ""
    except BrokenPipeError:
        line = ""
    if not line:  # the kernel ended it
        worker.kill()
        worker.communicate()
        return None
    _idle.put(worker)
    return bool(json.loads(line))


def map_in_pool(function: Callable[[T], R], values: Iterable[T]) -> list[R]:
    """Applies a function that calls `are_equal` to many values, as many at a time as there are cores, in order."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return list(threads.map(function, values))


def _borrow() -> "subprocess.Popen[str]":
    try:
        return _idle.get_nowait()
    except Empty:
        return subprocess.Popen(
            [sys.executable, "-m", "evaluate.symbolic_worker", str(TIME_LIMIT_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"},
        )


@atexit.register
def _end_workers() -> None:
    while not _idle.empty():
        worker = _idle.get()
        worker.kill()
        worker.communicate()
