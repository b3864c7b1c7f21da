"""Live progress of a launch: a rich display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sweep.leases import TrialProgress

POLL_S = 1.0
PLAIN_LINE_S = 15.0


@dataclass
class Progress:
    """Counts of one launch, written by the driver and read by the display. finished: trials that are in the counts, for
    which what is still said of them as running is old.
    """

    num_trials: int
    questions_per_trial: int
    done: int = 0
    failed: int = 0
    reused: int = 0
    questions: int = 0
    tokens: int = 0
    running: Mapping[str, TrialProgress] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    started: float = field(default_factory=time.monotonic)

    def line(self) -> str:
        """Done, running, failed, questions, tokens/s, time left: one line."""
        elapsed = time.monotonic() - self.started
        running = {name: trial for name, trial in self.running.items() if name not in self.finished}
        under_way = sum(trial.questions for trial in running.values())
        questions = self.questions + under_way
        tokens = self.tokens + sum(trial.tokens for trial in running.values())
        now = ", ".join(f"{name} {_phase(trial)}" for name, trial in running.items() if trial.phase != "waiting")
        parts = [
            f"{_clock(elapsed)} {self.done}/{self.num_trials} trials done",
            f"{self.failed} failed" if self.failed else "",
            f"{questions:,} questions answered",
            f"{tokens / elapsed:,.0f} tokens/s" if tokens and elapsed > 1 else "",
            f"about {_clock(left)} left" if (left := self._left_s(under_way, elapsed)) is not None else "",
            now,
        ]
        return " | ".join(part for part in parts if part)

    def _left_s(self, under_way: int, elapsed: float) -> float | None:
        """From the rate of questions so far, engine starts and all; None before the first trial is done."""
        fresh, questions = self.done - self.reused, self.questions + under_way
        if fresh < 1 or questions == 0:
            return None
        left = (self.num_trials - self.done - self.failed) * self.questions_per_trial - under_way
        return max(0.0, left * elapsed / questions)


@contextmanager
def show_progress(
    progress: Progress, console: Console, poll: Callable[[], Mapping[str, TrialProgress]]
) -> Iterator[None]:
    """Show `progress` until the block ends; `poll` tells what runs."""
    ended = threading.Event()
    live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def watch() -> None:
        last_line = time.monotonic()
        while not ended.wait(POLL_S):
            progress.running = poll()
            if live is not None:
                live.update(Text(progress.line()))
            elif time.monotonic() - last_line >= PLAIN_LINE_S:
                last_line = time.monotonic()
                console.print(progress.line(), highlight=False, soft_wrap=True)

    thread = threading.Thread(target=watch, daemon=True)
    if live is not None:
        live.start()
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=2 * POLL_S)
        if live is not None:
            live.stop()


def _phase(trial: TrialProgress) -> str:
    return f"{trial.questions} answers" if trial.phase == "answering" else trial.phase


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
