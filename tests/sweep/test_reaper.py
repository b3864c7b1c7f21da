"""A driver that is killed takes along what it started; one that ends by itself ends that itself."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

# Starts a process that starts another in a session of its own, and lets both be seen once.
DRIVER = """
import subprocess, sys, time
from sweep.reaper import reaper
child = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '60'], start_new_session=True).pid, flush=True)"
with reaper(grace_s=0.2):
    subprocess.Popen([sys.executable, "-c", child + "; time.sleep(60)"])
    time.sleep(float(sys.argv[1]))
"""


def start(seconds: float) -> tuple[subprocess.Popen[str], psutil.Process]:
    """The driver and its grandchild."""
    command = [sys.executable, "-c", DRIVER, str(seconds)]
    root = Path(__file__).resolve().parents[2]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)
    assert driver.stdout is not None
    return driver, psutil.Process(int(driver.stdout.readline()))


@pytest.mark.timeout(60)
def test_a_killed_driver_takes_its_descendants_along() -> None:
    driver, grandchild = start(60)
    time.sleep(5)  # the watcher looks once a second
    watched = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs([grandchild, *watched], 30)
    assert not alive


@pytest.mark.timeout(60)
def test_a_driver_that_ends_is_left_to_itself() -> None:
    driver, grandchild = start(2)
    try:
        assert driver.wait() == 0
        assert grandchild.is_running()
    finally:
        for process in (grandchild.parent(), grandchild):
            if process is not None and process.pid != 1:
                process.kill()
