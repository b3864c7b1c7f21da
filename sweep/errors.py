"""Errors of sweep, drawn as a tree:

SweepError
├── ConfigError            a study that cannot be run as it is written (exit code 2)
├── StudyError             a study that this command may not touch (exit code 2)
│   ├── StudyExists        the name is taken by a study with other settings
│   ├── StudyLocked        another driver is working on it
│   └── StudyNotFound      no study of this name in the store
└── TrialError             one trial failed; the others go on (exit code 1 once all have ended)
    ├── CompressionFailed  the compress actor raised or died
    ├── EngineFailed       the engine did not start, died or lost its endpoint
    ├── CanaryMismatch     the engine holds other weights than the checkpoint's
    └── EvaluationFailed   the questions could not all be asked
"""

# ruff: noqa: N818 - names that say what happened read better in a log than names that end in Error

from __future__ import annotations

from typing import ClassVar


class SweepError(Exception):
    """Anything that sweep raises on purpose; its text is what the user reads, `exit_code` how the command ends."""

    exit_code: ClassVar[int] = 1


class ConfigError(SweepError):
    """At most three lines, each naming file, key, what it is, what it must be and the nearest valid name."""

    exit_code = 2


class StudyError(SweepError):
    """The command refuses to touch a study; nothing was started."""

    exit_code = 2


class StudyExists(StudyError):
    """The store holds a study of this name with other settings."""


class StudyLocked(StudyError):
    """Another driver is at work on this study."""


class StudyNotFound(StudyError):
    """The store holds no study of this name."""


class TrialError(SweepError):
    """A trial that ends FAILED, with its cause; never a score."""


class CompressionFailed(TrialError):
    """The checkpoint could not be made."""


class EngineFailed(TrialError):
    """The engine did not start in time, cannot load the checkpoint, or died."""


class CanaryMismatch(TrialError):
    """The engine answers with other weights than the checkpoint's."""


class EvaluationFailed(TrialError):
    """Questions stayed without an answer."""
