"""The line of a launch in progress, on a terminal and in a log."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Mapping

import pytest
from rich.console import Console

import sweep.progress
from sweep.leases import TrialProgress
from sweep.progress import Progress, show_progress

RUNNING = {
    "alpha/rtn-w4": TrialProgress("answering", 30, 3000),
    "beta/rtn-w4": TrialProgress("compressing"),
    "beta/rtn-w3": TrialProgress(),
}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute and 40 seconds have passed since a launch started at 0."""
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)


@pytest.mark.usefixtures("clock")
def test_the_line_counts_what_is_done_and_what_runs() -> None:
    progress = Progress(10, 50, done=3, failed=1, questions=150, tokens=12_000, running=RUNNING, started=0.0)
    assert progress.line() == (
        "1:40 3/10 trials done | 1 failed | 180 questions answered | 150 tokens/s | about 2:30 left"
        " | alpha/rtn-w4 30 answers, beta/rtn-w4 compressing"
    )


@pytest.mark.usefixtures("clock")
def test_a_trial_that_is_counted_is_not_counted_as_running_too() -> None:
    progress = Progress(10, 50, done=3, questions=150, tokens=12_000, running=RUNNING, started=0.0)
    progress.finished.add("alpha/rtn-w4")
    assert "150 questions answered | 120 tokens/s" in progress.line() and "alpha/rtn-w4" not in progress.line()


@pytest.mark.usefixtures("clock")
def test_nothing_is_foretold_before_a_trial_is_done() -> None:
    assert Progress(10, 50, started=0.0).line() == "1:40 0/10 trials done | 0 questions answered"
    reused = Progress(10, 50, done=4, reused=4, running=RUNNING, started=0.0)
    assert "left" not in reused.line()
    assert "30 questions answered" in reused.line()


@pytest.mark.usefixtures("clock")
def test_reused_trials_do_not_shorten_what_is_left() -> None:
    fresh = Progress(10, 50, done=1, questions=50, started=0.0)
    reused = Progress(14, 50, done=5, reused=4, questions=50, started=0.0)
    assert "about 15:00 left" in fresh.line()
    assert "about 15:00 left" in reused.line()
    over = Progress(2, 50, done=2, questions=100, running=RUNNING, started=0.0)
    assert "about 0:00 left" in over.line()


class Script:
    """What runs, told anew at each poll; sets `told` once it was asked often enough."""

    def __init__(self, polls: int) -> None:
        self.polls, self.told = polls, threading.Event()

    def __call__(self) -> Mapping[str, TrialProgress]:
        self.polls -= 1
        if self.polls <= 0:
            self.told.set()
        return {"alpha/rtn-w4": TrialProgress("answering", 7, 70)}


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_shown_until_the_block_ends(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep.progress, "POLL_S", 0.01)
    monkeypatch.setattr(sweep.progress, "PLAIN_LINE_S", 0.02)
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=60)
    progress, script = Progress(3, 10), Script(20)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match="Ctrl"), show_progress(progress, console, script):
        assert script.told.wait(60)
        raise RuntimeError("Ctrl-C")
    while threading.active_count() > before:  # rich does not wait for its own thread; pytest's time-out ends this
        time.sleep(0.01)
    text = output.getvalue()
    assert "0/3 trials done" in text
    assert progress.running == {"alpha/rtn-w4": TrialProgress("answering", 7, 70)}
    if terminal:
        assert "\x1b[2K" in text  # the line is drawn over, and gone at the end
    else:
        lines = text.splitlines()
        assert "\x1b" not in text
        assert "alpha/rtn-w4 7 answers" in lines[0]  # wider than the console, and still one line


def test_a_log_is_not_flooded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep.progress, "POLL_S", 0.01)
    monkeypatch.setattr(sweep.progress, "PLAIN_LINE_S", 3600.0)
    output = io.StringIO()
    script = Script(20)
    with show_progress(Progress(3, 10), Console(file=output, force_terminal=False), script):
        assert script.told.wait(60)
    assert output.getvalue() == ""
