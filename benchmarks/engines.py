"""Time of one SOC layer by each of its engines, as multiples of a plain convolution, and what ``engine="auto"`` takes.

    python -m benchmarks.engines --output benchmarks/engines_cpu.json --plot docs/images/engines_time.png

A cell is a mode (training: forward and backward; evaluation: what depends on the weights is kept), a number of channels
and of groups and a size of maps; 3 x 3 kernels, or 1 x 1 with ``--kernel-size 1``. In a cell, the engines and
``nn.Conv2d`` without groups take turns in every round, and the figures are ratios of the fastest turns: whatever else
the machine does can only add to a time. An engine that would take far longer than a convolution is left out, and so is
a cell whose convolution alone takes too long.

Cells that the output file has already are not measured again. Measuring ends after ``--seconds``; another call goes on.
What ``"auto"`` takes is asked each time: after a change of that, the same command draws it anew.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.lipconvnet import machine, seconds
from lipnet.files import atomic_write
from lipnet.layers import SOC

PLAIN = "plain"
MODES = ("training", "evaluation")
CHANNELS = (8, 16, 32, 64, 128, 256)
SIZES = (2, 4, 8, 16, 32)
GROUPS = (1, 4)
# Name: padding mode and engine. A dense matrix costs the same with either padding.
ENGINES = {
    "series": ("zeros", "series"),
    "series, circular": ("circular", "series"),
    "spectral": ("circular", "spectral"),
    "dense": ("zeros", "dense"),
}
# By which names the engines of a padding mode go.
CANDIDATES = {
    "zeros": {"series": "series", "dense": "dense"},
    "circular": {"series": "series, circular", "spectral": "spectral", "dense": "dense"},
}
# Multiplications: of a plain convolution, and of one product of all matrices of an exact engine.
_LARGEST_CONVOLUTION = 2**31
_LARGEST_PRODUCT = {"training": 2**27, "evaluation": 2**32}
_ROUNDS = (4, 200)
_SECONDS_OF_A_CELL = 0.5


class Cell(NamedTuple):
    mode: str
    size: int
    channels: int
    groups: int
    kernel_size: int
    batch: int

    @property
    def key(self) -> str:
        """How it is called in the file."""
        groups = f"groups {self.groups}, {self.size} x {self.size} maps, kernel {self.kernel_size}, batch {self.batch}"
        return f"{self.mode}, {self.channels} channels, {groups}"

    @property
    def convolution(self) -> int:
        """Multiplications of a plain convolution."""
        return self.batch * (self.size * self.channels * self.kernel_size) ** 2

    def fits(self, engine: str) -> bool:
        """Whether the exponential of this engine is worth waiting for."""
        per_group = self.channels // self.groups
        if engine == "spectral":
            matrices, length = 4 * self.groups * self.size * (self.size // 2 + 1), per_group
        elif engine == "dense":
            matrices, length = self.groups, per_group * (self.size**2 if self.kernel_size > 1 else 1)
        else:
            return True
        return matrices * length**3 <= _LARGEST_PRODUCT[self.mode]


def cells(
    channels: Sequence[int], sizes: Sequence[int], groups: Sequence[int], kernel_size: int, batch: int
) -> Iterator[Cell]:
    """All cells, small maps first, without those whose convolution alone is too long."""
    for size, count, group, mode in product(sizes, channels, groups, MODES):
        cell = Cell(mode, size, count, group, kernel_size, batch)
        if cell.convolution <= _LARGEST_CONVOLUTION:
            yield cell


def measure(cell: Cell, device: torch.device) -> dict[str, Any]:
    """The cell with the fewest seconds of every engine."""
    torch.manual_seed(0)
    training = cell.mode == "training"
    x = torch.rand(cell.batch, cell.channels, cell.size, cell.size, device=device, requires_grad=training)
    turns = _turns(cell, x)
    times: dict[str, list[float]] = {name: [] for name in turns}
    for turn in turns.values():
        turn()
    start = time.perf_counter()
    for number in range(_ROUNDS[1]):
        if number >= _ROUNDS[0] and time.perf_counter() - start > _SECONDS_OF_A_CELL:
            break
        for name, turn in turns.items():
            times[name].append(seconds(turn, device))
    return {**cell._asdict(), "seconds": {name: min(measured) for name, measured in times.items()}}


def with_choices(measured: dict[str, Any]) -> dict[str, Any]:
    """The cell with the engine that ``"auto"`` takes now, with each padding mode: no matter of the measurement."""
    cell = Cell(**{name: measured[name] for name in Cell._fields})
    layers = {padding_mode: _layer(cell, padding_mode, torch.device("meta")) for padding_mode in CANDIDATES}
    size = (cell.size, cell.size)
    return {**measured, "auto": {mode: layer.choice(cell.batch, size).engine for mode, layer in layers.items()}}


def _turns(cell: Cell, x: Tensor) -> dict[str, Callable[[], None]]:
    run = _training if cell.mode == "training" else _evaluation
    plain = nn.Conv2d(cell.channels, cell.channels, cell.kernel_size, padding=cell.kernel_size // 2, device=x.device)
    turns = {PLAIN: partial(run, plain, x)}
    # Engines of a padding mode share a layer, so that what evaluation needs of the weights is computed once.
    layers = {padding_mode: _layer(cell, padding_mode, x.device) for padding_mode in CANDIDATES}
    for name, (padding_mode, engine) in ENGINES.items():
        if cell.fits(engine):
            turns[name] = partial(_with_engine, layers[padding_mode], engine, partial(run, layers[padding_mode], x))
    return turns


def _layer(cell: Cell, padding_mode: str, device: torch.device) -> SOC:
    settings: dict[str, Any] = {"groups": cell.groups, "padding_mode": padding_mode, "device": device}
    return SOC(cell.channels, cell.channels, cell.kernel_size, **settings).train(cell.mode == "training")


def _with_engine(layer: SOC, engine: str, run: Callable[[], None]) -> None:
    layer.engine = engine
    run()


def _training(layer: nn.Module, x: Tensor) -> None:
    result = layer(x)
    torch.autograd.grad(result, [x, *layer.parameters()], result.detach())


def _evaluation(layer: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        layer(x)


def ratios(cell: dict[str, Any]) -> dict[str, float]:
    """Each engine's time as a multiple of the plain convolution's."""
    times = cell["seconds"]
    return {name: times[name] / times[PLAIN] for name in ENGINES if name in times}


def lost_by_auto(cell: dict[str, Any], padding_mode: str) -> tuple[float, str]:
    """How many times the fastest engine's time what ``"auto"`` takes needs, and which the fastest is.

    Infinite if that was too slow to be measured.
    """
    times = cell["seconds"]
    names = {engine: name for engine, name in CANDIDATES[padding_mode].items() if name in times}
    fastest = min(names, key=lambda engine: times[names[engine]])
    taken = names.get(cell["auto"][padding_mode])
    return (times[taken] / times[names[fastest]] if taken else float("inf")), fastest


def report(measured: Sequence[dict[str, Any]]) -> Table:
    """Multiples of the plain convolution, a row for each cell; the engines that ``"auto"`` takes in bold."""
    table = Table(title="multiples of a plain convolution")
    for heading in ("mode", "maps", "channels", "groups", *ENGINES):
        table.add_column(heading, justify="left" if heading == "mode" else "right")
    for cell in measured:
        taken = {CANDIDATES[mode][engine] for mode, engine in cell["auto"].items()}
        multiples = ratios(cell)
        figures = [f"{multiples[name]:.2f}" if name in multiples else "-" for name in ENGINES]
        table.add_row(
            cell["mode"],
            *(str(cell[key]) for key in ("size", "channels", "groups")),
            *(f"[bold]{figure}[/]" if name in taken else figure for name, figure in zip(ENGINES, figures, strict=True)),
        )
    return table


def report_of_losses(measured: Sequence[dict[str, Any]], tolerated: float) -> Table:
    """The cells in which another engine than the one that ``"auto"`` takes is faster by more than is tolerated."""
    title = f"cells in which auto takes more than {tolerated} times as long as the fastest engine"
    table = Table("padding", "mode", "maps", "channels", "groups", "auto", "fastest", "times as long", title=title)
    for padding_mode, cell in product(CANDIDATES, measured):
        lost, fastest = lost_by_auto(cell, padding_mode)
        if lost > tolerated:
            where = (str(cell[key]) for key in ("mode", "size", "channels", "groups"))
            table.add_row(padding_mode, *where, cell["auto"][padding_mode], fastest, f"{lost:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=CHANNELS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="height and width of the maps")
    parser.add_argument("--groups", type=int, nargs="+", default=GROUPS)
    parser.add_argument("--kernel-size", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=140.0, help="for measuring in this call; 0: none")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, required=True, help="a JSON file: read if it exists, and completed")
    parser.add_argument("--plot", type=Path, help="a PNG file to draw these cells in")
    arguments = parser.parse_args()

    device = torch.device(arguments.device)
    wanted = list(cells(arguments.channels, arguments.sizes, arguments.groups, arguments.kernel_size, arguments.batch))
    results = json.loads(arguments.output.read_text()) if arguments.output.exists() else {"cells": {}}
    missing = [cell for cell in wanted if cell.key not in results["cells"]] if arguments.seconds > 0 else []
    about = machine(device)
    if missing and results.setdefault("machine", about) != about:
        parser.error(f"{arguments.output} was measured on {results['machine']}, not on {about}")
    start = time.perf_counter()
    for cell in missing:
        if time.perf_counter() - start < arguments.seconds:
            results["cells"][cell.key] = measure(cell, device)
    if missing:
        with atomic_write(arguments.output) as file:
            file.write(json.dumps(results, indent=1).encode() + b"\n")

    found = [with_choices(results["cells"][cell.key]) for cell in wanted if cell.key in results["cells"]]
    console = Console()
    console.print(report(found))
    console.print(report_of_losses(found, 1.15))
    where = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    console.print(f"{len(found)} of {len(wanted)} cells measured; {where}")
    if arguments.plot is not None:
        from benchmarks.engines_picture import plot_engines

        with atomic_write(arguments.plot) as file:
            plot_engines(found, arguments.kernel_size).savefig(file, format="png", dpi=150)


if __name__ == "__main__":
    main()
