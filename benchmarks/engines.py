"""Time of a SOC layer with each engine, as a multiple of a plain convolution, and the choice of ``engine="auto"``.

    python -m benchmarks.engines --output benchmarks/engines_cpu.json --plot docs/images/engines_time.png

A cell is a mode (training: forward and backward; evaluation: with cached operands), a number of channels, a number of
groups and a size of feature maps; the kernel is 3 x 3, or 1 x 1 with ``--kernel-size 1``. In a cell, the engines and
``nn.Conv2d`` without groups take turns in every round. The figures are ratios of the fastest turns, because other load
can only add to a time. Engines far slower than a convolution are left out, and so are cells with a slow convolution.

Cells that the output file has are not measured again. Measuring ends after ``--seconds``; the next call resumes. The
file does not store the choice of ``"auto"``, so that tables and picture always show the present one.
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

from benchmarks.common import machine, seconds, write_json
from lipnet.files import atomic_write
from lipnet.layers import SOC

PLAIN = "plain"
MODES = ("training", "evaluation")
CHANNELS = (8, 16, 32, 64, 128, 256)
SIZES = (2, 4, 8, 16, 32)
GROUPS = (1, 4)
# Name: (padding mode, engine). A dense matrix costs the same with either padding mode.
ENGINES = {
    "series": ("zeros", "series"),
    "series, circular": ("circular", "series"),
    "spectral": ("circular", "spectral"),
    "dense": ("zeros", "dense"),
}
# Padding mode -> engine -> its name in ENGINES.
CANDIDATES = {
    "zeros": {"series": "series", "dense": "dense"},
    "circular": {"series": "series, circular", "spectral": "spectral", "dense": "dense"},
}
# Limits on the multiplications of the plain convolution, and of one product of all matrices of an engine.
_LARGEST_CONVOLUTION = 2**31
_LARGEST_PRODUCT = {"training": 2**27, "evaluation": 2**32}
_ROUNDS = (4, 200)  # at least, at most
_SECONDS_OF_A_CELL = 0.5


class Cell(NamedTuple):
    """Setting in which the engines are compared; ``size`` is the height and width of the feature maps."""

    mode: str
    size: int
    channels: int
    groups: int
    kernel_size: int
    batch: int

    @property
    def key(self) -> str:
        """Name of the cell in the output file."""
        groups = f"groups {self.groups}, {self.size} x {self.size} maps, kernel {self.kernel_size}, batch {self.batch}"
        return f"{self.mode}, {self.channels} channels, {groups}"

    @property
    def convolution(self) -> int:
        """Number of multiplications of the plain convolution."""
        return self.batch * (self.size * self.channels * self.kernel_size) ** 2

    def fits(self, engine: str) -> bool:
        """Return whether the engine is fast enough here to be measured."""
        per_group = self.channels // self.groups
        if engine == "spectral":
            # Half of the frequencies, because the maps are real; a complex product takes four real ones.
            matrices, length = 4 * self.groups * self.size * (self.size // 2 + 1), per_group
        elif engine == "dense":
            matrices, length = self.groups, per_group * (self.size**2 if self.kernel_size > 1 else 1)
        else:
            return True
        return matrices * length**3 <= _LARGEST_PRODUCT[self.mode]


def cells(
    channels: Sequence[int], sizes: Sequence[int], groups: Sequence[int], kernel_size: int, batch: int
) -> Iterator[Cell]:
    """Yield all cells whose plain convolution is fast enough, small feature maps first."""
    for size, count, group, mode in product(sizes, channels, groups, MODES):
        cell = Cell(mode, size, count, group, kernel_size, batch)
        if cell.convolution <= _LARGEST_CONVOLUTION:
            yield cell


def measure(cell: Cell, device: torch.device) -> dict[str, Any]:
    """Return the cell with the seconds of the fastest turn of every engine."""
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
    """Return the measured cell with the present choice of ``"auto"`` for each padding mode."""
    cell = Cell(**{name: measured[name] for name in Cell._fields})
    layers = {padding_mode: _layer(cell, padding_mode, torch.device("meta")) for padding_mode in CANDIDATES}
    size = (cell.size, cell.size)
    return {**measured, "auto": {mode: layer.choice(cell.batch, size).engine for mode, layer in layers.items()}}


def _turns(cell: Cell, x: Tensor) -> dict[str, Callable[[], None]]:
    run = _training if cell.mode == "training" else _evaluation
    plain = nn.Conv2d(cell.channels, cell.channels, cell.kernel_size, padding=cell.kernel_size // 2, device=x.device)
    turns: dict[str, Callable[[], None]] = {PLAIN: partial(run, plain, x)}
    # Engines of one padding mode share a layer.
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


def taken_by_auto(cell: dict[str, Any]) -> set[str]:
    """Return the names, in `ENGINES`, of the engines that ``"auto"`` chooses."""
    return {CANDIDATES[padding_mode][engine] for padding_mode, engine in cell["auto"].items()}


def ratios(cell: dict[str, Any]) -> dict[str, float]:
    """Return the time of each engine as a multiple of the plain convolution's."""
    times = cell["seconds"]
    return {name: times[name] / times[PLAIN] for name in ENGINES if name in times}


def lost_by_auto(cell: dict[str, Any], padding_mode: str) -> tuple[float, str]:
    """Return the time of ``"auto"``'s choice as a multiple of the fastest engine's, and the fastest engine.

    The multiple is infinite if the choice was too slow to be measured.
    """
    times = cell["seconds"]
    measured = {engine: times[name] for engine, name in CANDIDATES[padding_mode].items() if name in times}
    fastest = min(measured, key=measured.__getitem__)
    return measured.get(cell["auto"][padding_mode], float("inf")) / measured[fastest], fastest


def report(measured: Sequence[dict[str, Any]]) -> Table:
    """Return a table of multiples of the plain convolution, with the choices of ``"auto"`` in bold."""
    table = Table(title="multiples of a plain convolution")
    for heading in ("mode", "maps", "channels", "groups", *ENGINES):
        table.add_column(heading, justify="left" if heading == "mode" else "right")
    for cell in measured:
        taken = taken_by_auto(cell)
        multiples = ratios(cell)
        figures = [f"{multiples[name]:.2f}" if name in multiples else "-" for name in ENGINES]
        table.add_row(
            cell["mode"],
            *(str(cell[key]) for key in ("size", "channels", "groups")),
            *(f"[bold]{figure}[/]" if name in taken else figure for name, figure in zip(ENGINES, figures, strict=True)),
        )
    return table


def report_of_losses(measured: Sequence[dict[str, Any]], tolerated: float) -> Table:
    """Return a table of the cells in which ``"auto"`` takes more than ``tolerated`` times as long as the fastest."""
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
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="height and width of the feature maps")
    parser.add_argument("--groups", type=int, nargs="+", default=GROUPS)
    parser.add_argument("--kernel-size", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=140.0, help="time for measuring in this call; 0: none")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, required=True, help="JSON file, completed if it exists")
    parser.add_argument("--plot", type=Path, help="PNG file for a picture of these cells")
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
        write_json(arguments.output, results, indent=1)

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
