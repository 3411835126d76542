"""A cache for results of weights that compares values, so it cannot go stale."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


class WeightCache(Generic[Value]):
    """The last value that was computed from some tensors, valid while they keep exactly the same entries.

    The tensors are compared with copies, entry by entry. That is one pass over the weights, little beside a convolution
    with them, and notices what version counters miss: writes through ``.data``, loaded state dicts, moves to another
    dtype or device, averaged copies. A copy of a module keeps the value; a pickle starts empty.
    """

    def __init__(self) -> None:
        self._weights: list[Tensor] = []
        self._value: Value | None = None

    def get(self, weights: Sequence[Tensor], compute: Callable[[], Value]) -> Value:
        """Return the value for these tensors; call ``compute()``, without gradients, if one has changed."""
        if self._value is None or not self._current(weights):
            # Leave inference mode: the value may be used under autograd later.
            with torch.inference_mode(False), torch.no_grad():
                self._value = compute()
                self._weights = [weight.detach().clone() for weight in weights]
        return self._value

    def clear(self) -> None:
        self._weights, self._value = [], None

    def _current(self, weights: Sequence[Tensor]) -> bool:
        return len(weights) == len(self._weights) and all(
            a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
            for a, b in zip(self._weights, weights, strict=True)
        )

    def __deepcopy__(self, memo: dict[int, object]) -> "WeightCache[Value]":
        # Shared, not copied: values are never changed in place.
        copy: WeightCache[Value] = WeightCache()
        copy._weights, copy._value = self._weights, self._value
        return copy

    def __reduce__(self) -> tuple[type["WeightCache[Value]"], tuple[()]]:
        return WeightCache, ()
