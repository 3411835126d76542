"""Images per second that each data path delivers to the training device, without a network.

    python -m benchmarks.data_path --output benchmarks/data_path_cpu.json

Images of CIFAR's size are cropped after padding by 4 and flipped, in batches of 128. ``memory`` and ``workers`` are the
choices of ``data.loader``; ``torchvision`` is an ordinary DataLoader of single images with torchvision's transforms.
All take turns in every round; the figures are medians.
"""

import argparse
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.common import machine, medians_in_turn, write_json
from lipnet.data import ImageDataModule, LabelledImages
from lipnet.data.spec import CIFAR10_SPEC

BATCH_SIZE = 128
# Images with a tensor of labels, or single images with an integer label.
Batches = DataLoader[tuple[Tensor, Tensor]] | DataLoader[tuple[Tensor, int]]


def noise(count: int) -> LabelledImages:
    """Return random images of CIFAR's size, the same ones at every call."""
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return LabelledImages(images, torch.arange(count) % 10, torch.arange(count), maximum=255)


class NoiseDataModule(ImageDataModule):
    """Noise in place of CIFAR-10, with the same augmentation and split.

    Args:
        count: number of training images.
        device: device that the images go to.
        **settings: see `ImageDataModule`.
    """

    spec = CIFAR10_SPEC
    usual_crop_padding = 4
    usual_flip = True

    def __init__(self, count: int, device: torch.device, **settings: Any) -> None:
        super().__init__(batch_size=BATCH_SIZE, **settings)
        self.count, self.device = count, device

    def read_images(self, train: bool) -> LabelledImages:
        return noise(self.count if train else 10)

    def _device(self) -> torch.device:
        return self.device


class TransformedImages(Dataset[tuple[Tensor, int]]):
    """Single images, transformed by torchvision."""

    def __init__(self, source: LabelledImages) -> None:
        self.source = source
        self.transform = v2.Compose(
            [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
        )

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.source.images[i]), int(self.source.labels[i])


def torchvision_loader(count: int, workers: int) -> Batches:
    """Return an ordinary loader of noise, with torchvision's transforms."""
    dataset = TransformedImages(noise(count))
    return DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def contestants(count: int, workers: list[int], device: torch.device) -> dict[str, Batches]:
    """Return the loaders to compare, by name."""
    loaders: dict[str, Batches] = {"memory": NoiseDataModule(count, device, loader="memory").train_dataloader()}
    for number in workers:
        module = NoiseDataModule(count, device, loader="workers", num_workers=number)
        loaders[f"workers, {number}"] = module.train_dataloader()
        loaders[f"torchvision, {number}"] = torchvision_loader(count, number)
    return loaders


def delivery(batches: Batches, device: torch.device) -> Callable[[], None]:
    """Return a function that moves all batches to the device."""

    def deliver() -> None:
        for images, labels in batches:
            images.to(device, non_blocking=True)
            labels.to(device, non_blocking=True)

    return deliver


def measure(count: int, workers: list[int], rounds: int, device: torch.device) -> dict[str, float]:
    """Return the median images per second of each path, after a round that warms up."""
    loaders = contestants(count, workers, device)
    medians = medians_in_turn({name: delivery(each, device) for name, each in loaders.items()}, device, rounds=rounds)
    return {name: round(len(cast(Sized, loaders[name].dataset)) / value, 1) for name, value in medians.items()}


def report(rates: dict[str, float]) -> Table:
    table = Table("data path", "images/s", title="images per second")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000, help="size of the dataset")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="numbers of worker processes to compare")
    parser.add_argument("--rounds", type=int, default=5, help="measured epochs after the warm-up")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()

    device = torch.device(arguments.device)
    rates = measure(arguments.images, arguments.workers, arguments.rounds, device)
    about = machine(device) | {"images": arguments.images, "batch_size": BATCH_SIZE, "rounds": arguments.rounds}
    console = Console()
    console.print(report(rates))
    console.print(", ".join(f"{key} {value}" for key, value in about.items()))
    if arguments.output is not None:
        write_json(arguments.output, {"machine": about, "images_per_second": rates})


if __name__ == "__main__":
    main()
