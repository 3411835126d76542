"""Times of training steps, measured in turns. With them, a budget in minutes becomes a number of steps."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from benchmarks.common import machine, medians_in_turn, write_json
from benchmarks.rows import ROOT
from lipnet.data import ImageDataModule
from lipnet.training import CertifiedClassifier
from lipnet.workflows.devices import device_of
from lipnet.workflows.training import make_data, make_module, make_optimizer

ROUNDS = 5


def read_step_times(path: Path, rows: Mapping[str, Sequence[str]], threads: int) -> dict[str, float]:
    """Return the seconds of a training step of each row.

    Times that the file has are read from it. The other rows are timed along with the first one, and added. The machine
    may be slower or faster by then, so a new row gets its multiple of the first row's time in the file.

    Args:
        path: JSON file of the times.
        rows: overrides of train.py for each row.
        threads: number of threads of a step on the CPU.
    """
    content = json.loads(path.read_text()) if path.is_file() else {"seconds": {}}
    times: dict[str, float] = content["seconds"]
    missing = [name for name in rows if name not in times]
    if missing:
        torch.set_num_threads(threads)
        first = next(iter(rows))
        new = times_in_turn({name: training_step(rows[name]) for name in dict.fromkeys([first, *missing])})
        speed = times.get(first, new[first]) / new[first]
        times |= {name: speed * new[name] for name in missing}
        device = device_of_training(composed(rows[first])[0])
        write_json(path, {**machine(device), **content, "seconds": times})
    return times


def times_in_turn(steps: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Return the median seconds of each step, over rounds in which all take turns, after a round that warms up.

    With one thread these are seconds of processor time, which other load on the machine hardly affects.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    # The steps themselves wait for their device.
    return medians_in_turn(steps, torch.device("cpu"), rounds=rounds, clock=clock)


def training_step(overrides: Sequence[str]) -> Callable[[], None]:
    """Return a function that performs a step of the training with these overrides, on random images.

    Raises:
        ValueError: for a precision that depends on the machine, and for a compiled step.
    """
    config, data, module = composed(overrides)
    if config.trainer.precision == "auto" or config.compile is not None:
        raise ValueError(
            "trainer.precision must be stated and compile null to time a step, "
            f"got {config.trainer.precision} and {config.compile}"
        )
    device = device_of_training(config)
    optimizer = make_optimizer(config)(module.to(device))
    size, spec = config.data.batch_size, data.spec
    classes = spec.num_classes
    images = torch.rand(size, spec.in_channels, spec.image_size, spec.image_size, device=device)
    labels = torch.randint(classes, (size,), device=device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=config.trainer.precision == "bf16-mixed"):
            logits = module.model(images)
            targets = labels if module.distillation is None else module.distillation.soften(images, labels, classes)
            loss = torch.nn.functional.cross_entropy(logits, targets)
        loss.backward()
        optimizer.step()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    return step


def training_images(overrides: Sequence[str]) -> int:
    """Return the number of training images, without the validation images, of the training with these overrides."""
    return len(composed(overrides)[1].training_dataset())


def device_of_training(config: DictConfig) -> torch.device:
    """Return the device on which the configuration's trainer computes."""
    return device_of("cpu" if config.trainer.accelerator == "cpu" else "auto")


def composed(overrides: Sequence[str]) -> tuple[DictConfig, ImageDataModule, CertifiedClassifier]:
    """Return configuration, data and module of the training with these overrides."""
    with initialize_config_dir(str(ROOT / "lipnet" / "conf"), version_base="1.3"):
        config = compose("train", list(overrides))
    config.paths.output_dir = config.paths.log_dir = "unused"
    data = make_data(config)
    return config, data, make_module(config, data)
