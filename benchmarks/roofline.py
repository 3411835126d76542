"""Floor of a computation: the time that its convolutions and matrix products would take at a machine's peak.

Each of them does its arithmetic, reads its operands and writes its result once. It counts with the longer of the two
times, at the machine's speed in a large matrix product and in a large copy. Activations, permutations, transforms and
weight updates count nothing. An implementation can only be faster if operands stay in the processor's cache, which is
faster than the memory of a large copy.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.common import seconds

_ROUNDS = 20
_MATRIX = {"cpu": 2048}
_LARGE_MATRIX = 8192
_COPIED = {"cpu": 2**26}
_LARGE_COPY = 2**30


class Contraction(NamedTuple):
    """Arithmetic operations and bytes moved by a convolution or a matrix product."""

    operations: int
    bytes: int


class Peaks(NamedTuple):
    """Highest speeds of a machine, per second."""

    operations: float
    bytes: float


class ContractionCounter(TorchDispatchMode):
    """Context manager that lists every convolution and matrix product, forward and backward.

    Example:
        >>> with ContractionCounter() as counter:
        ...     _ = torch.ones(2, 3) @ torch.ones(3, 4)
        >>> counter.contractions
        [Contraction(operations=48, bytes=104)]
    """

    def __init__(self) -> None:
        super().__init__()
        self.contractions: list[Contraction] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket not in flop_registry:
            # Composite operators arrive here in inference mode.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if func.overloadpacket in flop_registry:
            operations = flop_registry[func.overloadpacket](*args, **kwargs, out_val=result)
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            self.contractions.append(Contraction(operations, moved))
        return result

    @property
    def operations(self) -> int:
        return sum(each.operations for each in self.contractions)

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.contractions)

    def floor(self, peaks: Peaks) -> float:
        """Return the seconds that these contractions would take at the peaks, one after the other."""
        return sum(max(each.operations / peaks.operations, each.bytes / peaks.bytes) for each in self.contractions)


def peaks_of(device: torch.device, dtype: torch.dtype = torch.float32) -> Peaks:
    """Measure the peaks by the fastest of some large matrix products, and of some large copies (read and write)."""
    size = _MATRIX.get(device.type, _LARGE_MATRIX)
    matrix = torch.rand(size, size, device=device).to(dtype)
    product = torch.empty_like(matrix)
    source = torch.zeros(_COPIED.get(device.type, _LARGE_COPY), dtype=torch.uint8, device=device)
    copy = torch.zeros_like(source)
    return Peaks(
        operations=2 * size**3 / _fastest(lambda: torch.mm(matrix, matrix, out=product), device),
        bytes=2 * source.numel() / _fastest(lambda: copy.copy_(source), device),
    )


def _fastest(function: Callable[[], object], device: torch.device) -> float:
    return min(seconds(function, device) for _ in range(_ROUNDS))
