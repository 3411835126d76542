"""A cache that cannot go stale: it knows the values it was computed from, not when they were last changed."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


class WeightCache(Generic[Value]):
    """Remembers what was last computed from a weight, for as long as the weight has exactly the same values.

    The weight is compared element by element with the copy that the value was computed from. That costs one pass over
    the weight, little beside a convolution with it, and it notices what version counters miss: writes through
    ``.data``, loaded state dicts, moves to another dtype or device, averaged copies. Copies and pickles of a module
    start empty.
    """

    def __init__(self) -> None:
        self._weight: Tensor | None = None
        self._value: Value | None = None

    def get(self, weight: Tensor, compute: Callable[[], Value]) -> Value:
        """The value for this weight; ``compute()`` is called, without gradients, only if it is not the last one."""
        if self._value is None or self._weight is None or not _identical(self._weight, weight):
            # Outside inference mode, so that the value can later take part in a differentiable evaluation.
            with torch.inference_mode(False), torch.no_grad():
                self._value = compute()
                self._weight = weight.detach().clone()
        return self._value

    def clear(self) -> None:
        self._weight = self._value = None

    def __deepcopy__(self, memo: dict[int, object]) -> "WeightCache[Value]":
        return WeightCache()

    def __reduce__(self) -> tuple[type["WeightCache[Value]"], tuple[()]]:
        return WeightCache, ()


def _identical(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
