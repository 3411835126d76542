"""Callback that restores the random numbers, for networks with dropout and augmentation of your own."""

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

_STATES = "random_states"


class RandomStates(Callback):
    """Callback that saves the states of the random generators of torch, numpy and Python, and resumes with them.

    Each process has its own. The generator of an accelerator is restored on an accelerator of the same type. Loaders,
    augmentation and mixing of `lipnet.data` do not need it: their generators start from seed, epoch and index.

    `CertifiedClassifier` adds one to every training.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        states: list[Any] = [_states(pl_module.device)]
        if trainer.world_size > 1:
            states *= trainer.world_size
            dist.all_gather_object(states, states[0])
        checkpoint[_STATES] = states

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # A resumed training has the same number of processes, see `kept_facts`.
        states = checkpoint.get(_STATES, [])
        if trainer.state.fn == TrainerFn.FITTING and trainer.global_rank < len(states):
            self._loaded = states[trainer.global_rank]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._loaded is not None:
            _restore(self._loaded, pl_module.device)
        if not trainer.fit_loop.restarted_mid_epoch:
            self._loaded = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # An uninterrupted training starts no loader within an epoch, and a loader may draw a number when it starts.
        if self._loaded is not None:
            _restore(self._loaded, pl_module.device)
            self._loaded = None


def _states(device: torch.device) -> dict[str, Any]:
    """Return the states as tensors and numbers, as checkpoints need them."""
    version, key, gauss = random.getstate()
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": {"version": version, "key": torch.tensor(key), "gauss": gauss},
    }
    found: Any = np.random.get_state(legacy=False)
    if found["bit_generator"] == "MT19937":
        # numpy's numbers are no plain ones.
        states["numpy"] = {
            "key": torch.from_numpy(found["state"]["key"].astype(np.int64)),
            "pos": int(found["state"]["pos"]),
            "has_gauss": int(found["has_gauss"]),
            "gauss": float(found["gauss"]),
        }
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state()
    return states


def _restore(states: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(states["torch"])
    python = states["python"]
    random.setstate((python["version"], tuple(python["key"].tolist()), python["gauss"]))
    if "numpy" in states:
        kept = states["numpy"]
        key = kept["key"].numpy().astype(np.uint32)
        np.random.set_state(("MT19937", key, kept["pos"], kept["has_gauss"], kept["gauss"]))
    if device.type in states and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[device.type])
