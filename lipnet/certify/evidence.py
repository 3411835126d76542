"""The bounds of one model, computed once, and the certificates based on them."""

import json
from dataclasses import asdict
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from lipnet.certify.arithmetic import reference_tensor
from lipnet.certify.bounds import LogitBounds, logit_bounds
from lipnet.certify.certificates import Certificates, certify, measured_deviation
from lipnet.certify.checks import check_computes_as_declared
from lipnet.certify.report import layer_report
from lipnet.certify.rounding import RoundingBounds, rounding_bounds
from lipnet.layers.identity import model_sha256, state_of, values_sha256


class Evidence:
    """Bounds of one model for images of one shape, computed once, and certificates based on them.

    For a float64 model, radii account for rounding. For another dtype, they do not, and `summary` says so.

    Args:
        model: from pixels in [0, 1] to logits, in evaluation mode; a change of it from now on is an error.
        image_shape: (C, H, W) of one image.

    Attributes:
        bounds: the `LogitBounds` of the model.
        rounding: its `RoundingBounds`; None unless the model is float64.
        model_sha256: SHA-256 of the model when the bounds were computed, see `lipnet.layers.identity`.

    Raises:
        ValueError: for an infinite bound, for logits that do not depend on the image, and as for `certify`.
        TypeError: as for `certify`.
    """

    def __init__(self, model: nn.Module, image_shape: tuple[int, ...]) -> None:
        check_computes_as_declared(model)
        self.model, self.image_shape = model, image_shape
        self._state, self._values = state_of(model), values_sha256(model)
        self.model_sha256 = model_sha256(model)
        self.bounds: LogitBounds = logit_bounds(model)
        if not isfinite(self.bounds.lipschitz):
            raise ValueError(
                "the model's Lipschitz bound is infinite: some weights are not finite or far too large; "
                "print(lipnet.certify.explain(model)) shows the bound of each module"
            )
        if self.bounds.lipschitz == 0:
            raise ValueError("the model's Lipschitz bound is 0: its logits do not depend on the image")
        covered = reference_tensor(model).dtype == torch.float64
        self.rounding: RoundingBounds | None = rounding_bounds(model, image_shape) if covered else None

    def certify(self, images: Tensor, labels: Tensor) -> Certificates:
        """Return the certificates of a batch.

        Raises:
            RuntimeError: if the model is another one than when its bounds were computed.
            ValueError, TypeError: as for `lipnet.certify.certify`.
        """
        self._check(state_of(self.model) == self._state)
        return certify(
            self.model,
            images,
            labels,
            batch_size=len(images),
            lipschitz=self.bounds,
            rounding=self.rounding,
            ignore_rounding=self.rounding is None,
        )

    def check_unchanged(self) -> None:
        """Compare all weights, which finds writes through ``.data``, too; RuntimeError if the model was changed."""
        self._check(values_sha256(self.model) == self._values)

    def _check(self, unchanged: bool) -> None:
        if not unchanged:
            raise RuntimeError(
                "the model was changed after its bounds were computed, so they no longer hold; begin again with the "
                "changed model"
            )

    def facts(self) -> dict[str, Any]:
        """Return the two numbers behind every radius: K, and E, which is None if it is infinite or not covered."""
        bound = None if self.rounding is None else self.rounding.logits
        if bound is not None and not isfinite(bound):
            bound = None  # JSON has no infinities
        return {"lipschitz_bound": self.bounds.lipschitz, "rounding_bound": bound}

    def summary(self, images: Tensor) -> dict[str, Any]:
        """Return the summary's entries ``layers`` and ``rounding``, as JSON values.

        Args:
            images: (B, C, H, W), on which the deviation of the deployed model is measured.
        """
        layers = [asdict(layer) for layer in layer_report(self.model, self.image_shape, self.rounding)]
        rounding: dict[str, Any] = {"covered": self.rounding is not None}
        if self.rounding is not None:
            rounding |= {"logits": self.rounding.logits, "radius": self.rounding.radius_cost(self.bounds)}
            rounding["measured"] = asdict(measured_deviation(self.model, images))
        text = json.dumps({"rounding": rounding, "layers": layers})
        # JSON has no infinities: write null in their place.
        entries: dict[str, Any] = json.loads(text, parse_constant=lambda constant: None)
        return entries
