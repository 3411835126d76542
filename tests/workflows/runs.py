"""A training as train.py runs it, from its configuration."""

from __future__ import annotations

import torch
from lightning import Trainer
from omegaconf import DictConfig

from lipnet.training import CertifiedClassifier
from lipnet.workflows.training import make_data, make_module, make_trainer, resume_path


def seeded_module(config: DictConfig) -> CertifiedClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make_module(config, make_data(config))


def fit(config: DictConfig) -> Trainer:
    module, trainer = seeded_module(config), make_trainer(config)
    trainer.fit(module, make_data(config), ckpt_path=resume_path(config, module), weights_only=True)
    return trainer
