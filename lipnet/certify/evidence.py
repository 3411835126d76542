"""What the certificates of a model rest on, computed once: the bounds K and E, the layers, and what is measured."""

from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from lipnet.certify.certificates import Certificates, certify, reference_tensor
from lipnet.certify.deviation import measured_deviation
from lipnet.certify.layers import layer_report
from lipnet.certify.logits import LogitBounds, logit_bounds
from lipnet.certify.rounding import RoundingBounds, rounding_bounds


class Evidence:
    """The bounds of one model for images of one shape, and certificates by them.

    In float64 radii cover the rounding; in another dtype they are those of exact arithmetic, and `summary` says so.

    Args:
        model: from pixels in [0, 1] to logits, in evaluation mode; its weights must not change any more.
        image_shape: (C, H, W) of one image.

    Raises:
        ValueError: for weights that are not finite, and as `certify`.
        TypeError: as `certify`.
    """

    def __init__(self, model: nn.Module, image_shape: tuple[int, ...]) -> None:
        self.model, self.image_shape = model, image_shape
        self.bounds: LogitBounds = logit_bounds(model)
        if not isfinite(self.bounds.lipschitz):
            raise ValueError("the model's weights are not finite: there is nothing to certify")
        covered = reference_tensor(model).dtype == torch.float64
        self.rounding: RoundingBounds | None = rounding_bounds(model, image_shape) if covered else None

    def certify(self, images: Tensor, labels: Tensor) -> Certificates:
        """The certificates of a batch; errors as `lipnet.certify.certify`."""
        return certify(
            self.model,
            images,
            labels,
            batch_size=len(images),
            lipschitz=self.bounds,
            rounding=self.rounding,
            ignore_rounding=self.rounding is None,
        )

    def facts(self) -> dict[str, Any]:
        """The numbers on which every radius rests: K, and E or None."""
        bound = None if self.rounding is None else self.rounding.logits
        return {"lipschitz_bound": self.bounds.lipschitz, "rounding_bound": bound}

    def summary(self, images: Tensor) -> dict[str, Any]:
        """What a summary says of it, as JSON has it: ``rounding``, with what is measured on these images, and
        ``layers``."""
        layers = [asdict(layer) for layer in layer_report(self.model, self.image_shape, self.rounding)]
        rounding: dict[str, Any] = {"covered": self.rounding is not None}
        if self.rounding is not None:
            rounding["logits"] = self.rounding.logits
            rounding["radius"] = self._radius_cost(self.rounding)
            rounding["measured"] = asdict(measured_deviation(self.model, images))
        plain: dict[str, Any] = _plain({"rounding": rounding, "layers": layers})
        return plain

    def _radius_cost(self, rounding: RoundingBounds) -> float:
        """What the rounding takes of a radius: of the largest, where it differs from pair to pair."""
        if self.bounds.pairwise is None or rounding.pairwise is None:
            return 2 * rounding.logits / self.bounds.lipschitz
        apart = ~torch.eye(len(rounding.pairwise), dtype=torch.bool)
        return float((2 * rounding.pairwise / self.bounds.pairwise.cpu())[apart].max())


def rounding_sentence(summary: Mapping[str, Any]) -> str:
    """What a summary says of the rounding, in words.

    Example:
        >>> rounding_sentence({"dtype": "float32", "rounding": {"covered": False}})
        'Rounding in float32 is not covered: the radii are those of exact arithmetic.'
    """
    rounding = summary["rounding"]
    if not rounding["covered"]:
        return f"Rounding in {summary['dtype']} is not covered: the radii are those of exact arithmetic."
    measured = rounding["measured"]
    logits, radius = (_number(rounding[name]) for name in ("logits", "radius"))
    double, single = (_number(measured[name]) for name in ("float64", "float32"))
    return (
        f"Rounding is covered: computed logits are within {logits} of exact ones, which takes {radius} of each radius. "
        f"Measured on {measured['images']} images, not proved: as it is deployed, the model is within {double} of them "
        f"in float64, and within {single} in float32."
    )


def _number(value: float | None) -> str:
    return "an unknown distance" if value is None else f"{value:.1e}"


def _plain(value: Any) -> Any:
    """The same as JSON has it, which has no infinities."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
