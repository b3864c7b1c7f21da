"""Progress of a run on a terminal (one line, redrawn) or in a log (one plain line now and then)."""

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TextIO

from evaluate.schema import Answer

REDRAW_S, LOG_S = 0.2, 10.0


class Progress:
    """Counts answers and says how far a run is.

    num_answers: of the whole run, those of an earlier one included. heads: lines shown above, at the first answer.
    """

    def __init__(self, num_answers: int, out: TextIO, heads: Sequence[str] = ()) -> None:
        self._num_answers = num_answers
        self._out = out
        self._heads = heads
        self._is_terminal = out.isatty()
        self._outcomes: Counter[str] = Counter()
        self._num_tokens = 0
        self._start = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._outcomes:
            self._show(end="\n")

    def count(self, answer: Answer) -> None:
        """Takes one new answer into account."""
        if not self._outcomes:
            print(*self._heads, sep="\n", file=self._out, flush=True)
        self._outcomes[answer.outcome] += 1
        self._num_tokens += answer.completion_tokens or 0
        if time.monotonic() - self._shown >= (REDRAW_S if self._is_terminal else LOG_S):
            self._show(end="" if self._is_terminal else "\n")

    def _show(self, end: str) -> None:
        self._shown = time.monotonic()
        elapsed_s = max(self._shown - self._start, 1e-9)
        counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(self._outcomes.items()))
        line = f"{self._outcomes.total()} new of {self._num_answers} answers ({counts})"
        line += f", {self._num_tokens / elapsed_s:.0f} tokens/s, {elapsed_s:.0f} s"
        print(f"\r\x1b[K{line}" if self._is_terminal else line, end=end, file=self._out, flush=True)
