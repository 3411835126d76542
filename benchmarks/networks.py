"""Images per second of the networks beside LipConvNet, in training and evaluation, in one run.

    python -m benchmarks.networks --batch 256 --device cuda --autocast --channels-last

The networks are LiResNet, and LipNeXt with dense and with group-and-shuffle matrices, as in docs/networks.md but
narrower, and LipConvNet for comparison. All take turns in every round, so that other load on the machine affects them
alike.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.common import write_json
from benchmarks.lipconvnet import KINDS, add_setting, measure, setting_of
from lipnet.layers import BRO, GSSOC, MaxMinPermuted, NormalizedLinear
from lipnet.models import LipConvNet, LipNeXt, LiResNet

SHAPES = {
    # Width and depth of LiResNet, width and depth of LipNeXt, initial channels and depth of LipConvNet.
    "full": ((256, 12), (512, 16), (64, 10)),
    "tiny": ((16, 2), (32, 2), (8, 5)),
}


def networks(shapes: str) -> dict[str, Callable[[], nn.Module]]:
    """Return factories of the networks by name, for 32 x 32 images and 100 classes."""
    (width, depth), (channels, blocks), (initial, layers) = SHAPES[shapes]
    head = NormalizedLinear
    lires = partial(LiResNet, 100, channels=width, depth=depth, dense_features=4 * width, dense_depth=4, head=head)
    lipnext = partial(LipNeXt, 100, channels=channels, depth=blocks, parametrization="manifold", head=head)
    gs_soc = partial(GSSOC, groups=(4, None))
    return {
        "LipConvNet, GS-SOC (4,-)": partial(
            LipConvNet, 100, depth=layers, initial_channels=initial, conv=gs_soc, activation=MaxMinPermuted, head=head
        ),
        "LiResNet": lires,
        "LiResNet, BRO": partial(lires, block=partial(BRO, padding_mode="circular")),
        "LipNeXt": lipnext,
        "GS-LipNeXt, 16 groups": partial(lipnext, groups=16),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds after the warm-up")
    parser.add_argument("--shapes", choices=SHAPES, default="full", help="tiny: to try the command")
    add_setting(parser)
    parser.add_argument("--output", type=Path, help="JSON file for images per second")
    arguments = parser.parse_args()

    setting, batch = setting_of(arguments), arguments.batch
    times = measure(networks(arguments.shapes), batch, arguments.rounds, setting)
    speeds = {name: {kind: batch / each for kind, each in kinds.items()} for name, kinds in times.items()}
    table = Table("network", *KINDS, title=f"images per second, batch {batch}")
    for name, kinds in speeds.items():
        table.add_row(name, *(f"{kinds[kind]:.0f}" for kind in KINDS))
    about = setting.facts() | {"batch": batch, "rounds": arguments.rounds}
    console = Console()
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in about.items()))
    if arguments.output is not None:
        write_json(arguments.output, {"machine": about, "images_per_second": speeds})


if __name__ == "__main__":
    main()
