"""The configuration of a short training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf


@pytest.fixture
def config(tmp_path: Path, tiny_config: dict[str, Any]) -> DictConfig:
    """A short training on the digits, composed as train.py would get it."""
    determined_by_data = ("num_classes", "in_channels", "image_size", "mean", "std")
    settings = {
        "data": {"_target_": "lipnet.data.DigitsDataModule", "batch_size": 64, "eval_batch_size": 143},
        "conv": tiny_config["conv"],
        "model": {key: value for key, value in tiny_config.items() if key not in determined_by_data}
        | {"conv": "${conv}"},
        "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
        "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1},
        "scheduler": {
            "_target_": "lipnet.training.step_schedule",
            "_partial_": True,
            "total_epochs": "${trainer.max_epochs}",
        },
        "trainer": {
            "_target_": "lightning.Trainer",
            "default_root_dir": "${paths.output_dir}",
            "accelerator": "cpu",
            "max_epochs": 2,
            "limit_train_batches": 3,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "plugins": [{"_target_": "lipnet.training.WholeCheckpointIO"}],
        },
        "callbacks": {
            "best_checkpoint": {
                "_target_": "lightning.pytorch.callbacks.ModelCheckpoint",
                "dirpath": "${paths.output_dir}/checkpoints",
                "filename": "best",
                "monitor": "val/certified_0_01",
                "mode": "max",
                "save_last": True,
                "enable_version_counter": False,
            },
            "left_out": None,
        },
        "logger": {
            "csv": {
                "_target_": "lightning.pytorch.loggers.CSVLogger",
                "save_dir": "${paths.output_dir}",
                "name": "csv",
                "version": "",
            },
            "left_out": None,
        },
        "radii": ["0.01", "36/255"],
        "task_name": "digits",
        "ckpt_path": None,
        "paths": {"log_dir": str(tmp_path), "output_dir": "${paths.log_dir}/${task_name}/run"},
    }
    return OmegaConf.create(settings)
