"""Timing, facts on the machine, JSON files, tables and exact comparison, shared by the benchmarks."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from itertools import count
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from lipnet.files import atomic_write


def seconds(
    function: Callable[[], object], device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the seconds that one call takes, until the device has finished its work."""
    start = clock()
    function()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return clock() - start


def medians_in_turn(
    turns: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    rounds: float = inf,
    budget: float = inf,
    least: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median seconds of each function, over rounds in which all take turns, after a round that warms up.

    Args:
        turns: the functions, by name.
        device: device on which they compute.
        rounds: number of measured rounds.
        budget: seconds after which no further round begins.
        least: number of rounds that are measured whatever the budget.
        clock: function that returns the time in seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in turns}
    start = time.perf_counter()
    for number in count():
        if number > rounds or (number > least and time.perf_counter() - start > budget):
            break
        for name, turn in turns.items():
            times[name].append(seconds(turn, device, clock))
    return {name: median(measured[1:]) for name, measured in times.items()}


def machine(device: torch.device) -> dict[str, Any]:
    """Return the name of the device, the number of threads and the version of torch."""
    # Import it here, because it imports Lightning, which takes seconds.
    from lipnet.training.run_record import hardware

    about = hardware(device)
    name = about["accelerator"] or about["processor"]
    return {"device": f"{device} ({name})", "threads": about["threads"], "torch": torch.__version__}


def earlier(path: Path | None, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a file that a benchmark completes, empty if there is none.

    Raises:
        ValueError: if its figures come from another machine, other versions or other settings.
    """
    content: dict[str, Any] = json.loads(path.read_text()) if path is not None and path.exists() else {}
    if content.get("machine", about) != about:
        raise ValueError(f"{path} was measured on {content['machine']}, not on {about}: name another output file")
    return content


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
