"""Closures that optimizers call to compute the loss."""

from collections.abc import Callable
from typing import Any

import torch

Closure = Callable[[], Any]


def loss_of(closure: Closure | None) -> Any:
    """Return the closure's loss, computed with gradients enabled; None without a closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
