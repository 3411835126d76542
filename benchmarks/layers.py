"""Time of each 1-Lipschitz layer beside its plain convolution and the fastest public implementation.

    python -m benchmarks.layers --output benchmarks/layers_cpu.json

The networks are LipConvNet-15 with 32 initial channels, and one of the size of XS in arXiv 2311.16833. It has two 3 x 3
convolutions in each of five stages, from 16 channels on 32 x 32 pixels to 256 on 2 x 2. Only the convolutions differ;
the head is ``nn.Linear`` everywhere. A training step is forward, backward and SGD with momentum.

The peer is orthogonium's layer for AOC, AOL, BCOP and SOC, exported to plain convolutions for the evaluation, and the
published formula in plain torch for the others (`benchmarks.peer_layers`, `benchmarks.published_layers`). The plain
counterpart is one ``nn.Conv2d`` with zero padding, and two with a ReLU between them for CPL and SLL. Layer, peer and
counterpart take turns in every round until ``--seconds`` are used up; the figures are ratios of medians. Layers whose
package is not installed have no peer. Other layers, networks and batch sizes stay in the output file.

A stride of 2 by space-to-depth has four times the products of a native one. The row "space-to-depth" is the plain
network with such strides, which tells what they cost.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.common import earlier, machine, medians_in_turn, write_json
from benchmarks.layer_list import Factory, layer_factory, layer_names, over_groups
from benchmarks.lipconvnet import KINDS, Contestant, Setting, plain_convolution
from benchmarks.peer_layers import PEERS, adaptive_soc, aoc, aol, bcop, exportable, exported, versions
from benchmarks.published_layers import PublishedBRO, PublishedCayley, PublishedCPL, PublishedLOT, PublishedSLL
from lipnet.functional import space_to_depth
from lipnet.layers import MaxMinPermuted
from lipnet.models import LipConvNet

LIPNET, PEER, PLAIN = CONTESTANTS = ("lipnet", "peer", "plain")
ORTHOGONIUM = PEERS["orthogonium AOC"]
# Wide enough for the cells of the Markdown table.
_WIDTH = 150
# Median seconds: network -> batch -> layer -> contestant -> kind.
Results = dict[str, dict[str, dict[str, dict[str, dict[str, float]]]]]


class PlainSpaceToDepth(nn.Module):
    """A plain convolution whose stride is space-to-depth."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.convolution = plain_convolution(in_channels * stride**2, out_channels, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.convolution(space_to_depth(x, (self.stride, self.stride)))
        return result


