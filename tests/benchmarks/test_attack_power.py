"""The rows of the attack's figures, for a hardly trained network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from benchmarks import attack_power
from benchmarks.attack_power import FACTORS, main, measured
from benchmarks.digits_network import CONFIG, stacked, trained_network
from lipnet.data import DigitsDataModule
from lipnet.models import build_model, load_pretrained
from tests.fake_images import CLASSES, write_class


@pytest.mark.slow
def test_every_factor_and_radius_has_a_row() -> None:
    model = trained_network(steps=3, depth=3, initial_channels=8)
    images, labels = stacked(DigitsDataModule().evaluation_dataset("test"), count=6)
    rows = dict(measured(model, images.double(), labels, few=0))
    assert rows["images; correct images"].startswith("6, ")
    counts = [
        int(rows[f"PGD, 20 steps, 3 restarts: flipped within {factor:g} times the certified radius"].split(" of ")[0])
        for factor in (1, *FACTORS)
    ]
    assert counts[0] == 0
    assert counts == sorted(counts)
    certified, attacked, clean = (
        float(share.removesuffix(" %")) for share in rows["accuracy at 36/255: certified, under PGD, clean"].split(", ")
    )
    assert certified <= attacked <= clean


def test_the_images_are_those_of_the_checkpoints_dataset_and_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(CLASSES):
        write_class(tmp_path / name, 20, seed)
    dataset = {"name": "folder", "image_size": 10, "test_fraction": 0.5}
    checkpoint = SimpleNamespace(model=nn.Identity(), dataset=dataset)
    monkeypatch.setattr(attack_power, "load_checkpoint", lambda path: checkpoint)
    monkeypatch.setattr(attack_power, "measured", lambda model, images, labels, few: [("shape", tuple(images.shape))])
    written: list[object] = []
    monkeypatch.setattr(attack_power, "write_figures", lambda name, title, order, rows: written.extend(rows))
    monkeypatch.setattr("sys.argv", ["attack_power", "best.ckpt", "--data-dir", str(tmp_path)])
    main()
    assert written == [("attacked model", "best.ckpt"), ("shape", (30, 3, 10, 10))]


def test_the_network_is_of_the_quickstarts_size() -> None:
    networks = build_model(CONFIG), load_pretrained("digits-quickstart")
    built, trained = (sum(parameter.numel() for parameter in network.parameters()) for network in networks)
    assert built == trained
