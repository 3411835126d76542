"""Helpers for the tests of adapters."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def train(model: nn.Module, steps: int = 5, shape: tuple[int, ...] = (6, 8, 8, 8), rate: float = 0.05) -> nn.Module:
    """Train for some steps on random labels, then return to evaluation mode."""
    generator = torch.Generator().manual_seed(2)
    images, labels = torch.randn(shape, generator=generator), torch.randint(0, 4, shape[:1], generator=generator)
    optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=rate)
    model.train()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def snapshot(model: nn.Module) -> list[tuple[str, int, bool, Tensor]]:
    """Return order, identity, requires_grad and values of all parameters and buffers of a model."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [(name, id(value), value.requires_grad, value.detach().clone()) for name, value in tensors]


def same(before: list[tuple[str, int, bool, Tensor]], after: list[tuple[str, int, bool, Tensor]]) -> bool:
    return len(before) == len(after) and all(
        a[:3] == b[:3] and torch.equal(a[3], b[3]) for a, b in zip(before, after, strict=True)
    )


def classes(model: nn.Module) -> list[type]:
    return [type(module) for module in model.modules()]


@torch.no_grad()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Compute logits in evaluation mode without gradients, where attention takes its fused path."""
    result: Tensor = model.eval()(images)
    return result
