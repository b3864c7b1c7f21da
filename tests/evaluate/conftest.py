import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluate.client import RetryPolicy
from tests.evaluate.toy_server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.is_over.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def quick_retry() -> RetryPolicy:
    """Six tries as by default, without the waits."""
    return RetryPolicy(first_delay_s=0.001, max_delay_s=0.002)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with real benchmark items and graded outputs."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SWEEP_TEST_DATA") or default)
    if not folder.is_dir():
        pytest.skip(f"no test data: SWEEP_TEST_DATA is not set and {default} is no folder")
    return folder
