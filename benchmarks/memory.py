"""Peak memory of a training step of LipConvNet-15, beside a plain convolutional network of the same shapes.

    python -m benchmarks.memory --output benchmarks/memory_cpu.json

Each network runs in its own process: 32 initial channels, images 3 x 32 x 32, 100 classes. A step is forward, backward
and SGD with momentum. The second step is measured, since the first allocates gradients and momentum.

*Live bytes*: the peak, during the step, of the memory that torch's allocator has handed out and not yet taken back. It
includes parameters, buffers, gradients, momentum, images, tensors saved for backward, and the temporary memory of
operators, such as blocked layouts and scratch memory of the convolution library. On the CPU it is the sum of the
profiler's memory events; on an accelerator it is the allocator's own peak.

*Resident bytes* (Linux, CPU): growth of the process's peak resident size (VmHWM) from before the network exists. It
includes the pages of executed code and the overhead of the system's allocator, and varies by a few per cent.

The second table names the operators that allocated the blocks live at the peak. ``--only`` and ``--batch`` measure a
part, which replaces that part of the output file.
"""

import argparse
import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.common import earlier, machine, write_json
from benchmarks.lipconvnet import PLAIN, VARIANTS, Contestant, Setting
from lipnet.layers import GSSOC, MaxMinPermuted
from lipnet.models import LipConvNet

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    PLAIN: VARIANTS[PLAIN],
    "lipnet GS-SOC (4,-)": VARIANTS["lipnet GS-SOC (4,-)"],
    "lipnet GS-SOC (4,-), recompute": partial(
        LipConvNet, conv=partial(GSSOC, groups=(4, None), recompute=True), activation=MaxMinPermuted
    ),
    "lipnet SOC": VARIANTS["lipnet SOC"],
    "published GS-SOC (4,-)": VARIANTS["published GS-SOC (4,-)"],
}
MEASURED = "measured step"
_HOLDERS = 12
_STATUS = Path("/proc/self/status")


def peak_of_step(name: str, batch: int, device: str) -> dict[str, Any]:
    """Measure one network of `NETWORKS` on random images, see `peak_of`."""
    images, labels = torch.rand(batch, 3, 32, 32, device=device), torch.randint(100, (batch,), device=device)
    return peak_of(NETWORKS[name], images, labels)


