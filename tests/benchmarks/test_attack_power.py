"""The rows of the attack's figures, for a hardly trained network."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from benchmarks import attack_power
from benchmarks.attack_power import FACTORS, main, measured
from benchmarks.digits_network import CONFIG, stacked, trained_network
from lipnet.data import DigitsDataModule
from lipnet.models import build_model


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


def test_a_dataset_with_files_needs_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = SimpleNamespace(model=nn.Identity(), dataset={"name": "cifar10"})
    monkeypatch.setattr(attack_power, "load_checkpoint", lambda path: checkpoint)
    monkeypatch.setattr("sys.argv", ["attack_power", "best.ckpt"])
    with pytest.raises(ValueError, match="--data-dir must be the folder of cifar10, got none"):
        main()


def test_the_network_is_of_the_quickstarts_size() -> None:
    assert sum(parameter.numel() for parameter in build_model(CONFIG).parameters()) > 50_000
