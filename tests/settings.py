"""Settings of layers that many tests share."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lipnet.functional import skew_filter
from lipnet.layers.skew_orthogonal import SkewOrthogonal

# The layer as published: Singla & Feizi, ICML 2021.
PUBLISHED: dict[str, Any] = {"series": "taylor", "scaling": "reshaped", "train_terms": 5, "eval_terms": 12}
SCALINGS = ("jacobian", "reshaped")
# Every way to the exponential that a padding mode allows.
PATHS = [
    ("zeros", "series"),
    ("zeros", "dense"),
    ("circular", "series"),
    ("circular", "spectral"),
    ("circular", "dense"),
]


def hold_the_vectors(layer: SkewOrthogonal) -> None:
    """Let an evaluation of other weights use the vectors of the present ones.

    The gradient is the one with the singular vectors held fixed, which finite differences can only check if they are.
    """
    vectors = layer.scaling.converged(skew_filter(layer.weight.detach().double(), layer.groups))

    def held(skew: Tensor) -> list[Tensor]:
        return [each[: len(skew) // skew.shape[1]] for each in vectors]

    layer.scaling.converged = held  # type: ignore[method-assign]


def converge_the_stored_vectors(layer: SkewOrthogonal) -> None:
    """Store the vectors that many steps of training with these weights would lead to."""
    vectors = layer.scaling.converged(skew_filter(layer.weight.detach().double(), layer.groups))
    layer.scaling.store([each.to(layer.weight.dtype) for each in vectors])
