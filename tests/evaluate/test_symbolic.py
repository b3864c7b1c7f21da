import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from evaluate import symbolic


@pytest.mark.parametrize(
    ("answer", "reference", "is_equal"),
    [
        (r"\frac{66}{2}", "33", True),
        (r"\sqrt{18}", r"3\sqrt{2}", True),
        ("[2,5)", "(2,5)", False),
        ("no mathematics", "33", False),
        ("", "33", False),
        ("\\boxed{", "33", False),
        ("a\nb", "33", False),
    ],
)
def test_compares_values(answer: str, reference: str, is_equal: bool) -> None:
    assert symbolic.are_equal(answer, reference) is is_equal


def test_a_pair_without_end_is_given_up_and_the_next_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "TIME_LIMIT_S", 3)
    monkeypatch.setattr(symbolic, "_idle", type(symbolic._idle)())  # workers of the new limit
    assert symbolic.are_equal("10^{10^{10^{10}}}", "7") is None
    assert symbolic.are_equal("1+6", "7") is True
    symbolic._end_workers()


def test_threads_have_workers_of_their_own() -> None:
    with ThreadPoolExecutor(2) as threads:
        verdicts = list(threads.map(lambda n: symbolic.are_equal(f"{n}+{n}", str(2 * n)), range(40)))
    assert all(verdicts)


def test_map_in_pool_keeps_the_order() -> None:
    assert symbolic.map_in_pool(lambda n: n * n, range(50)) == [n * n for n in range(50)]


def test_workers_end_with_their_parent() -> None:
    code = (
        "import os; from evaluate import symbolic; symbolic.are_equal('1+1', '2');"
        "print(symbolic._idle.get().pid, flush=True); os._exit(0)"
    )
    pid = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    ended = subprocess.run(["tail", f"--pid={pid}", "-f", "/dev/null"], timeout=30, check=False)
    assert ended.returncode == 0
