"""Choose the devices of a certification: one, or one for each of several processes."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import AcceleratorRegistry

AUTO = "auto"
_CPU = torch.device("cpu")


def device_of(name: str) -> torch.device:
    """Return the device that a name stands for; ``"auto"`` is this machine's accelerator if it has one, else the CPU.

    Raises:
        ValueError: if torch does not know the device, or this machine does not have it.
    """
    accelerator = _accelerator()
    if name == AUTO:
        return accelerator
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be 'auto' or a device of torch, got {name!r}: {error}") from error
    missing = device.type != _CPU.type and (device.index or 0) >= torch.accelerator.device_count()
    if missing or device.type not in (_CPU.type, accelerator.type):
        raise ValueError(f"device {name!r} is not available on this machine")
    return device


def check_one_choice(device: str, trainer: Mapping[str, Any] | None) -> None:
    """Raise ValueError if a command names a device beside a group ``trainer``."""
    if trainer is not None and device != AUTO:
        raise ValueError(f"a trainer group brings its devices with it: leave out device={device}")


def devices_of_command(device: str, trainer: Mapping[str, Any] | None) -> str | list[str]:
    """Return the device that a command names, or the list of devices of its group ``trainer``.

    Raises:
        ValueError: if it names both; and as `devices_of_trainer`.
    """
    check_one_choice(device, trainer)
    return device if trainer is None else devices_of_trainer(trainer)


def devices_of_trainer(trainer: Mapping[str, Any]) -> list[str]:
    """Return the devices of a group ``trainer``, one for each process; only accelerator and devices are read.

    Args:
        trainer: ``accelerator`` and ``devices`` as for ``lightning.Trainer``, on one machine.

    Raises:
        ValueError: for an accelerator that Lightning does not know or this machine does not have, for devices that it
            does not have, and for several machines.
    """
    if trainer.get("num_nodes", 1) != 1:
        raise ValueError(
            "this process certifies on one machine, got "
            f"trainer.num_nodes={trainer['num_nodes']}: start it on each machine through torchrun or srun"
        )
    accelerator, devices = trainer.get("accelerator", AUTO), trainer.get("devices", AUTO)
    name = {AUTO: _accelerator().type, "gpu": _accelerator().type}.get(accelerator, accelerator)
    if name not in AcceleratorRegistry or (accelerator == "gpu" and name == _CPU.type):
        raise ValueError(f"trainer.accelerator={accelerator} is not available on this machine")
    kind = AcceleratorRegistry.get(name)
    try:
        count = kind.auto_device_count() if devices == AUTO else devices
        found = kind.get_parallel_devices(kind.parse_devices(count))
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise ValueError(
            f"trainer.devices={devices} of {accelerator} must be available on this machine: {error}"
        ) from error
    return [str(device) for device in found]


def _accelerator() -> torch.device:
    return torch.accelerator.current_accelerator(check_available=True) or _CPU
