"""Timing, facts on the machine, JSON files, tables and exact comparison, shared by the benchmarks."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from lipnet.files import atomic_write


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that one call takes, until the device has finished its work."""
    start = time.perf_counter()
    function()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start


def machine(device: torch.device) -> dict[str, Any]:
    """Return the name of the device, the number of threads and the version of torch."""
    # Import it here, because it imports Lightning, which takes seconds.
    from lipnet.training.run_record import processor

    name = processor()
    if device.type != "cpu":
        name = torch.cuda.get_device_name(device)
    return {"device": f"{device} ({name})", "threads": torch.get_num_threads(), "torch": torch.__version__}


def resident_bytes(ru_maxrss: int) -> int:
    """Return the peak resident size that ``getrusage`` or ``wait4`` reports, in bytes."""
    # Linux reports kibibytes, macOS bytes.
    return ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def write_json(path: Path, content: Any, indent: int = 2) -> None:
    """Write a JSON file in one step: an interrupted benchmark leaves the previous file."""
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=indent, ensure_ascii=False).encode() + b"\n")


def figure_table(*headings: str, **settings: Any) -> Table:
    """Return an empty table: names in the first column, figures aligned right in the others, none of them wrapped."""
    table = Table(**settings)
    for heading in headings:
        table.add_column(heading, justify="right" if table.columns else "left", no_wrap=True)
    return table


def identical(one: Any, other: Any) -> bool:
    """Return whether nested dicts, lists and tuples are equal, tensors bit for bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        same_kind = one.dtype == other.dtype and one.shape == other.shape
        return bool(same_kind and one.numpy().tobytes() == other.numpy().tobytes())
    if isinstance(one, dict):
        return list(one) == list(other) and all(identical(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(identical, one, other))
    return bool(one == other)
