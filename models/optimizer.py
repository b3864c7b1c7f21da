"""Muon for the matrices inside the layers, AdamW for the embedding and the norms.

Muon: Keller Jordan, https://kellerjordan.github.io/posts/muon (2024); the coefficients are his.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.compile(dynamic=False)
def orthogonalize(matrices: Tensor) -> Tensor:
    """Move the singular values of each of N x R x C matrices towards 1: five Newton-Schulz steps in bf16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon:
    """Momentum, orthogonalized; matrices of one shape are handled in one batch. Weight decay is times lr."""

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float, momentum: float = 0.95) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            by_shape[parameter.shape].append(parameter)
        self._groups = [(group, torch.zeros_like(torch.stack(group))) for group in by_shape.values()]
        self._weight_decay, self._momentum = weight_decay, momentum

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for group, velocity in self._groups:
            gradients = torch.stack([parameter.grad for parameter in group if parameter.grad is not None])
            velocity.lerp_(gradients, 1 - self._momentum)
            updates = orthogonalize(gradients.lerp_(velocity, self._momentum))
            num_rows, num_columns = velocity.shape[1:]
            scale = max(1.0, num_rows / num_columns) ** 0.5
            torch._foreach_mul_(group, 1 - lr * self._weight_decay)
            torch._foreach_add_(group, list(updates.float().unbind()), alpha=-lr * scale)


class Optimizer:
    """Both, under one schedule: `factor` (0 to 1) scales the two learning rates."""

    def __init__(self, model: nn.Module, weight_decay: float, matrix_lr: float = 0.02, vector_lr: float = 3e-3) -> None:
        named = list(model.named_parameters())
        matrices = [parameter for name, parameter in named if parameter.ndim == 2 and "embed_tokens" not in name]
        vectors = [parameter for name, parameter in named if parameter.ndim == 1 or "embed_tokens" in name]
        self._muon, self._matrix_lr, self._vector_lr = Muon(matrices, weight_decay), matrix_lr, vector_lr
        fused = vectors[0].device.type == "cuda"
        self._adamw = torch.optim.AdamW(vectors, lr=vector_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=fused)
        self._model = model

    def step(self, factor: float) -> None:
        self._muon.step(self._matrix_lr * factor)
        for group in self._adamw.param_groups:
            group["lr"] = self._vector_lr * factor
        self._adamw.step()
        self._model.zero_grad(set_to_none=True)


def schedule(step: int, num_steps: int, num_warmup: int = 100, cooldown: float = 0.4, floor: float = 0.01) -> float:
    """Linear warm-up, constant, then linear down to `floor` over the last `cooldown` share of the steps."""
    warmup = min(1.0, (step + 1) / num_warmup)
    left = (num_steps - step) / (num_steps * cooldown)
    return warmup * max(floor, min(1.0, left))