def peak_of(make: Callable[[], nn.Module], images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Measure the memory of a training step.

    Returns:
        ``live`` and, for a CPU with Linux, ``resident``: peaks in bytes; for a CPU, ``holders``: bytes of the live peak
        by operator.
    """
    if images.device.type != "cpu":
        return {"live": _peak_of_accelerator(make, images, labels)}
    before = _status("VmRSS")
    _two_steps(make, images, labels)
    after = _status("VmHWM")
    resident = {} if before is None or after is None else {"resident": after - before}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        # Allocate copies here, so that images and labels count, too.
        _two_steps(make, images.clone(), labels.clone())
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    live, holders = peak_of_trace(events)
    return {"live": live, **resident, "holders": dict(holders.most_common(_HOLDERS))}


def peak_of_trace(events: Iterable[dict[str, Any]]) -> tuple[int, Counter[str]]:
    """Return the peak of live bytes within the measured step, and the part that each operator allocated.

    Args:
        events: events of a profiler's trace, memory events included, with a range named ``"measured step"``.
    """
    blocks: dict[int, tuple[int, str]] = {}
    live = peak = 0
    at_peak: dict[int, tuple[int, str]] = {}
    for address, size, operators in _allocations(events):
        live += size
        if size > 0:
            blocks[address] = size, _label(operators)
        else:
            blocks.pop(address, None)
        if live > peak and MEASURED in operators:
            peak, at_peak = live, dict(blocks)
    holders: Counter[str] = Counter()
    for size, label in at_peak.values():
        holders[label] += size
    return peak, holders


def _allocations(events: Iterable[dict[str, Any]]) -> Iterator[tuple[int, int, list[str]]]:
    """Yield the address, the bytes (negative when freed) and the running operators, outermost first."""
    running: list[tuple[float, str]] = []
    ranges = (event for event in events if event.get("cat") in ("cpu_op", "user_annotation", "cpu_instant_event"))
    for event in sorted(ranges, key=lambda event: (event["ts"], -event.get("dur", 0))):
        while running and running[-1][0] < event["ts"]:
            running.pop()
        if event["name"] == "[memory]":
            arguments = event["args"]
            yield arguments["Addr"], arguments["Bytes"], [name for _, name in running]
        elif "dur" in event:
            running.append((event["ts"] + event["dur"], event["name"]))


def _label(operators: Sequence[str]) -> str:
    """Join the two outermost operators and the innermost one."""
    inside = [name.removeprefix("autograd::engine::evaluate_function: ") for name in operators if name != MEASURED]
    return " / ".join(dict.fromkeys([*inside[:2], *inside[-1:]])) or "outside of operators"


def _two_steps(make: Callable[[], nn.Module], images: Tensor, labels: Tensor) -> None:
    with record_function("first step"):
        each = Contestant(make, Setting(images.device))
        each.training_step(images, labels)
    with record_function(MEASURED):
        each.training_step(images, labels)


def _peak_of_accelerator(make: Callable[[], nn.Module], images: Tensor, labels: Tensor) -> int:
    each = Contestant(make, Setting(images.device))
    each.training_step(images, labels)
    torch.accelerator.reset_peak_memory_stats()
    each.training_step(images, labels)
    return torch.accelerator.max_memory_allocated()


def _status(field: str) -> int | None:
    """Return a size of this process in bytes, or None if the system does not report it."""
    if not _STATUS.exists():
        return None
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(lines[field].removesuffix("kB")) * 1024


def measure(names: Sequence[str], batches: Sequence[int], device: str) -> dict[int, dict[str, dict[str, Any]]]:
    """Measure every network for every batch size, each in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        return {
            batch: {name: pool.submit(peak_of_step, name, batch, device).result() for name in names}
            for batch in batches
        }


def report(results: dict[int, dict[str, dict[str, Any]]]) -> Table:
    """Return a table of peaks in MiB and as multiples of the plain network's peak."""
    headings = (f"{kind}, batch {batch}" for batch in results for kind in ("live", "resident"))
    table = Table("network", *headings, title="peak memory of a training step")
    for name in next(iter(results.values())):
        row = (_cell(peaks, name, kind) for peaks in results.values() for kind in ("live", "resident"))
        table.add_row(name, *row)
    return table


def _cell(peaks: dict[str, dict[str, Any]], name: str, kind: str) -> str:
    if kind not in peaks[name]:
        return "-"
    return f"{peaks[name][kind] / 2**20:.0f} MiB, x {peaks[name][kind] / peaks[PLAIN][kind]:.2f}"


def report_of_holders(results: dict[int, dict[str, dict[str, Any]]], most: int = 6) -> Table:
    """Return a table of the operators that allocated most of the live memory, for the largest batch."""
    batch = max(results)
    table = Table("network", "MiB", "made by", title=f"live at the peak, batch {batch}")
    for name, peak in results[batch].items():
        for label, size in list(peak.get("holders", {}).items())[:most]:
            table.add_row(name, f"{size / 2**20:.1f}", label)
    return table


def write(results: dict[int, dict[str, dict[str, Any]]], about: dict[str, Any], output: Path) -> None:
    """Write the peaks to a JSON file, which keeps the peaks of other networks and batch sizes."""
    peaks = earlier(output, about).get("peak_bytes", {})
    for batch, measured in results.items():
        peaks.setdefault(str(batch), {}).update(measured)
    write_json(output, {"machine": about, "peak_bytes": peaks})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128])
    others = [name for name in NETWORKS if name != PLAIN]
    parser.add_argument("--only", nargs="+", choices=others, default=others)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON file for the peaks in bytes, completed if it exists")
    arguments = parser.parse_args()

    names = [PLAIN, *arguments.only]
    about = machine(torch.device(arguments.device))
    earlier(arguments.output, about)  # refuse the file of another machine before measuring
    results = measure(names, arguments.batch, arguments.device)
    console = Console()
    console.print(report(results))
    console.print(report_of_holders(results))
    console.print(", ".join(f"{key} {value}" for key, value in about.items()))
    if arguments.output is not None:
        write(results, about, arguments.output)


if __name__ == "__main__":
    main()
