"""The floor of a computation: how long its convolutions and matrix products must take on a machine, at the least.

Each of them needs its arithmetic, and must read its operands and write its result once. At the highest speeds that the
machine reaches in a large matrix product and in a large copy, it takes at least the longer of the two times. What
stands between them (activations, permutations, transforms, updates of weights) is not counted: the floor is below what
any implementation of the same convolutions can reach.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_ROUNDS = 20
_MATRIX = {"cpu": 2048}
_LARGE_MATRIX = 8192
_COPIED = {"cpu": 2**26}
_LARGE_COPY = 2**30


class Contraction(NamedTuple):
    """A convolution or a product of matrices."""

    operations: int
    bytes: int


class Peaks(NamedTuple):
    """What a machine reaches, each second."""

    operations: float
    bytes: float


class ContractionCounter(TorchDispatchMode):
    """Lists every convolution and product of matrices that runs within it, forward and backward.

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
            # In inference mode, operators arrive here that are made of others.
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
        """Seconds below which these contractions cannot be done, one after the other."""
        return sum(max(each.operations / peaks.operations, each.bytes / peaks.bytes) for each in self.contractions)


def peaks_of(device: torch.device, dtype: torch.dtype = torch.float32) -> Peaks:
    """The fastest of a few large matrix products, and of a few large copies (read and written bytes)."""
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
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        function()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)
