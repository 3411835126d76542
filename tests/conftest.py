"""A LipConvNet small enough for 8 x 8 digits, as configuration, network, file, and after a short training."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import digits_network
from lipnet.data import DigitsDataModule
from lipnet.models import build_model, save_checkpoint

DATASET = {"name": "digits", "seed": 0, "validation_fraction": 0.1}
CONFIG = digits_network.CONFIG | {"depth": 3, "initial_channels": 8}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """For tensors this small more threads only wait for each other, for ten times as long on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits_dataset() -> dict[str, Any]:
    """What a checkpoint says of the digits; not to be changed."""
    return copy.deepcopy(DATASET)


@pytest.fixture(scope="session")
def tiny_config() -> dict[str, Any]:
    """The plain configuration of a GS-SOC LipConvNet-3 for the digits; not to be changed."""
    return copy.deepcopy(CONFIG)


@pytest.fixture
def tiny_model(tiny_config: dict[str, Any]) -> nn.Module:
    """That network with seeded weights, float32, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model(tiny_config).eval()


@pytest.fixture
def tiny_checkpoint(
    tmp_path: Path, tiny_model: nn.Module, tiny_config: dict[str, Any], digits_dataset: dict[str, Any]
) -> Path:
    """A file with that network."""
    path = tmp_path / "tiny.ckpt"
    save_checkpoint(path, tiny_model, tiny_config, digits_dataset)
    return path


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    """The 359 test images (359, 1, 8, 8), float64, and their labels (359,)."""
    return _images_of(DigitsDataModule().evaluation_dataset("test"))


@pytest.fixture(scope="session")
def _trained_weights(tiny_config: dict[str, Any]) -> dict[str, Tensor]:
    """Weights of the tiny network after 80 steps of SGD: about 90 % of the test images are classified correctly."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(tiny_config)
        images, labels = _images_of(DigitsDataModule(augment=False).training_dataset())
        images = images.float()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(80):
            batch = torch.randint(0, len(images), (64,))
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.state_dict()


@pytest.fixture
def trained_model(_trained_weights: dict[str, Tensor], tiny_model: nn.Module) -> nn.Module:
    """The tiny network after a short training, float64, in evaluation mode."""
    tiny_model.load_state_dict(_trained_weights)
    return tiny_model.double()


def _images_of(dataset: Any) -> tuple[Tensor, Tensor]:
    images, labels = zip(*dataset, strict=True)
    return torch.stack(images).double(), torch.tensor(labels)
