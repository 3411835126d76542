"""Non-finite losses and weights end a training before they are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from torch import Tensor, nn

from lipnet.data import DigitsDataModule
from lipnet.training import CertifiedClassifier, DivergenceGuard, LastCheckpoint
from lipnet.training.divergence import LOSSES_AT_ONCE, weights_are_finite
from tests.training.runs import best_checkpoint, figures_of, fit, make_module


class BreakingAt(nn.Module):
    """Cross-entropy that breaks in one call."""

    def __init__(self, call: int, value: float = float("nan")) -> None:
        super().__init__()
        self.call, self.value, self.calls = call, value, 0

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(logits, labels)
        self.calls += self.training
        return loss * self.value if self.calls == self.call and self.training else loss


class Steps(Callback):
    """Counts training batches."""

    count = 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.count += 1


@pytest.mark.slow
def test_the_first_bad_step_is_named_and_the_run_ends_soon(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """An epoch has 162 batches of 8: the run ends long before the end of the epoch."""
    steps, module = Steps(), make_module(tiny_config, loss=BreakingAt(call=60))
    with pytest.raises(ValueError, match=r"loss became nan in epoch 0, step 59: .*optimizer\.lr"):
        fit(tiny_config, tmp_path, module=module, data=DigitsDataModule(batch_size=8), callbacks=[steps])
    assert 60 <= steps.count == 2 * LOSSES_AT_ONCE
    assert list(tmp_path.iterdir()) == []


def test_the_best_checkpoint_of_before_stays(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """The second step of the third epoch breaks; the validation of that epoch must not save."""
    callbacks = [best_checkpoint(tmp_path), LastCheckpoint(tmp_path / "latest.ckpt")]
    module = make_module(tiny_config, loss=BreakingAt(call=10))
    with pytest.raises(ValueError, match="loss became nan in epoch 2, step 9"):
        fit(tiny_config, tmp_path, module=module, callbacks=callbacks, limit_train_batches=4, max_epochs=3)
    for path in tmp_path.glob("*.ckpt"):
        content = torch.load(path, weights_only=True)
        assert content["epoch"] < 2
        assert all(bool(value.isfinite().all()) for value in content["state_dict"].values())
    assert len(list(tmp_path.glob("*.ckpt"))) == 3


def test_a_checkpoint_within_an_epoch_is_not_overwritten(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """Written after every step: the one after the bad step is refused."""
    path = tmp_path / "latest.ckpt"
    module = make_module(tiny_config, loss=BreakingAt(call=4))
    with pytest.raises(ValueError, match="loss became nan in epoch 0, step 3"):
        fit(
            tiny_config,
            tmp_path,
            module=module,
            data=DigitsDataModule(batch_size=64),
            callbacks=[LastCheckpoint(path, every_minutes=1e-9)],
        )
    assert torch.load(path, weights_only=True)["global_step"] == 3


class Spoiling(Callback):
    """Makes the weights infinite after the last step of the epoch, which no loss shows."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: CertifiedClassifier, *_: Any) -> None:
        if trainer.is_last_batch:
            next(pl_module.parameters()).data.fill_(float("inf"))


def test_weights_that_no_loss_has_seen(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    callbacks = [Spoiling(), best_checkpoint(tmp_path)]
    with pytest.raises(ValueError, match=r"weights are not finite after step 2: .*optimizer\.lr"):
        fit(tiny_config, tmp_path, callbacks=callbacks, limit_train_batches=3)
    assert list(tmp_path.iterdir()) == []


class Saving(Callback):
    """Callback that saves before the guard sees the loss of the batch."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir, "own.ckpt"))


def test_a_checkpoint_of_ones_own_at_the_end_of_a_batch_is_written(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    fit(tiny_config, tmp_path, callbacks=[Saving()], limit_train_batches=2, max_epochs=1)
    assert torch.load(tmp_path / "own.ckpt", weights_only=True)["global_step"] == 2


def test_a_finite_training_is_left_alone(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    trainer = fit(tiny_config, tmp_path, limit_train_batches=3)
    assert trainer.global_step == 6
    assert figures_of(trainer)["train/loss"] > 0


def test_the_device_is_asked_once_in_many_steps(
    tmp_path: Path, tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two checks, no training step reads a number from the device."""
    asked: list[str] = []
    for name in ("__bool__", "item", "tolist", "__float__"):
        monkeypatch.setattr(Tensor, name, watched(getattr(Tensor, name), name, asked))

    class Watching(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            asked.append("start")

        def on_train_batch_end(self, *_: Any) -> None:
            asked.append("end")

    fit(tiny_config, tmp_path, callbacks=[Watching()], limit_train_batches=5, max_epochs=1, enable_checkpointing=False)
    steps = "".join("|" if entry == "start" else "!" if entry == "end" else entry for entry in asked)
    assert steps.count("|!") == 5, steps


def watched(method: Any, name: str, asked: list[str]) -> Any:
    def recording(self: Tensor, *arguments: Any) -> Any:
        asked.append(name)
        return method(self, *arguments)

    return recording


def test_finite_weights() -> None:
    layer = nn.Linear(2, 2)
    assert weights_are_finite(layer)
    assert weights_are_finite(nn.ReLU())
    layer.bias.data[1] = float("nan")
    assert not weights_are_finite(layer)


@pytest.mark.parametrize("steps", [0, -1])
def test_settings_out_of_range_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"every_n_steps must be at least 1, got {steps}"):
        DivergenceGuard(steps)
