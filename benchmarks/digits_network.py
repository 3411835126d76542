"""A network of the quickstart's size, trained on scikit-learn's digits."""

from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipnet.data import DigitsDataModule
from lipnet.data.spec import DIGITS_SPEC
from lipnet.models import build_model

SEED, STEPS, BATCH = 0, 400, 64
CONFIG: dict[str, Any] = {
    "_target_": "lipnet.models.LipConvNet",
    "num_classes": 10,
    "depth": 6,
    "stages": 3,
    "initial_channels": 16,
    "in_channels": 1,
    "image_size": 8,
    "conv": {"_target_": "lipnet.layers.GSSOC", "_partial_": True, "groups": [4, None]},
    "activation": {"_target_": "lipnet.layers.MaxMinPermuted", "_partial_": True},
    "mean": list(DIGITS_SPEC.mean),
    "std": DIGITS_SPEC.std,
}


def trained_network(steps: int = STEPS, **changes: Any) -> nn.Module:
    """Train the network, with changes to its configuration, by SGD; return it in float64 and evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = build_model(CONFIG | changes)
        images, labels = stacked(DigitsDataModule(augment=False).training_dataset())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(steps):
            batch = torch.randint(0, len(images), (BATCH,))
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.double().eval()


def stacked(dataset: Any, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Stack the first images and labels of a dataset, or all if count is None."""
    images, labels = zip(*islice(dataset, count), strict=True)
    return torch.stack(images), torch.tensor(labels)
