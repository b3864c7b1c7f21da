"""A checkpoint in the making: its temporary folder, its tensors, and one line for every finished layer, so that who
comes after a killed process goes on behind the last one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compress.errors import NumericalError
from compress.report import LayerReport
from compress.shards import TensorWriter

_NAME = ".progress.jsonl"


class PartialCheckpoint:
    """tensors: where to write and read them. failure: why this one cannot be made, None while it can."""

    def __init__(self, folder: Path, tensors: TensorWriter) -> None:
        self.folder, self.tensors = folder, tensors
        self.failure: NumericalError | None = None
        self._lines: list[dict[str, Any]] = []
        path = folder / _NAME
        for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            with suppress(ValueError):  # the last line of a killed process may be torn: its layer is solved again
                self._lines.append(json.loads(text))
        if self._lines and "failure" in self._lines[-1]:
            self.failure = NumericalError(self._lines.pop()["failure"])

    @property
    def num_layers(self) -> int:
        """Finished layers."""
        return len(self._lines)

    @property
    def layers(self) -> tuple[LayerReport, ...]:
        return tuple(LayerReport(**report) for line in self._lines for report in line["reports"])

    @property
    def fallbacks(self) -> dict[str, int]:
        """{cause: how often}, over all finished layers."""
        total: dict[str, int] = {}
        for line in self._lines:
            for cause, count in line["fallbacks"].items():
                total[cause] = total.get(cause, 0) + count
        return total

    def go_back(self, num_layers: int) -> None:
        """Forget the layers after the first num_layers."""
        del self._lines[num_layers:]
        text = "".join(json.dumps(line) + "\n" for line in self._lines)
        (self.folder / _NAME).write_text(text, encoding="utf-8")

    def finish_layer(self, reports: Sequence[LayerReport], fallbacks: Mapping[str, int]) -> None:
        """Note that all tensors of a layer are written."""
        self._note({"reports": [asdict(report) for report in reports], "fallbacks": dict(fallbacks)})

    def fail(self, failure: NumericalError) -> None:
        """Note that there is no solution; a later process need not find that out again."""
        self.failure = failure
        self._note({"failure": str(failure)})

    def _note(self, line: dict[str, Any]) -> None:
        with (self.folder / _NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if "failure" not in line:
            self._lines.append(line)
