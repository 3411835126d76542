"""A cache for results of a weight that compares values, so it cannot go stale."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


class WeightCache(Generic[Value]):
    """The last value that was computed from a weight, valid while the weight keeps exactly the same entries.

    The weight is compared with a copy, entry by entry. That is one pass over the weight, little beside a convolution
    with it, and notices what version counters miss: writes through ``.data``, loaded state dicts, moves to another
    dtype or device, averaged copies. Copies and pickles of a module start empty.
    """

    def __init__(self) -> None:
        self._weight: Tensor | None = None
        self._value: Value | None = None

    def get(self, weight: Tensor, compute: Callable[[], Value]) -> Value:
        """Return the value for this weight; call ``compute()``, without gradients, if the weight has changed."""
        if self._value is None or self._weight is None or not _same(self._weight, weight):
            # Leave inference mode: the value may be used under autograd later.
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


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
