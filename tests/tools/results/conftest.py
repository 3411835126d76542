"""Folders of runs as train.py leaves them, written without any training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from lipnet.certify.files import sealed, summary_bytes

Make = Callable[..., Path]

CONFIG = {
    "data": {"_target_": "lipnet.data.CIFAR100DataModule", "data_dir": "${paths.data_dir}", "seed": "${seed}"},
    "conv": {"_target_": "lipnet.layers.GSSOC", "groups": [4, None], "paired": True},
    "activation": {"_target_": "lipnet.layers.MaxMinPermuted"},
    "head": {"_target_": "lipnet.layers.SOCLinear"},
    "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
    "model": {
        "depth": 15,
        "initial_channels": 32,
        "conv": "${conv}",
        "activation": "${activation}",
        "head": "${head}",
    },
    "logger": {"csv": {"version": "${resumption:${ckpt_path}}"}},
    "paths": {"data_dir": "/home/somebody/data", "log_dir": "logs", "output_dir": "${hydra:runtime.output_dir}"},
    "task_name": "table3/gs_soc_4",
    "ckpt_path": None,
    "seed": 0,
}
RECORD = {
    "seed": 0,
    "finished": True,
    "epochs": 200,
    "planned_epochs": 200,
    "steps": 70_400,
    "seconds": 9000.0,
    "starts": [
        {
            "began": "2026-01-01T00:00:00+00:00",
            "seconds": 9000.0,
            "first_step": 0,
            "commit": "0" * 40,
            "versions": {},
            "hardware": {"processor": "P", "cores": 2, "threads": 2, "accelerator": None, "processes": 1},
        }
    ],
}
SUMMARY = {
    "dataset": "cifar100",
    "split": "test",
    "checkpoint": "/home/somebody/run/checkpoints/best.ckpt",
    "n_samples": 10_000,
    "clean_accuracy": 0.4401,
    "certified_accuracy": {"36/255": 0.3002, "72/255": 0.1803, "108/255": 0.1004, "1": 0.0},
    "average_certified_radius": 0.25,
    "parameters": 6_805_988,
}


def changed(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of plain containers with these changes merged in."""
    merged = OmegaConf.to_container(OmegaConf.merge(content, changes))
    assert isinstance(merged, dict)
    return {str(key): value for key, value in merged.items()}


@pytest.fixture
def make_run(tmp_path: Path) -> Make:
    """Return a function that writes the folder of a certified run, with changes in its files."""

    def make(
        name: str = "run",
        config: dict[str, Any] | None = None,
        record: Any = None,
        summary: dict[str, Any] | None = None,
    ) -> Path:
        folder = tmp_path / "runs" / name
        (folder / "checkpoints").mkdir(parents=True)
        (folder / ".hydra").mkdir()
        (folder / "checkpoints" / "best.ckpt").write_bytes(b"weights")
        (folder / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(changed(CONFIG, config or {})))
        (folder / "run.json").write_text(json.dumps({**RECORD, **(record or {})}))
        figures = {**SUMMARY, "checkpoint_sha256": hashlib.sha256(b"weights").hexdigest()}
        (folder / "summary.json").write_bytes(summary_bytes(sealed({**figures, **(summary or {})})))
        (folder / "curve.png").write_bytes(b"picture")
        return folder

    return make
