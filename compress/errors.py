"""Errors of compress, drawn as a tree:

CompressError
├── InputError            what the caller gave cannot be used (exit code 2 on the command line)
│   ├── SchemeError       an impossible scheme, or one that this model's shapes refuse
│   ├── ModelError        no such model folder, an unknown architecture, torn weights
│   ├── CalibrationError  too little, empty or unreadable calibration text
│   └── FormatError       a packed checkpoint was asked for that no kernel would load
└── NumericalError        activations or Hessians that are not finite, or cannot be factored at any damping
    └── SchemesFailedError    some schemes of a pass met one; the checkpoints of the others are there
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path


class CompressError(Exception):
    """Anything that compress raises on purpose."""


class InputError(CompressError):
    """One line for the user: `key` is `value`, it must be `must`.

    nearest: the valid name closest to what was given, where names are compared.
    """

    def __init__(self, key: str, value: object, must: str, nearest: str | None = None) -> None:
        self.key, self.value, self.must, self.nearest = key, value, must, nearest
        hint = f" (nearest: {nearest})" if nearest else ""
        super().__init__(f"{key} is {value}, must be {must}{hint}")

    def __reduce__(self) -> tuple[type[InputError], tuple[str, object, str, str | None]]:
        """Survives the way out of a worker process: the four parts, not the finished sentence."""
        return type(self), (self.key, self.value, self.must, self.nearest)


class SchemeError(InputError):
    """An impossible scheme, or one that does not fit the model's shapes."""


class ModelError(InputError):
    """A model folder that is missing, unknown or torn."""


class CalibrationError(InputError):
    """Calibration text that is too short, empty or unreadable."""


class FormatError(InputError):
    """A checkpoint format that this platform's vLLM would not load."""


class NumericalError(CompressError):
    """Numbers that admit no solution: not finite, or singular at every damping tried."""


class SchemesFailedError(NumericalError):
    """failures: what each scheme met, by the folder it was to go to. All other checkpoints of the pass are whole."""

    def __init__(self, failures: Mapping[Path, NumericalError]) -> None:
        self.failures = dict(failures)
        super().__init__("; ".join(f"{out.name}: {error}" for out, error in self.failures.items()))

    def __reduce__(self) -> tuple[type[SchemesFailedError], tuple[dict[Path, NumericalError]]]:
        return type(self), (self.failures,)


def nearest_name(name: str, valid: Iterable[str]) -> str | None:
    """The valid name most like `name`, or None when none is close."""
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.4)
    return matches[0] if matches else None
