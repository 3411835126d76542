"""The benchmark of all layers: who takes turns with whom, and the ratios of its table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import layers
from benchmarks.layer_list import layer_class, layer_names
from benchmarks.layers import (
    FROM_ORTHOGONIUM,
    LIPNET,
    NETWORKS,
    PEER,
    PLAIN,
    PUBLIC,
    TWO_CONVOLUTIONS,
    PlainPotential,
    contestants_of,
    main,
    measure,
    report,
)
from benchmarks.lipconvnet import KINDS, plain_convolution
from lipnet.layers import GroupAndShuffle


def test_every_layer_has_a_public_counterpart() -> None:
    assert set(layer_names()) <= PUBLIC.keys()
    assert {*FROM_ORTHOGONIUM, *TWO_CONVOLUTIONS} <= PUBLIC.keys()


@pytest.mark.cover(0)
@pytest.mark.parametrize("name", layer_names())
def test_lipnets_layer_takes_turns_with_its_plain_counterpart(name: str) -> None:
    found = contestants_of(name)
    assert type(found[LIPNET](8, 8)) is layer_class(name)
    grouped = contestants_of(name, groups=2)[LIPNET](8, 8)
    assert isinstance(grouped, GroupAndShuffle)
    assert (grouped.spatial.groups, type(grouped.pointwise)) == (2, nn.Identity)
    x = torch.rand(2, 8, 8, 8)
    assert found[PLAIN](8, 16, kernel_size=3, stride=2)(x).shape == (2, 16, 4, 4)


def test_a_missing_package_leaves_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(layers.ORTHOGONIUM), "missing", lambda self: True)
    assert PEER not in contestants_of("soc")
    monkeypatch.setattr(layers, "layer_factory", lambda name: plain_convolution)
    assert contestants_of("cayley")[PEER] is PUBLIC["cayley"]


def test_two_convolutions_have_the_channels_of_the_residual_layer() -> None:
    block = PlainPotential(8, 16, 3, 2)
    assert (block.first.in_channels, block.first.out_channels, block.second.out_channels) == (32, 32, 16)


def test_a_plain_stride_by_space_to_depth_has_four_times_the_products() -> None:
    found = contestants_of("space-to-depth")
    made = {name: found[name](8, 16, kernel_size=3, stride=2) for name in (LIPNET, PLAIN)}
    x = torch.rand(2, 8, 8, 8)
    assert made[LIPNET](x).shape == made[PLAIN](x).shape == (2, 16, 4, 4)
    weights = {name: sum(each.numel() for each in layer.parameters()) - 16 for name, layer in made.items()}
    assert weights[LIPNET] == 4 * weights[PLAIN]


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_classify_images(network: str) -> None:
    with torch.device("meta"):
        model = NETWORKS[network](plain_convolution)
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, 100)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == {"LipConvNet-15": 15, "XS": 11}[network]
    if network == "XS":
        assert sum(each.weight.numel() for each in convolutions[1:]) == 18 * (16**2 + 32**2 + 64**2 + 128**2 + 256**2)


def test_times_are_positive_and_reported_as_ratios() -> None:
    made = {name: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 100)) for name in (LIPNET, PLAIN)}
    times = measure(made, [1, 2], 0.0, torch.device("cpu"))
    assert all(times[batch][name][kind] > 0 for batch in (1, 2) for name in made for kind in KINDS)
    seconds = {LIPNET: dict.fromkeys(KINDS, 3.0), PLAIN: dict.fromkeys(KINDS, 2.0), PEER: dict.fromkeys(KINDS, 6.0)}
    rows = {"soc": seconds, "aol": {name: seconds[name] for name in (LIPNET, PLAIN)}}
    table = report({"XS": {"32": rows}})
    cells = [list(column.cells) for column in table.columns]
    assert cells[2] == ["soc", "aol"]
    assert [column[0] for column in cells[3:]] == ["1.50", "3.00", "2.00"] * 2
    assert [column[1] for column in cells[3:]] == ["1.50", "-", "-"] * 2


@pytest.mark.slow
def test_the_command_keeps_other_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "layers.json"
    for batch in ("2", "3"):
        command = ["layers", "--only", "soc", "--networks", "XS", "--batch", batch, "--seconds", "0"]
        monkeypatch.setattr(sys, "argv", [*command, "--output", str(output)])
        main()
    text = output.read_text()
    assert '"2"' in text
    assert '"3"' in text
