"""Layer settings shared by many tests."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lipnet.functional import skew_filter
from lipnet.layers.skew_orthogonal import SkewOrthogonal

# The layer as published: Singla & Feizi, ICML 2021.
PUBLISHED: dict[str, Any] = {"series": "taylor", "scaling": "reshaped", "train_terms": 5, "eval_terms": 12}
SCALINGS = ("jacobian", "reshaped")
# Every engine that a padding mode allows.
PATHS = [
    ("zeros", "series"),
    ("zeros", "dense"),
    ("circular", "series"),
    ("circular", "spectral"),
    ("circular", "dense"),
]


def hold_the_vectors(layer: SkewOrthogonal) -> None:
    """Fix the singular vectors to those of the current weight.

    The layer's gradient treats them as constants; finite differences can only confirm it if they are constant.
    """
    vectors = layer.scaling.converged(skew_filter(layer.weight.detach().double(), layer.groups))

    def held(skew: Tensor) -> list[Tensor]:
        return [each[: len(skew) // skew.shape[1]] for each in vectors]

    layer.scaling.converged = held  # type: ignore[method-assign]


def converge_the_stored_vectors(layer: SkewOrthogonal) -> None:
    """Store the singular vectors to which power iteration in training would converge for the current weight."""
    vectors = layer.scaling.converged(skew_filter(layer.weight.detach().double(), layer.groups))
    layer.scaling.store([each.to(layer.weight.dtype) for each in vectors])
