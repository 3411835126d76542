"""Time of a training step in bfloat16, beside the same step in float32.

    python -m benchmarks.precision --output benchmarks/precision_cpu.json

The command times forward and backward of each layer with and without autocast to bfloat16, at the widths of
LipConvNet and wider, and the step of Muon for the weights of such layers. Both ways take turns in every round. The
figures are medians, in milliseconds, and the speed in bfloat16 as a multiple of the speed in float32. Above 1,
``trainer.precision=bf16-mixed`` pays.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.common import figure_table, machine, medians_in_turn, write_json
from benchmarks.layer_list import layer_factory, layer_names
from lipnet.training.muon import blocks, nearly_orthogonal

CPU = torch.device("cpu")
BATCH = 128
# Channels of the layer, height and width of its maps.
SHAPES = ((32, 16), (64, 16), (128, 8), (256, 8))
# Shapes of the weights whose steps are timed: of grouped and plain kernels, and of a 1 x 1 kernel.
WEIGHTS = ((128, 32, 3, 3), (512, 128, 3, 3), (256, 256, 3, 3), (512, 512, 1, 1))


def measure_layer(name: str, channels: int, size: int, rounds: int) -> dict[str, float]:
    """Return milliseconds and speed-up of a layer's forward and backward pass, for maps of ``size`` x ``size``."""
    torch.manual_seed(0)
    layer = layer_factory(name)(channels, channels, kernel_size=3)
    maps = torch.rand(BATCH, channels, size, size)

    def step(dtype: torch.dtype) -> None:
        x = maps.to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            result: Tensor = layer(x)
        result.backward(torch.ones_like(result))

    return _compare(lambda: step(torch.float32), lambda: step(torch.bfloat16), rounds)


def measure_muon(shape: Sequence[int], rounds: int) -> dict[str, float]:
    """Return milliseconds and speed-up of the iteration that makes a step of Muon nearly orthogonal."""
    torch.manual_seed(0)
    matrices = blocks(torch.randn(*shape))

    def step(fast: bool) -> None:
        with patch("lipnet.training.muon.multiplies_bfloat16_fast", lambda device: fast):
            nearly_orthogonal(matrices)

    return _compare(lambda: step(False), lambda: step(True), rounds)


def _compare(in_float32: Callable[[], None], in_bfloat16: Callable[[], None], rounds: int) -> dict[str, float]:
    medians = medians_in_turn({"float32": in_float32, "bfloat16": in_bfloat16}, CPU, rounds=rounds)
    one, other = (1e3 * value for value in medians.values())
    return {"float32_ms": one, "bfloat16_ms": other, "speedup": one / other}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layers", nargs="+", choices=layer_names(), default=layer_names(), metavar="NAME")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    settings = parser.parse_args(arguments)
    console = Console(width=120)
    table = figure_table("layer", *(f"{channels} channels, {size} x {size}" for channels, size in SHAPES))
    layers: dict[str, dict[str, Any]] = {}
    for name in settings.layers:
        layers[name] = {
            str(channels): measure_layer(name, channels, size, settings.rounds) for channels, size in SHAPES
        }
        table.add_row(
            name, *(f"{each['float32_ms']:.1f} ms, x {each['speedup']:.2f}" for each in layers[name].values())
        )
    console.print(table)
    table = figure_table("step of Muon", *("x".join(map(str, shape)) for shape in WEIGHTS))
    muon = {"x".join(map(str, shape)): measure_muon(shape, settings.rounds) for shape in WEIGHTS}
    table.add_row("", *(f"{each['float32_ms']:.1f} ms, x {each['speedup']:.2f}" for each in muon.values()))
    console.print(table)
    console.print("milliseconds in float32, and the speed in bfloat16 as a multiple", markup=False)
    if settings.output is not None:
        write_json(settings.output, machine(CPU) | {"batch": BATCH, "layers": layers, "muon": muon})


if __name__ == "__main__":
    main()
