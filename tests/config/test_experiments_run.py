"""Every experiment runs a batch of training and of validation, at reduced size, on stand-ins for the images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torchvision import datasets

from lipnet.data import DATAMODULES
from lipnet.models import build_model, save_checkpoint
from lipnet.workflows.training import make_data, make_module, make_trainer, model_config
from tests.fake_images import write_class
from tests.training.runs import figures_of

CONF = Path(__file__).parents[2] / "lipnet" / "conf"
FOLDER = CONF / "experiment"
EXPERIMENTS = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))
QUIET = ["~callbacks.progress_bar", "~callbacks.model_summary", "~callbacks.learning_rate"]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def small(config: DictConfig) -> DictConfig:
    """Shrink the network of an experiment, unless the network comes from a checkpoint."""
    if config.transfer:
        return config
    if "stages" not in config.model:
        return OmegaConf.merge(config, {"model": {"channels": 8}})
    return OmegaConf.merge(config, {"model": {"depth": config.model.stages, "initial_channels": 8}})


BASES = {"transfer/coarse_to_fine": "cifar100_coarse", "transfer/halves": "cifar100_first_half"}


def base_of_a_transfer(path: Path, data: str) -> Path:
    """Save a small untrained network for the classes of this data."""
    spec = DATAMODULES[data].spec
    described = model_config(small(composed("experiment=table3/gs_soc_4")), spec)
    dataset = {"name": data, "seed": 0, "validation_fraction": 0.1}
    save_checkpoint(path, build_model(described), described, dataset)
    return path


def test_there_is_an_experiment_of_each_kind() -> None:
    assert {"quickstart", "table3/gs_soc_4", "best/cifar100", "speedrun/cifar100", "cpu/cifar100"} <= set(EXPERIMENTS)


@pytest.mark.slow
@pytest.mark.cover(0)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_runs(
    tmp_path: Path, write_fake_cifar: Callable[[type[datasets.CIFAR10]], Any], experiment: str
) -> None:
    overrides = [f"experiment={experiment}", "debug=fast", *QUIET, f"paths.output_dir={tmp_path / 'run'}"]
    if experiment == "own_images":
        for number in range(2):
            write_class(tmp_path / "images" / str(number), 20, number)
        root = tmp_path / "images"
    else:
        root = write_fake_cifar(datasets.CIFAR100).root
        # The stand-in has ten images of a class.
        overrides.append("data.validation_fraction=0.1")
    config = composed(*overrides, f"paths.data_dir={root}")
    if config.transfer:
        config.ckpt_path = str(base_of_a_transfer(tmp_path / "base.ckpt", BASES[experiment]))
    config = small(config)
    torch.manual_seed(0)
    data = make_data(config)
    module, trainer = make_module(config, data), make_trainer(config)
    trainer.fit(module, data)
    figures = figures_of(trainer)
    assert {"train/loss", "val/accuracy", "val/certified_36_255", "val/lipschitz_estimate"} <= figures.keys()
    assert all(np.isfinite(value) for value in figures.values())
    assert trainer.global_step == 1
    assert not (tmp_path / "run").exists(), "a fast development run leaves nothing"
