"""Callback that restores what Lightning does not, so that a resumed training equals an uninterrupted one."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics import Metric

from lipnet.training.averaging import AVERAGING, ExponentialMovingAverage
from lipnet.training.differences import differences
from lipnet.training.kept_facts import check_facts, kept_facts
from lipnet.training.last_checkpoint import can_continue

_COUNTS = "train_accuracy"
_FACTS = "kept_facts"
_METRICS = "callback_metrics"
_PLACES = ("in the checkpoint", "here")
# Settings that schedules add to parameter groups.
_SCHEDULED = {"initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum"}
# State of torch's schedules that changes with every step, and functions, which checkpoints do not hold.
_MOVING = {"last_epoch", "_step_count", "_last_lr", "_get_lr_called_within_step", "_is_initial", "lr_lambdas"} | {
    *("T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter", "_schedulers")
}


class ExactResumption(Callback):
    """Callback that resumes a training exactly, also from the middle of an epoch, or refuses to.

    Lightning restores weights, optimizer, schedules and the progress of each loop. This callback restores the position
    of the training loader, if it is a stateful loader (``state_dict`` and ``load_state_dict``), the counts of the
    training accuracy, the metrics that callbacks read between two validations, the factor of a
    `GradientAccumulationScheduler`, and the best score of a run whose folder was moved. If the time budget of the
    training is used up and its last validation is missing, because the program was killed in it, the training takes one
    more step and validates.

    `CertifiedClassifier` adds one to every training.

    Args:
        train_accuracy: the metric, reset at the start of every epoch.

    Raises:
        ValueError: on resuming, if the checkpoint is from the middle of an epoch and the loader cannot continue there;
            if it is from between two optimizer steps and lacks the accumulated gradients; if it has averaged weights
            and there is no `ExponentialMovingAverage`; if it has done more epochs than ``max_epochs``; if the
            optimizer, the schedule or their settings differ, which Lightning would silently replace by those of the
            checkpoint; or if the facts of `kept_facts` differ. Schedules of other packages than torch and lipnet are
            not compared.
    """

    def __init__(self, train_accuracy: Metric) -> None:
        self.train_accuracy = train_accuracy
        self._positions: list[dict[str, Any]] = []
        self._metrics: dict[str, Tensor] = {}
        self._optimizers: list[dict[str, Any]] = []
        self._schedules: list[dict[str, Any]] = []
        self._facts: dict[str, Any] = {}
        self._stated: dict[str, Any] | None = None
        self._max_steps: int | None = None
        self._done = 0
        self._unvalidated = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        averages = any(isinstance(callback, ExponentialMovingAverage) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if AVERAGING in checkpoint and not averages:
            raise ValueError("the checkpoint holds averaged weights: resume with callbacks=[default,ema]")
        loop = checkpoint.get("loops", {}).get("fit_loop", {})
        # A checkpoint after the last validation of an epoch belongs to a complete epoch, too.
        complete = loop.get("epoch_loop.batch_progress", {}).get("is_last_batch", False)
        epochs = loop.get("epoch_progress", {}).get("current", {})
        done = epochs.get("started" if complete else "processed", 0)
        if trainer.max_epochs is not None and 0 <= trainer.max_epochs < done:
            raise ValueError(f"trainer.max_epochs must be at least {done}, the epochs done, got {trainer.max_epochs}")
        # Keep the positions: Lightning drops them if its loaders exist already, and a schedule over steps makes it
        # create them early.
        self._positions = loop.get("state_dict", {}).pop("combined_loader", [])
        self._metrics = checkpoint.get(_METRICS, {})
        self._optimizers = checkpoint.get("optimizer_states", [])
        self._schedules = checkpoint.get("lr_schedulers", [])
        self._stated, self._done = checkpoint.get(_FACTS), checkpoint.get("global_step", 0)
        self._unvalidated = not complete and _lacks_validation(trainer, loop)
        # The counts are sums over all processes, so only one process restores them.
        if trainer.is_global_zero:
            for name, count in checkpoint.get(_COUNTS, {}).items():
                setattr(self.train_accuracy, name, count.to(self.train_accuracy.device))
        for keeper in trainer.checkpoint_callbacks:
            if isinstance(keeper, ModelCheckpoint):
                _follow_moved_folder(keeper, checkpoint.get("callbacks", {}).get(keeper.state_key, {}))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # At this point optimizers and schedules exist, and the checkpoint's states are not loaded yet.
        resumed = bool(self._optimizers)
        for saved, optimizer in zip(self._optimizers, trainer.optimizers, strict=False):
            _check_optimizer(saved, optimizer.state_dict(), type(optimizer).__name__)
        made = [each.scheduler for each in trainer.lr_scheduler_configs]
        if resumed and len(made) != len(self._schedules):
            raise ValueError(
                f"a resumed training keeps its schedules, got {len(made)}, and {len(self._schedules)} in the "
                "checkpoint: resume with those of the checkpoint, or start a new run"
            )
        for saved, schedule in zip(self._schedules, made, strict=False):
            _check_schedule(saved, schedule)
        self._optimizers, self._schedules = [], []
        self._facts = kept_facts(trainer, pl_module)
        if resumed:
            check_facts(self._stated, self._facts)
            self._hide_max_steps(trainer)
            if self._unvalidated:
                # The timer, which comes earlier, has found the time used up. It stops the training after a step again.
                trainer.should_stop = False

    def _hide_max_steps(self, trainer: Trainer) -> None:
        """Hide ``max_steps`` from Lightning until it has restored its loops.

        With it, Lightning 2.6 takes each checkpoint for one of the middle of an epoch, and appends an epoch without
        batches to a complete one.
        """
        if self._done < trainer.max_steps:
            self._max_steps, trainer.fit_loop.epoch_loop.max_steps = trainer.max_steps, -1

    def _show_max_steps(self, trainer: Trainer) -> None:
        if self._max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps, self._max_steps = self._max_steps, None

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning skips a training whose epochs are all done, and with it the start of the training.
        self._show_max_steps(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show_max_steps(trainer)
        metrics, self._metrics = self._metrics, {}
        trainer.callback_metrics.update({name: value.to(pl_module.device) for name, value in metrics.items()})
        positions, self._positions = self._positions, []
        loader: Any = trainer.train_dataloader
        if positions and can_continue(trainer):
            loader.load_state_dict(positions[0])
        elif trainer.fit_loop.restarted_mid_epoch and not trainer.is_last_batch:
            raise ValueError(
                f"the checkpoint is from the middle of an epoch, where {type(loader).__name__} cannot continue: resume "
                "from a checkpoint of the end of an epoch"
            )
        if trainer.fit_loop.restarted_mid_epoch:
            # Lightning does not call this for the rest of an interrupted epoch.
            for each in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(each, GradientAccumulationScheduler):
                    each.on_train_epoch_start(trainer, pl_module)
        if trainer.fit_loop.restarted_mid_epoch and trainer.fit_loop.epoch_loop._should_accumulate():
            raise ValueError(
                "the checkpoint is from between two optimizer steps and lacks the accumulated gradients: resume from "
                "last.ckpt, which is written after a step"
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning does not call this for the rest of an interrupted epoch.
        self.train_accuracy.reset()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        with self.train_accuracy.sync_context():
            counts = self.train_accuracy.metric_state.items()
            checkpoint[_COUNTS] = {name: count.clone() for name, count in counts if isinstance(count, Tensor)}
        checkpoint[_METRICS] = {name: value.detach().cpu().clone() for name, value in trainer.callback_metrics.items()}
        if self._facts:
            checkpoint[_FACTS] = dict(self._facts)


def _lacks_validation(trainer: Trainer, loop: dict[str, Any]) -> bool:
    """Return whether a training that ends in the state of these loops, within an epoch, would still be validated."""
    every = trainer.check_val_every_n_epoch
    epoch = loop.get("epoch_progress", {}).get("current", {}).get("processed", 0)
    batches = loop.get("epoch_loop.batch_progress", {}).get("total", {})
    # Lightning counts a batch as completed right before the validation.
    before = batches.get("completed", 0) < batches.get("processed", 0)
    return before and trainer.enable_validation and (every is None or (epoch + 1) % every == 0)


def _check_optimizer(saved: dict[str, Any], made: dict[str, Any], name: str) -> None:
    """Refuse to resume with another optimizer, or with settings that the checkpoint's would silently replace."""
    for old, new in zip(saved["param_groups"], made["param_groups"], strict=False):
        unshared = (old.keys() ^ new.keys()) - _SCHEDULED
        if unshared or len(old["params"]) != len(new["params"]):
            raise ValueError(
                f"a resumed training keeps its optimizer, got {name}, which differs from the checkpoint's in "
                f"{', '.join(sorted(unshared)) or 'its parameters'}: resume with that one, or start a new run"
            )
        # Schedules and Lookahead have changed these entries since; initial_lr is the first learning rate of a schedule.
        moving = {"params", "lookahead_step"} | ({"lr"} if "initial_lr" in new else set())
        moving |= {"momentum", "betas"} if "max_momentum" in new else set()
        kept = sorted((old.keys() & new.keys()) - moving)
        values = differences({key: old[key] for key in kept}, {key: new[key] for key in kept}, _PLACES)
        if values:
            raise ValueError(
                f"a resumed training keeps its optimizer's settings, got {values}: resume with the "
                "checkpoint's settings, or start a new run"
            )


