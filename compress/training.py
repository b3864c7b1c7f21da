"""A student learns the answers of traces, and the teacher's distribution over them where a teacher is loaded beside.

Sequence-level distillation (Kim and Rush, 2016): cross entropy on what the teacher wrote. Logit distillation (Hinton,
Vinyals and Dean, 2015): T^2 KL(teacher || student) of both distributions at temperature T.
Shapes: B rows, T positions, N answer tokens of a batch, V vocabulary.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from compress.distillation import DEFAULT_EPOCHS, Distillation
from compress.errors import NumericalError
from compress.traces import TraceRow

# Tokens of one forward and backward; the gradients of a batch are summed over them.
FORWARD_TOKENS = 4096
WARMUP_FRAC, MAX_WARMUP = 0.1, 100
BETAS, MAX_GRADIENT_NORM = (0.9, 0.95), 1.0
OnStep = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Teacher:
    """A model whose distribution over the answers is followed too."""

    model: Any
    weight: float
    temperature: float


def plan_batches(rows: Sequence[TraceRow], settings: Distillation) -> list[list[TraceRow]]:
    """The batches of all steps, each epoch in an order of its own."""
    source, batches = random.Random(settings.seed), list[list[TraceRow]]()
    epochs = settings.epochs or DEFAULT_EPOCHS
    while len(batches) < settings.num_steps if settings.num_steps else epochs:
        batches += _cut(source.sample(rows, len(rows)), settings.batch_size)
        epochs -= 1
    return batches[: settings.num_steps]


def keep_zeros(weights: Mapping[str, nn.Parameter]) -> int:
    """Have every weight that is 0 stay 0, and count them: its gradient is 0, so that AdamW does not move it."""
    count = 0
    for weight in weights.values():
        if zeros := int((weight == 0).sum()):
            kept = weight != 0
            weight.register_hook(lambda gradient, kept=kept: gradient * kept)  # type: ignore[no-untyped-call]
            count += zeros
    return count


def train(
    model: Any,
    batches: Sequence[Sequence[TraceRow]],
    learning_rate: float,
    teacher: Teacher | None = None,
    on_step: OnStep | None = None,
) -> None:
    """One update of the parameters that require gradients for each batch; on_step(steps done, steps in all, loss).

    Raises NumericalError at the first loss that is not finite.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=BETAS, weight_decay=0.0)
    warmup = min(math.ceil(WARMUP_FRAC * len(batches)), MAX_WARMUP)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (len(batches) - step) / (len(batches) - warmup + 1))
    )
    for step, batch in enumerate(batches, 1):
        num_counted, loss = sum(row.num_counted for row in batch), 0.0
        for part in _cut(sorted(batch, key=lambda row: len(row.tokens)), FORWARD_TOKENS):
            part_loss = answer_loss(model, part, teacher) / num_counted
            part_loss.backward()  # type: ignore[no-untyped-call]
            loss += part_loss.item()
        norm = nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        if not (math.isfinite(loss) and torch.isfinite(norm)):
            found = f"the loss is {loss} and the gradient's norm {norm:g}"
            raise NumericalError(f"{found} at step {step} of {len(batches)}: try a lower learning rate")
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if on_step is not None:
            on_step(step, len(batches), loss)


@torch.no_grad()
def mean_loss(model: Any, rows: Sequence[TraceRow]) -> float:
    """Negative log-likelihood of the answers, nats a token. Raises NumericalError where it is not finite."""
    parts = _cut(sorted(rows, key=lambda row: len(row.tokens)), FORWARD_TOKENS)
    loss = sum(answer_loss(model, part).item() for part in parts) / sum(row.num_counted for row in rows)
    if not math.isfinite(loss):
        raise NumericalError(f"the loss on held-out traces is {loss}: try a lower learning rate, or another student")
    return loss


def answer_loss(model: Any, rows: Sequence[TraceRow], teacher: Teacher | None = None) -> Tensor:
    """Summed over the answer tokens of the rows, nats; prompts do not count."""
    device = next(model.parameters()).device
    tokens, counted = (tensor.to(device) for tensor in _collate(rows))
    logits = _logits(model, tokens, counted)
    loss = F.cross_entropy(logits, tokens[:, 1:][counted], reduction="sum")
    if teacher is None:
        return loss
    with torch.no_grad():
        taught = _logits(teacher.model, tokens, counted)
    return (1 - teacher.weight) * loss + teacher.weight * divergence(logits, taught, teacher.temperature)


def divergence(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) at temperature T of logits [N, V], summed over N. Of two vocabularies that are padded
    to different lengths, what both have.
    """
    size = min(logits.shape[-1], teacher_logits.shape[-1])
    student, teacher = ((x[:, :size] / temperature).log_softmax(-1) for x in (logits, teacher_logits))
    return temperature**2 * F.kl_div(student, teacher, reduction="sum", log_target=True)


def _logits(model: Any, tokens: Tensor, counted: Tensor) -> Tensor:
    """fp32 [N, V] at the positions before answer tokens; rows are padded on the right, where nothing looks."""
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=tokens.device.type == "cuda"):
        hidden = model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
        logits: Tensor = model.lm_head(hidden[counted])
    return logits.float()


def _collate(rows: Sequence[TraceRow]) -> tuple[Tensor, Tensor]:
    """Tokens [B, T], and of [B, T - 1] next tokens which are answers."""
    length = max(len(row.tokens) for row in rows)
    tokens = torch.tensor([[*row.tokens, *[0] * (length - len(row.tokens))] for row in rows])
    counted = torch.tensor([[row.first <= place < len(row.tokens) for place in range(1, length)] for row in rows])
    return tokens, counted


def _cut(rows: Sequence[TraceRow], num_tokens: int) -> Iterator[list[TraceRow]]:
    """Neighbouring rows together as long as they have at most num_tokens; a longer one is alone."""
    part, room = list[TraceRow](), num_tokens
    for row in rows:
        if part and len(row.tokens) > room:
            yield part
            part, room = [], num_tokens
        part.append(row)
        room -= len(row.tokens)
    yield part
