"""The settings of a distillation, and what it did. Standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from compress.calibration import MAX_LENGTH, MAX_SAMPLES, MAX_SEED
from compress.errors import SchemeError

MAX_STEPS, MAX_TOKENS = 10_000_000, 1 << 30
DEFAULT_EPOCHS, DEFAULT_KD_WEIGHT = 1, 0.5


@dataclass(frozen=True)
class Distillation:
    """How a student learns from traces. num_steps updates, or `epochs` times all traces (default 1), of batch_size
    tokens each (prompts included, a trace is never cut for it). learning_rate: AdamW's peak, after a warm-up over the
    first tenth of the steps (100 at most) and before a linear fall to 0. num_samples traces are drawn with `seed`,
    which also says what is held out and in which order the rest is read. kd_weight: the share of the loss that follows
    the teacher's distribution at `temperature` rather than the trace's tokens.

    Raises SchemeError for a number outside its range, or both num_steps and epochs.
    """

    num_steps: int | None = None
    epochs: int | None = None
    learning_rate: float = 1e-4
    batch_size: int = 8192
    max_seq_length: int = 2048
    num_samples: int | None = None
    seed: int = 0
    kd_weight: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.num_steps is not None and self.epochs is not None:
            raise SchemeError("epochs", self.epochs, "left out beside num_steps")
        for key, low, high in (
            ("num_steps", 1, MAX_STEPS),
            ("epochs", 1, MAX_STEPS),
            ("batch_size", 1, MAX_TOKENS),
            ("max_seq_length", 2, MAX_LENGTH),
            ("num_samples", 2, MAX_SAMPLES),
            ("seed", 0, MAX_SEED),
        ):
            value = getattr(self, key)
            optional = value is None and type(self).__dataclass_fields__[key].default is None
            if not optional and (isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high):
                raise SchemeError(key, value, f"a whole number from {low} to {high}")
        _check_number("learning_rate", self.learning_rate, 0, 1, above=True)
        _check_number("kd_weight", self.kd_weight, 0, 1)
        _check_number("temperature", self.temperature, 0, 1000, above=True)


@dataclass(frozen=True)
class DistillationReport:
    """What was learned. Losses: negative log-likelihood of the held-out answers, nats a token, of weights as stored.
    num_left_out: traces without an answer within max_seq_length. num_tokens: read in training, prompts included, of
    which num_answer_tokens counted. num_trained parameters were free to move, num_masked were zeros and are,
    num_frozen lie on a grid and stayed as they were. seconds: of the training. peak_memory_gib: of its device.
    """

    student: str
    student_fingerprint: str
    teacher: str | None
    teacher_fingerprint: str | None
    traces: str
    traces_hash: str
    settings: dict[str, Any]
    num_steps: int
    num_traces: int
    num_held_out: int
    num_left_out: int
    num_tokens: int
    num_answer_tokens: int
    num_held_out_tokens: int
    num_trained: int
    num_masked: int
    num_frozen: int
    loss_before: float
    loss_after: float
    device: str
    seconds: float
    peak_memory_gib: float


def _check_number(key: str, value: object, low: float, high: float, *, above: bool = False) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not (low < value if above else low <= value) or value > high:  # type: ignore[operator]
        raise SchemeError(key, value, f"a number {'above' if above else 'from'} {low} to {high}")
