"""The group ``distillation``: its teacher comes from a checkpoint that has not seen the validation and test images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from lipnet.models import CheckpointError, ResNet9, load_checkpoint
from lipnet.training import Distillation
from lipnet.workflows.distillation import run_of
from lipnet.workflows.training import make_data, make_module, make_trainer, resume_path
from tests.workflows.runs import fit, seeded_module

CONF = Path(__file__).parents[2] / "lipnet" / "conf"


def with_teacher(config: DictConfig, teacher: Path, **settings: Any) -> DictConfig:
    config.distillation = {"teacher": str(teacher), "weight": 0.5, "temperature": 2.0, **settings}
    return config


def test_a_plain_network_is_trained_and_teaches(tmp_path: Path) -> None:
    shared = ["data=digits", "data.batch_size=64", "debug=fast", "trainer=cpu", f"paths.output_dir={tmp_path}"]

    def train(*overrides: str) -> Any:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("train", overrides=[*shared, *overrides])
        data = make_data(config)
        trainer = make_trainer(config)
        trainer.fit(make_module(config, data), data)
        return trainer

    trainer = train("model=resnet9", "model.channels=4", "model.stride=1")
    assert type(trainer.lightning_module.model) is ResNet9
    trainer.save_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")
    record = {"seconds": 6.5, "starts": [{"began": "2026-01-01T00:00:00+00:00", "seconds": 6.5}]}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    student = ["model.depth=3", "model.stages=3", "model.initial_channels=8", "distillation=default"]
    trained = train(*student, f"distillation.teacher={tmp_path / 'run'}", "distillation.weight=0.8")
    distillation = trained.lightning_module.distillation
    assert (distillation.weight, distillation.temperature, distillation.run) == (0.8, 1.0, record)
    written = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt").model.state_dict()
    assert all(torch.equal(value, written[name]) for name, value in distillation.teacher.state_dict().items())


def test_only_the_record_of_the_teachers_own_run_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    assert run_of(folder / "best.ckpt") is None
    (tmp_path / "run.json").write_text(json.dumps({"starts": []}))
    assert run_of(folder / "best.ckpt") == {"starts": []}
    assert run_of(tmp_path / "other" / "best.ckpt") is None
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        run_of(folder / "best.ckpt")


def test_there_is_no_teacher_without_the_group(config: DictConfig) -> None:
    assert make_module(config, make_data(config)).distillation is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": "half"}, "distillation.weight must be a number, got 'half'"),
        ({"temperature": None}, "distillation.temperature must be a number, got null"),
        ({"weight": 2}, "weight must be from 0 to 1, got 2"),
    ],
)
def test_wrong_settings_are_named(
    config: DictConfig, tiny_checkpoint: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_module(with_teacher(config, tiny_checkpoint, **settings), make_data(config))


def test_a_missing_or_damaged_teacher_is_named(config: DictConfig, tmp_path: Path) -> None:
    config.distillation = {"teacher": None, "weight": 0.5, "temperature": 1.0}
    with pytest.raises(ValueError, match=r"distillation\.teacher must be a teacher's run or checkpoint, got null"):
        make_module(config, make_data(config))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt"):
        make_module(with_teacher(config, tmp_path / "nowhere.ckpt"), make_data(config))
    (tmp_path / "damaged.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"damaged\.ckpt"):
        make_module(with_teacher(config, tmp_path / "damaged.ckpt"), make_data(config))


@pytest.mark.parametrize("split", [{"seed": 1}, {"validation_fraction": 0.2}])
def test_a_teacher_that_may_have_seen_the_validation_images_is_refused(
    config: DictConfig, tiny_checkpoint: Path, split: dict[str, Any]
) -> None:
    config.data.update(split)
    with pytest.raises(ValueError, match=r"trained on .*'seed': 0.*and may have seen validation or test images of"):
        make_module(with_teacher(config, tiny_checkpoint), make_data(config))


def test_a_resumed_training_may_find_its_teacher_elsewhere_but_keeps_the_weight(
    config: DictConfig, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    config.scheduler.total_epochs = 3
    fit(with_teacher(config, tiny_checkpoint))
    moved = Path(shutil.copy(tiny_checkpoint, tmp_path / "moved.ckpt"))
    config.ckpt_path, config.trainer.max_epochs = "last", 3
    assert fit(with_teacher(config, moved)).current_epoch == 3
    with pytest.raises(ValueError, match=r"distillation.weight: 0.5 in the checkpoint, 0.7 here"):
        resume_path(with_teacher(config, moved, weight=0.7), seeded_module(config))
    assert isinstance(seeded_module(config).distillation, Distillation)
