"""Numbers of kernel launches, copies from the CPU, and waits for the device in LipConvNet-15.

    python -m benchmarks.launches --output benchmarks/launches.json

On an accelerator, kernel launches take most of the time of a small network. A copy from the CPU waits for all earlier
launches, and cannot be part of a CUDA graph. The command counts both on torch's meta device, which dispatches every
operation and computes none, in the forward and backward pass of the second step, without a compiler. Views and
allocations launch nothing and do not count. The networks come from `benchmarks.lipconvnet`.

Waits are operations whose result the CPU reads, such as ``torch.equal`` and ``Tensor.item``. The command counts them on
the CPU, and lets the weight caches treat it as an accelerator: in a training step, in a validation between two training
steps, and in an evaluation of prepared weights.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lipnet.layers.cache
from benchmarks.common import figure_table, write_json
from benchmarks.lipconvnet import PLAIN, VARIANTS
from lipnet.layers.estimated import estimated_scales
from lipnet.overrides import override_attributes

_READ_BY_THE_CPU = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero"}
_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


class Launches(NamedTuple):
    """Counts of one computation.

    Attributes:
        operations: number of operations that compute or copy something.
        copies: number of operations that copy from the CPU to the device; they are also in ``operations``.
    """

    operations: int
    copies: int


class LaunchCounter(TorchDispatchMode):
    """Context manager that counts the operations on tensors of the meta device.

    Example:
        >>> with LaunchCounter() as counter:
        ...     _ = torch.ones(2, 3, device="meta").t() + torch.ones(2).to("meta")
        >>> counter.launches
        Launches(operations=3, copies=1)
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches = Launches(0, 0)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view or func.overloadpacket.__name__ in _ALLOCATIONS or not _are_meta((args, kwargs, result)):
            return result
        operations, copies = self.launches
        is_copy = func.overloadpacket.__name__ in ("_to_copy", "copy_") and not args[-1].is_meta
        self.launches = Launches(operations + 1, copies + is_copy)
        return result


def _are_meta(values: Any) -> bool:
    return any(isinstance(each, Tensor) and each.is_meta for each in tree_leaves(values))


def launches_of(make: Callable[[], nn.Module]) -> Launches:
    """Count the launches of the forward and backward pass for a batch of 128 images."""
    model = make().to("meta")
    images, labels = torch.empty(128, 3, 32, 32, device="meta"), torch.empty(128, dtype=torch.int64, device="meta")
    for _ in range(2):
        model.zero_grad()
        counter = LaunchCounter()
        with counter:
            nn.functional.cross_entropy(model(images), labels).backward()
    return counter.launches


class WaitCounter(TorchDispatchMode):
    """Context manager that counts the operations whose result the CPU reads.

    Example:
        >>> with WaitCounter() as counter:
        ...     _ = bool((torch.ones(2) + 1).isfinite().all())
        >>> counter.waits
        1
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.waits += func.overloadpacket.__name__ in _READ_BY_THE_CPU
        return func(*args, **(kwargs or {}))


def waits_of(make: Callable[[], nn.Module], batch: int = 2) -> dict[str, int]:
    """Count the waits in a training step, a batch of validation, and an evaluation of prepared weights."""
    model, images = make(), torch.rand(batch, 3, 32, 32)

    def train() -> None:
        model.train()(images).square().sum().backward()

    def evaluate() -> None:
        with torch.no_grad():
            model.eval()(images)

    def validate() -> None:
        with estimated_scales(model):
            evaluate()

    counts = {}
    with override_attributes([lipnet.layers.cache], "waits_for_comparisons", lambda weight: True):
        for name, computation in (("training", train), ("validation", validate), ("evaluation", evaluate)):
            computation()
            with WaitCounter() as counter:
                computation()
            counts[name] = counter.waits
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file for the counts")
    arguments = parser.parse_args()

    counts = {name: launches_of(make) for name, make in VARIANTS.items()}
    waits = {name: waits_of(make) for name, make in VARIANTS.items()}
    headings = ("network", "operations", "copies from the CPU", *(f"waits, {name}" for name in waits[PLAIN]))
    table = figure_table(*headings)
    for name, launches in counts.items():
        table.add_row(name, *map(str, launches), *map(str, waits[name].values()))
    Console(width=120).print(table)
    if arguments.output is not None:
        networks = {name: {**each._asdict(), "waits": waits[name]} for name, each in counts.items()}
        write_json(arguments.output, {"torch": torch.__version__, "networks": networks})


if __name__ == "__main__":
    main()
