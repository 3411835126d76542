"""A resumed training keeps the settings of its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from lightning import seed_everything
from omegaconf import DictConfig, OmegaConf, open_dict

from benchmarks.rows import ROOT
from lipnet.models.checkpoint import read_checkpoint
from lipnet.workflows.kept_settings import check_kept_settings, kept_settings
from lipnet.workflows.training import make_data, make_module, make_trainer, resume_path

TINY = (
    "data=digits",
    "model.stages=3",
    "model.depth=3",
    "model.initial_channels=8",
    "trainer=cpu",
    "scheduler=constant",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "trainer.enable_progress_bar=false",
    "logger=[]",
    "callbacks=[default,ema]",
    "task_name=tiny",
)


def configuration(folder: Path, *changes: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "lipnet" / "conf"), version_base="1.3"):
        config = compose("train", [*TINY, f"paths.log_dir={folder}", *changes])
    with open_dict(config):
        config.paths.output_dir = str(folder / "tiny" / "run")
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run of one epoch."""
    folder = tmp_path_factory.mktemp("logs")
    config = configuration(folder)
    seed_everything(0, verbose=False)
    data = make_data(config)
    make_trainer(config).fit(make_module(config, data), data)
    return folder / "tiny" / "run" / "checkpoints" / "last.ckpt"


def resumed(run: Path, *changes: str) -> Path | None:
    config = configuration(run.parents[3], f"ckpt_path={run}", *changes)
    return resume_path(config, make_module(config, make_data(config)))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("loss=certificate_regularization", "loss._target_: .*CrossEntropyLoss in the checkpoint, .*Regularization"),
        ("data.batch_size=50", "data.batch_size: 64 in the checkpoint, 50 here"),
        ("data.augment=false", "data.augment: .* in the checkpoint, False here"),
        ("data/mixing=mixup", "data.mixing._target_: None in the checkpoint, .*"),
        ("scheduler=one_cycle", "scheduler._target_: "),
        ("trainer.precision=bf16-mixed", "trainer.precision: 32-true in the checkpoint, bf16-mixed here"),
        ("trainer.accumulate_grad_batches=2", "trainer.accumulate_grad_batches: 1 in the checkpoint, 2 here"),
        ("trainer.gradient_clip_val=1", "trainer.gradient_clip_val: None in the checkpoint, 1 here"),
        ("trainer.limit_train_batches=1", "trainer.limit_train_batches: 2 in the checkpoint, 1 here"),
        ("callbacks.ema.decay=0.5", r"callbacks.ema.decay: 0\.999 in the checkpoint, 0\.5 here"),
        ("compile=default", "compile: None in the checkpoint, default here"),
        ("+trainer.overfit_batches=1", "trainer.overfit_batches: None in the checkpoint, 1 here"),
        ("trainer.limit_val_batches=2", "trainer.limit_val_batches: 1 in the checkpoint, 2 here"),
        ("trainer.check_val_every_n_epoch=3", "trainer.check_val_every_n_epoch: 1 in the checkpoint, 3 here"),
        ("callbacks.best_checkpoint.monitor=val/accuracy", "best_checkpoint.monitor: .*, val/accuracy here"),
        ("+callbacks.mine={_target_:lightning.Callback}", "callbacks.mine._target_: None in the checkpoint"),
        ("optimizer.lr=0.2", r"optimizer\.lr: 0\.1 in the checkpoint, 0\.2 here"),
        ("bias_lr_factor=2.0", r"bias_lr_factor: 1\.0 in the checkpoint, 2\.0 here"),
    ],
)
def test_another_setting_is_refused_by_its_name(run: Path, change: str, difference: str) -> None:
    with pytest.raises(ValueError, match=rf"last\.ckpt cannot be resumed: .*{difference}.*or start a new run"):
        resumed(run, change)


@pytest.mark.parametrize(
    "change",
    [
        *(
            "trainer.max_epochs=3",
            "data.num_workers=0",
            "data.eval_batch_size=50",
            "paths.data_dir=elsewhere",
            "logger=csv",
        ),
        *("radii=['36/255']", "trainer=ddp", "trainer.max_time='00:01:00:00'", "certify=null", "task_name=other"),
        *("callbacks.last_checkpoint.stop_after_minutes=9", "trainer.enable_progress_bar=true", "~callbacks.epoch_log"),
        *("callbacks.best_checkpoint.dirpath=/elsewhere", "paths.output_dir=/moved", "+trainer.max_steps=1000"),
    ],
)
def test_settings_that_change_no_sample_and_no_step_are_free(run: Path, change: str) -> None:
    assert resumed(run, change) == run


def test_a_checkpoint_that_states_no_settings_is_accepted(run: Path) -> None:
    content: dict[str, Any] = read_checkpoint(run)[0]
    settings = kept_settings(configuration(run.parents[3]), "32-true")
    check_kept_settings(content, run, settings)
    del content["callbacks"]["KeptSettings"]
    check_kept_settings(content, run, settings | {"seed": 7})


def test_all_that_decides_weights_is_kept_and_no_place_is(tmp_path: Path) -> None:
    config = configuration(
        tmp_path, "loss=emma", "optimizer=muon", "lookahead=default", "data/extra=npz", "data.extra.path=x"
    )
    kept = kept_settings(config, "32-true")
    assert {name.split(".")[0] for name in kept} == {
        *("data", "loss", "optimizer", "lookahead", "scheduler", "trainer", "callbacks", "transfer", "seed"),
        *("bias_lr_factor", "manifold_lr"),
    }
    for group in ("loss", "optimizer", "lookahead", "scheduler", "data.extra"):
        values = {name for name, value in OmegaConf.select(config, group).items() if value is not None} - {"path"}
        assert {f"{group}.{name}" for name in values} <= {*kept}
    assert not any(str(tmp_path) in str(value) for value in kept.values())
