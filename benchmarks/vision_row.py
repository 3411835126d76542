"""Train one row of the vision study in its own process.

    python -m benchmarks.vision_row FOLDER

FOLDER/job.json describes the training, see `Job`. The result goes to FOLDER/result.json. The training writes its state
file after every epoch, so that an interrupted row resumes there, and so that two rows can share a training.
"""

import json
import sys
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmarks.common import write_json
from benchmarks.vision_methods import HEAD, METHODS
from lipnet.data import DATAMODULES, ImageDataModule
from lipnet.files import atomic_write

# Channels of the residual blocks.
WIDTHS = (32, 64, 128, 208)
BATCH = 128
BASE = "base"
# Learning rate of the new head beside an adapter or everything else: for the head alone, it validates above 0.003.
HEAD_RATE = 1.5e-2


@dataclass(frozen=True)
class Job:
    """Training of one row, as its process reads it.

    Attributes:
        method: key of `METHODS`, or "base" for a training from scratch.
        seed: seed of the new weights, the validation images, the order and the augmentation.
        rate: peak learning rate; with "head", of the new head, else of everything but the head.
        epochs: number of epochs.
        data: key of `lipnet.data.DATAMODULES`.
        data_dir: folder of the data's files, if they have any.
        state: file for the state of the training.
        base: state file of the network to adapt.
        test: also measure the accuracy on the test images.
    """

    method: str
    seed: int
    rate: float
    epochs: int
    data: str
    data_dir: str
    state: str
    base: str = ""
    test: bool = False


class Block(nn.Module):
    """Residual block of two 3 x 3 convolutions; with a stride above 1, the shortcut averages pixels."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.append(nn.AvgPool2d(stride, ceil_mode=True))
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, bias=False))
            self.shortcut.append(nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def network(classes: int, channels: int = 3) -> nn.Sequential:
    """Return a residual network with a stem of stride 2 and a block for each of `WIDTHS`.

    Shape:
        (B, channels, H, W) to (B, classes).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["pixels"] = nn.BatchNorm2d(channels, affine=False)
    layers["stem"] = nn.Conv2d(channels, WIDTHS[0], 3, stride=2, padding=1, bias=False)
    layers["norm"], layers["relu"] = nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()
    for number, (before, width) in enumerate(zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False), 1):
        layers[f"stage{number}"] = Block(before, width, 1 if number == 1 else 2)
    layers["pooling"], layers["flatten"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    layers["head"] = nn.Linear(WIDTHS[-1], classes)
    # A step takes a sixth less time in this layout.
    return nn.Sequential(layers).to(memory_format=torch.channels_last)


def prepared(method: str, seed: int, classes: int, channels: int = 3, base: str = "") -> nn.Module:
    """Return the network of a job before its training.

    Args:
        method: key of `METHODS`, or "base" for a network without an adapter.
        seed: seed of the new weights.
        classes, channels: number of classes, and of the images' channels.
        base: state file whose weights the network gets, except for its head; empty for random weights.
    """
    torch.manual_seed(seed)
    model = network(classes, channels)
    if method == BASE:
        return model
    if base:
        state = torch.load(base, weights_only=True)["model"]
        kept = {name: each for name, each in state.items() if not name.startswith("head.")}
        model.load_state_dict(kept, strict=False)
    return METHODS[method].apply(model)


def make_optimizer(method: str, model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """Return SGD for a training from scratch, and Adam for an adaptation, in which the new head has its own rate."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if method == BASE:
        return torch.optim.SGD(trained.values(), rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    head = [parameter for name, parameter in trained.items() if name.startswith("head.")]
    if method == HEAD:
        return torch.optim.Adam(head, rate)
    others = [parameter for name, parameter in trained.items() if not name.startswith("head.")]
    return torch.optim.Adam([{"params": others, "lr": rate}, {"params": head, "lr": HEAD_RATE}])


def step(method: str, model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> float:
    """Make a training step and return the loss."""
    model.train() if method == BASE else METHODS[method].train_mode(model)
    loss = nn.functional.cross_entropy(model(images.contiguous(memory_format=torch.channels_last)), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def train(model: nn.Module, job: Job, data: ImageDataModule) -> list[dict[str, float]]:
    """Train, or resume from the state file; return loss, validation accuracy and seconds of each epoch."""
    loader, state = data.train_dataloader(), Path(job.state)
    optimizer = make_optimizer(job.method, model, job.rate)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=job.epochs * len(loader), pct_start=0.2, cycle_momentum=False
    )
    history: list[dict[str, float]] = []
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "schedule": schedule}
    if state.is_file():
        saved = torch.load(state, weights_only=True)
        history = saved["history"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    for epoch in range(len(history), job.epochs):
        start, losses = time.perf_counter(), []
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for images, labels in loader:
            losses.append(step(job.method, model, optimizer, images, labels))
            schedule.step()
        validation = accuracy(model, data.val_dataloader())
        seconds = time.perf_counter() - start
        history.append({"loss": fmean(losses), "validation": validation, "seconds": seconds})
        with atomic_write(state) as file:
            torch.save({name: part.state_dict() for name, part in parts.items()} | {"history": history}, file)
    return history


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the share of images that the network classifies correctly."""
    model.eval()
    correct = total = 0
    # Compute each adapted weight once for all batches.
    with parametrize.cached():
        for images, labels in batches:
            logits = model(images.contiguous(memory_format=torch.channels_last))
            correct, total = correct + int((logits.argmax(1) == labels).sum()), total + len(labels)
    return correct / total


def parameters_of(model: nn.Module) -> dict[str, int]:
    """Return the numbers of parameters of the network without adapters, of trained ones, and of the head's."""
    every = dict(model.named_parameters())
    adapters = sum(value.numel() for name, value in every.items() if ".updates." in name)
    return {
        "network": sum(value.numel() for value in every.values()) - adapters,
        "trained": sum(value.numel() for value in every.values() if value.requires_grad),
        "head": sum(value.numel() for name, value in every.items() if name.startswith("head.")),
    }


def data_of(job: Job) -> ImageDataModule:
    """Return the data of a job, with their usual crops and flips."""
    kind = DATAMODULES[job.data]
    options: dict[str, Any] = {"data_dir": job.data_dir} if job.data.startswith("cifar") else {}
    return kind(batch_size=BATCH, eval_batch_size=500, seed=job.seed, loader="memory", **options)


def perform(job: Job) -> dict[str, Any]:
    """Train, validate and, if the job says so, test; return the result."""
    data = data_of(job)
    model = prepared(job.method, job.seed, data.num_classes, data.spec.in_channels, job.base)
    history = train(model, job, data)
    result = {
        "parameters": parameters_of(model),
        "validation": history[-1]["validation"],
        "history": history,
        "seconds": sum(epoch["seconds"] for epoch in history),
    }
    return result | ({"test": accuracy(model, data.test_dataloader())} if job.test else {})


def main(folder: Path) -> None:
    write_json(folder / "result.json", perform(Job(**json.loads((folder / "job.json").read_text()))))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
