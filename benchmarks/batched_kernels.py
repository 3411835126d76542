"""Time of computing the operands of several layers of one shape in one batched call, beside one call a layer.

    python -m benchmarks.batched_kernels --output benchmarks/batched_kernels_cpu.json

A network with layers of one shape could compute their kernels or frequency responses together. The command times the
operands of three equal 3 x 3 layers in training, forward and backward: layer by layer, and by ``torch.vmap`` over
stacked weights. Both take turns in every round. The figures are medians, in milliseconds, and the ratio of the two.
SOC has no operands beside its scaled filter, and is left out.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.common import figure_table, machine, medians_in_turn, write_json
from benchmarks.layer_list import layer_factory, layer_names
from lipnet.layers.operands import OperandLayer

LAYERS = 3
# Channels of the layer, height and width of its maps: from the first to the last stage of LipConvNet-15/32.
SHAPES = ((32, 32), (128, 8), (256, 4))


def operand_layers() -> list[str]:
    """Return the names of the layers that compute operands from their weights."""
    return [name for name in layer_names() if isinstance(layer_factory(name)(4, 4, kernel_size=3), OperandLayer)]


def measure(name: str, channels: int, size: int, rounds: int) -> dict[str, float]:
    """Return the median milliseconds of both ways, and their ratio, for maps of ``size`` x ``size``."""
    torch.manual_seed(0)
    layers = [_layer(name, channels) for _ in range(LAYERS)]
    weights = [[weight.detach().requires_grad_() for weight in layer.weights()] for layer in layers]
    stacked = [
        torch.stack([weight.detach() for weight in each]).requires_grad_() for each in zip(*weights, strict=True)
    ]

    def separate() -> None:
        for layer, each in zip(layers, weights, strict=True):
            _square(layer.compute_operands(*each, size=(size, size))).backward()

    def batched() -> None:
        _square(torch.vmap(lambda *each: layers[0].compute_operands(*each, size=(size, size)))(*stacked)).backward()

    medians = medians_in_turn({"separate": separate, "batched": batched}, torch.device("cpu"), rounds=rounds)
    one_by_one, together = (1e3 * value for value in medians.values())
    return {"separate_ms": one_by_one, "batched_ms": together, "ratio": together / one_by_one}


def _layer(name: str, channels: int) -> OperandLayer:
    layer = layer_factory(name)(channels, channels, kernel_size=3)
    if not isinstance(layer, OperandLayer):
        raise ValueError(f"layers must compute operands from their weights, got {name!r}")
    return layer


def _square(operands: Sequence[Tensor]) -> Tensor:
    """Return the sum of squares of all operands, which may be complex."""
    return torch.stack([each.abs().square().sum() for each in operands]).sum()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", nargs="+", default=operand_layers())
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    settings = parser.parse_args(arguments)
    table = figure_table("layer", *(f"{channels} channels, {size} x {size}" for channels, size in SHAPES))
    results: dict[str, dict[str, Any]] = {}
    for name in settings.layers:
        results[name] = {str(channels): measure(name, channels, size, settings.rounds) for channels, size in SHAPES}
        cells = (f"{each['separate_ms']:.1f} ms, x {each['ratio']:.2f}" for each in results[name].values())
        table.add_row(name, *cells)
    console = Console(width=120)
    console.print(table)
    console.print(
        "milliseconds of three layers one by one, and the time of one batched call as a multiple", markup=False
    )
    if settings.output is not None:
        write_json(settings.output, machine(torch.device("cpu")) | {"layers": results})


if __name__ == "__main__":
    main()