def _check_schedule(saved: dict[str, Any], schedule: Any) -> None:
    """Refuse to resume with another schedule, or with settings or a length that the checkpoint's would replace."""
    if type(schedule).__module__.partition(".")[0] not in ("torch", "lipnet"):
        return
    made = schedule.state_dict()
    kept = sorted({*saved, *made} - _MOVING)
    values = differences({key: saved.get(key) for key in kept}, {key: made.get(key) for key in kept}, _PLACES)
    if values:
        raise ValueError(
            f"a resumed training keeps its schedule and its length, got {type(schedule).__name__} with {values}: "
            "resume with the checkpoint's settings, or start a new run"
        )


def _follow_moved_folder(keeper: ModelCheckpoint, state: dict[str, Any]) -> None:
    """Let the state of a checkpoint callback point to the run's current folder, if its best checkpoint is there.

    Lightning forgets the best score if the path of the folder differs. A worse epoch would then replace the best one.
    """
    old, new = state.get("dirpath"), keeper.dirpath
    if old is None or new is None or old == new or not Path(new, Path(state["best_model_path"]).name).is_file():
        return

    def moved(path: str) -> str:
        return str(Path(new, Path(path).name)) if path else path

    for name in ("best_model_path", "last_model_path", "kth_best_model_path"):
        state[name] = moved(state.get(name, ""))
    state["best_k_models"] = {moved(path): score for path, score in state.get("best_k_models", {}).items()}
    state["dirpath"] = new