class PlainPotential(nn.Module):
    """Two plain convolutions with a ReLU, as in CPL and SLL, and c = max(in, out) channels between them."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        channels = max(in_channels * stride**2, out_channels)
        self.stride, padding = stride, kernel_size // 2
        self.first = nn.Conv2d(in_channels * stride**2, channels, kernel_size, padding=padding)
        self.second = nn.Conv2d(channels, out_channels, kernel_size, padding=padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(nn.functional.pixel_unshuffle(x, self.stride)).relu())
        return result


PUBLIC: dict[str, Factory] = {
    "aoc": aoc,
    "aol": aol,
    "bcop": bcop,
    "bro": PublishedBRO,
    "cayley": PublishedCayley,
    "cpl": PublishedCPL,
    "lot": PublishedLOT,
    "sll": PublishedSLL,
    "soc": adaptive_soc,
}
FROM_ORTHOGONIUM = ("aoc", "aol", "bcop", "soc")
TWO_CONVOLUTIONS = ("cpl", "sll")
SPACE_TO_DEPTH = "space-to-depth"


def lipconvnet(conv: Factory) -> nn.Sequential:
    """Return LipConvNet-15 with 32 initial channels and a plain head."""
    return LipConvNet(conv=conv, activation=MaxMinPermuted, head=nn.Linear)


def extra_small(conv: Factory) -> nn.Sequential:
    """Return a network with two convolutions in each stage; its transitions between stages have no weights."""
    network = nn.Sequential(nn.Conv2d(3, 16, 1))
    for channels in (16, 32, 64, 128, 256):
        for _ in range(2):
            network.extend([conv(channels, channels, kernel_size=3, stride=1), MaxMinPermuted()])
        # Half of the channels, then space-to-depth: twice the channels, a quarter of the pixels.
        network.extend([_FirstHalf(), nn.PixelUnshuffle(2)])
    return network.extend([nn.Flatten(), nn.Linear(512, 100)])


class _FirstHalf(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, : x.shape[1] // 2]


NETWORKS: dict[str, Callable[[Factory], nn.Sequential]] = {"LipConvNet-15": lipconvnet, "XS": extra_small}


def contestants_of(layer: str, groups: int | None = None) -> dict[str, Factory]:
    """Return the convolutions that take turns: lipnet's, the peer's if its package is installed, and the plain one.

    Args:
        layer: name in `benchmarks.layer_list`, or "space-to-depth" for a plain convolution with such strides.
        groups: compare group-and-shuffle (groups, -) over lipnet's layer instead.
    """
    if layer == SPACE_TO_DEPTH:
        return {LIPNET: PlainSpaceToDepth, PLAIN: plain_convolution}
    own = layer_factory(layer) if groups is None else over_groups(layer, (groups, None))
    found = {LIPNET: own, PLAIN: PlainPotential if layer in TWO_CONVOLUTIONS else plain_convolution}
    if layer in PUBLIC and not (layer in FROM_ORTHOGONIUM and ORTHOGONIUM.missing()):
        found[PEER] = PUBLIC[layer]
    return found


def measure(
    networks: Mapping[str, nn.Module], batches: Sequence[int], budget: float, device: torch.device
) -> dict[int, dict[str, dict[str, float]]]:
    """Return median seconds for each batch size, network and kind, after a round that warms up.

    All training steps come first, so that the evaluations prepare their operands once for all batch sizes.

    Args:
        networks: networks for images (3, 32, 32), by name; they take turns.
        batches: numbers of images.
        budget: seconds for each kind and batch size, after which no further round begins; two rounds are always
            measured.
        device: device of the networks.
    """
    running = {name: Contestant(lambda made=made: made, Setting(device)) for name, made in networks.items()}  # type: ignore[misc]
    result: dict[int, dict[str, dict[str, float]]] = {batch: {name: {} for name in networks} for batch in batches}
    for kind, method in zip(KINDS, ("training_step", "evaluation"), strict=True):
        for each in running.values():
            each.model.train(kind == KINDS[0])
            if kind == KINDS[1] and exportable(each.model):
                exported(each.model)
        for batch in batches:
            images, labels = torch.rand(batch, 3, 32, 32, device=device), torch.randint(100, (batch,), device=device)
            turns = {name: partial(getattr(each, method), images, labels) for name, each in running.items()}
            for name, value in medians_in_turn(turns, device, budget=budget, least=2).items():
                result[batch][name][kind] = value
    return result


def report(results: Results) -> Table:
    """Return a table of three ratios for each kind: lipnet to plain, peer to plain, and peer to lipnet."""
    table = Table(box=box.MARKDOWN, title="multiples of the plain convolution, and of lipnet")
    for heading in ("network", "batch", "layer"):
        table.add_column(heading, no_wrap=True)
    for kind in KINDS:
        for heading in ("lipnet", "peer", "peer / lipnet"):
            table.add_column(f"{kind}, {heading}", justify="right")
    for network, batches in results.items():
        for batch, layers in batches.items():
            for layer, times in layers.items():
                pairs = ((LIPNET, PLAIN), (PEER, PLAIN), (PEER, LIPNET))
                cells = (_ratio(times, *pair, kind) for kind in KINDS for pair in pairs)
                table.add_row(network, batch, layer, *cells)
    return table


def _ratio(times: dict[str, dict[str, float]], above: str, below: str, kind: str) -> str:
    return f"{times[above][kind] / times[below][kind]:.2f}" if above in times else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*layer_names(), SPACE_TO_DEPTH]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="layers; default: all")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each layer, network, batch and kind")
    parser.add_argument("--groups", type=int, help="group-and-shuffle (GROUPS, -) over each layer, named gs_LAYER")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON file; other entries stay in it")
    arguments = parser.parse_args()
    if min(arguments.batch) < 1:
        parser.error(f"batch must be at least 1, got {arguments.batch}")

    console = Console(width=max(_WIDTH, Console().width))
    device, output = torch.device(arguments.device), arguments.output
    about = machine(device) | {"packages": versions(), "seconds": arguments.seconds}
    content = earlier(output, about)
    results: Results = content.setdefault("median_seconds", {})
    for layer, network in product(arguments.only, arguments.networks):
        torch.manual_seed(0)
        contestants = contestants_of(layer, arguments.groups)
        made = {name: NETWORKS[network](conv) for name, conv in contestants.items()}
        name = layer if arguments.groups is None else f"gs_{layer}"
        for batch, times in measure(made, arguments.batch, arguments.seconds, device).items():
            results.setdefault(network, {}).setdefault(str(batch), {})[name] = times
        if output is not None:
            write_json(output, content | {"machine": about})
    console.print(report(results))
    console.print(", ".join(f"{key} {value}" for key, value in about.items()))


if __name__ == "__main__":
    main()
