"""Checks of a training's settings, before its first step."""

from collections.abc import Sequence

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lipnet.training.batch_warmup import BatchWarmup

_CUDA_GRAPH_MODES = ("reduce-overhead", "max-autotune")


def check_dtypes(module: nn.Module) -> None:
    """Raise ValueError unless all parameters are in float32 or float64."""
    dtypes = {parameter.dtype for parameter in module.parameters()} - {torch.float32, torch.float64}
    if dtypes:
        raise ValueError(
            f"training needs parameters in float32 or float64, got {', '.join(map(str, dtypes))}: "
            "trainer.precision=bf16-mixed computes in bfloat16 and keeps them in float32"
        )


def check_accumulation(trainer: Trainer, compile_mode: str | None) -> None:
    """Raise ValueError for an accumulation over less than one batch, or in memory that a CUDA graph overwrites."""
    accumulated = trainer.accumulate_grad_batches
    if accumulated < 1:
        raise ValueError(f"trainer.accumulate_grad_batches must be at least 1, got {accumulated}")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, BatchWarmup):
            accumulated = max(callback.growth.values())
    if compile_mode in _CUDA_GRAPH_MODES and accumulated > 1:
        raise ValueError(
            f"compile={compile_mode} overwrites the gradients of the previous batch, which "
            f"an accumulation over {accumulated} batches needs: set compile=default"
        )


def check_monitors(trainer: Trainer, logged: Sequence[str]) -> None:
    """Raise ValueError if a checkpoint callback monitors a certified accuracy that is not among the logged ones."""
    for saver in trainer.checkpoint_callbacks:
        monitor = saver.monitor if isinstance(saver, ModelCheckpoint) else None
        if monitor is not None and monitor.startswith("val/certified_") and monitor not in logged:
            raise ValueError(
                f"the checkpoint callback's monitor must be a figure of this run's radii, {', '.join(logged)}, got "
                f"{monitor}: add its radius to radii, or set callbacks.best_checkpoint.monitor"
            )
