"""Every convolution, alone and in groups, trains, is certified from its checkpoint, and resists an attack."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from benchmarks.layer_list import CONF, layer_class, layer_names
from lipnet.layers import GroupAndShuffle
from lipnet.models import load_checkpoint
from lipnet.workflows import certify_checkpoint
from lipnet.workflows.trained import best_checkpoint
from lipnet.workflows.training import make_data, make_module, make_trainer

QUIET = ["~callbacks.progress_bar", "~callbacks.model_summary", "~callbacks.learning_rate", "logger=[]"]
SMALL = ["model.depth=3", "model.initial_channels=8", "trainer.max_epochs=1", "trainer.limit_train_batches=10"]
CHOICES = [choice for name in layer_names() for choice in (f"conv={name}", f"conv=gs conv@conv.layer={name}")]


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES)
def test_the_quickstart_trains_and_certifies(tmp_path: Path, choice: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = ["experiment=quickstart", *QUIET, *SMALL, f"paths.output_dir={tmp_path}", *choice.split()]
        config = compose("train", overrides=given)
        attack = instantiate(compose("certify", overrides=["attack=pgd"]).attack, _convert_="all")
    torch.manual_seed(0)
    data = make_data(config)
    module, trainer = make_module(config, data), make_trainer(config)
    trainer.fit(module, data)
    best = best_checkpoint(trainer)
    assert best is not None
    summary = certify_checkpoint(best[0], tmp_path / "certificates", n_samples=20, attack=attack)
    assert summary["n_samples"] == 20
    assert 0 < summary["lipschitz_bound"] < 4
    assert (summary["attack"]["n_samples"], summary["attack"]["flipped"]["1"]) == (20, 0.0)
    kinds = {type(part) for part in load_checkpoint(best[0]).model.modules()}
    assert layer_class(choice.rpartition("=")[2]) in kinds
    assert (GroupAndShuffle in kinds) == choice.startswith("conv=gs ")
