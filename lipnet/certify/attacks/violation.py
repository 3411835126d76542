"""Errors that report a wrong certificate."""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from torch import Tensor

from lipnet.files import atomic_write


class UnsoundCertificatesError(RuntimeError):
    """Certificates claim more than is true: nothing based on them may be used."""


@dataclass(eq=False)
class CertificateViolationError(UnsoundCertificatesError):
    """An image within the certified radius has another prediction: the certificate is wrong.

    Attributes:
        index: the image's number.
        original, perturbed: both images, float64 (C, H, W), pixels in [0, 1].
        distance: L2 distance between the two, rounded up.
        radius: the certified radius, which is larger.
        prediction, perturbed_prediction: the certified class, and the class of the perturbed image.
        path: the file that holds these values; None before it is saved.
    """

    index: int
    original: Tensor
    perturbed: Tensor
    distance: float
    radius: float
    prediction: int
    perturbed_prediction: int
    path: Path | None = None

    def __str__(self) -> str:
        return (
            f"certificate violated: image {self.index} is certified as class {self.prediction} within "
            f"{self.radius:.9g}, but an image at L2 distance {self.distance:.9g} is class {self.perturbed_prediction}"
        ) + ("" if self.path is None else f"; both images are in {self.path}")

    def save(self, path: Path) -> None:
        """Write all attributes except the path to an .npz file, whole or not at all."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "path"}
        with atomic_write(path) as file:
            np.savez(file, **values)
        self.path = path
