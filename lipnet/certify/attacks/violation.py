"""Errors that report a wrong certificate."""

from pathlib import Path

import numpy as np
from torch import Tensor

from lipnet.files import atomic_write


class UnsoundCertificatesError(RuntimeError):
    """Certificates that claim more than is true: nothing based on them may be used."""


class CertificateViolationError(UnsoundCertificatesError):
    """An image with another prediction within the certified radius: the certificate is wrong.

    Attributes:
        index: the image's number.
        original, perturbed: float64 (C, H, W).
        distance: L2 between the two, rounded up.
        radius: the certified one, which is larger.
        prediction, perturbed_prediction: the class that is certified, and that of the perturbed image.
        path: the file that holds all this; None before it is saved.
    """

    def __init__(
        self,
        index: int,
        original: Tensor,
        perturbed: Tensor,
        distance: float,
        radius: float,
        prediction: int,
        perturbed_prediction: int,
    ) -> None:
        super().__init__(
            f"certificate violated: image {index} is certified as class {prediction} within {radius:.9g}, but an image "
            f"at L2 distance {distance:.9g} is class {perturbed_prediction}"
        )
        self.index, self.original, self.perturbed = index, original, perturbed
        self.distance, self.radius = distance, radius
        self.prediction, self.perturbed_prediction = prediction, perturbed_prediction
        self.path: Path | None = None

    def __str__(self) -> str:
        return super().__str__() + ("" if self.path is None else f"; both images are in {self.path}")

    def save(self, path: Path) -> None:
        """Write all attributes to an .npz file, whole or not at all."""
        values = {name: getattr(self, name) for name in ("index", "distance", "radius")}
        classes = {name: getattr(self, name) for name in ("prediction", "perturbed_prediction")}
        with atomic_write(path) as file:
            np.savez(file, original=self.original.numpy(), perturbed=self.perturbed.numpy(), **values, **classes)
        self.path = path
