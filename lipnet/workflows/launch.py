"""Find out whether torchrun or Slurm started this process as one of several."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from lipnet.workflows.devices import AUTO, check_one_choice, devices_of_trainer


@dataclass(frozen=True)
class Launch:
    """This process among those that torchrun or Slurm started.

    Attributes:
        rank: its number among all processes.
        local_rank: its number among the processes of its machine.
        size: number of processes.
    """

    rank: int
    local_rank: int
    size: int


def launch_of_process() -> Launch | None:
    """Return this process's place among several that torchrun or Slurm's srun started; None if it is alone.

    For Slurm, write the place and the address of the first process into the environment, as torchrun does.
    """
    environment: TorchElasticEnvironment | SLURMEnvironment
    if TorchElasticEnvironment.detect():
        environment = TorchElasticEnvironment()
    # A batch script itself is one process, although its job has several tasks: only srun states a step's tasks.
    elif SLURMEnvironment.detect() and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        environment = SLURMEnvironment()
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
        os.environ["RANK"], os.environ["WORLD_SIZE"] = str(environment.global_rank()), str(environment.world_size())
    else:
        return None
    launch = Launch(environment.global_rank(), environment.local_rank(), environment.world_size())
    return launch if launch.size > 1 else None


def device_of_launch(launch: Launch, device: str, trainer: Mapping[str, Any] | None) -> str:
    """Return the device of this process, chosen by its number on its machine.

    Args:
        launch: this process among the others.
        device: a device of torch for every process, or ``"auto"``.
        trainer: a group ``trainer`` with accelerator and devices of each machine; None for all accelerators.

    Raises:
        ValueError: if there are more processes on this machine than devices, or the group asks for another number of
            processes than were started.
    """
    check_one_choice(device, trainer)
    if trainer is None and device != AUTO:
        return device
    devices = _all_devices() if trainer is None else devices_of_trainer({**trainer, "num_nodes": 1})
    if trainer is not None and launch.size != trainer.get("num_nodes", 1) * len(devices):
        raise ValueError(
            f"trainer.num_nodes={trainer.get('num_nodes', 1)} with {len(devices)} devices each needs one process for "
            f"each device, got {launch.size} processes"
        )
    if devices == ["cpu"]:
        return "cpu"
    if launch.local_rank >= len(devices):
        raise ValueError(f"process {launch.local_rank} of this machine has no device: there are {', '.join(devices)}")
    return devices[launch.local_rank]


def _all_devices() -> list[str]:
    """Return all accelerators of this machine, or the CPU once, which several processes can share."""
    found = devices_of_trainer({"accelerator": AUTO, "devices": AUTO})
    return ["cpu"] if found[0].startswith("cpu") else found
