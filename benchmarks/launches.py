"""What a training step of LipConvNet-15 asks an accelerator for: how many operations, and what is copied to it.

    python -m benchmarks.launches --output benchmarks/launches.json

A small network waits for the launches of its operations, not for the operations; a copy from the CPU waits for all that
was launched before it, and cannot be part of a graph of launches. Both are counted on torch's meta device, where every
operation is dispatched as on an accelerator and none is computed: without a compiler, forward and backward, in the
second step, after what is made once. Views and allocations launch nothing and do not count. The networks are those of
`benchmarks.lipconvnet`.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.lipconvnet import VARIANTS
from lipnet.files import atomic_write

_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


class Launches(NamedTuple):
    """What was asked for.

    Attributes:
        operations: that compute or copy something.
        copies: among them, those from the CPU to the device.
    """

    operations: int
    copies: int


class LaunchCounter(TorchDispatchMode):
    """Counts the operations within it that have to do with tensors on the meta device.

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
    """Of the forward and backward pass of a step on images of 3 x 32 x 32."""
    model = make().to("meta")
    images, labels = torch.empty(128, 3, 32, 32, device="meta"), torch.empty(128, dtype=torch.int64, device="meta")
    for _ in range(2):
        model.zero_grad()
        with LaunchCounter() as counter:
            nn.functional.cross_entropy(model(images), labels).backward()
    return counter.launches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="a JSON file for the counts")
    arguments = parser.parse_args()

    counts = {name: launches_of(make) for name, make in VARIANTS.items()}
    table = Table(title="a training step")
    for column in ("network", "operations", "copies from the CPU"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name, launches in counts.items():
        table.add_row(name, *map(str, launches))
    Console().print(table)
    if arguments.output is not None:
        content = {"torch": torch.__version__, "networks": {name: each._asdict() for name, each in counts.items()}}
        with atomic_write(arguments.output) as file:
            file.write(json.dumps(content, indent=2).encode() + b"\n")


if __name__ == "__main__":
    main()
