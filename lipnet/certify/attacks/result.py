"""Results of an attack, and figures computed from them."""

from dataclasses import dataclass

from torch import Tensor

from lipnet.certify.attacks.violation import UnsoundCertificatesError
from lipnet.certify.certificates import Certificates
from lipnet.functional.margins import parse_radius


@dataclass(frozen=True, eq=False)
class AttackResult:
    """Results of an attack on B certified images; all tensors on the CPU.

    Attributes:
        certificates: the attacked certificates.
        distance: float64 (B,), the smallest L2 distance, rounded up, at which another prediction was found and
            confirmed in float64; infinite where none was found.
        unconfirmed: number of predictions that changed in the model's own precision, but not in float64.
        nearest: float32 (B, C, H, W), the images at these distances, or the original image where none was found; None
            if they were not kept.
        nearest_prediction: int64 (B,), their predictions in float64, before the images were rounded to float32; None if
            they were not kept.

    Example:
        >>> import torch
        >>> certificates = Certificates(torch.tensor([3, 5]), torch.tensor([0.2, 0.1]), torch.tensor([True, True]))
        >>> result = AttackResult(certificates, torch.tensor([0.28, 0.13]), unconfirmed=0)
        >>> result.accuracies("0.15")
        {'certified': 0.5, 'under_attack': 0.5, 'clean': 1.0}
        >>> result.power(1.5)
        1.0
    """

    certificates: Certificates
    distance: Tensor
    unconfirmed: int
    nearest: Tensor | None = None
    nearest_prediction: Tensor | None = None

    def accuracies(self, radius: str) -> dict[str, float]:
        """Return the fractions of images that are certified, correct under attack, and correct without an attack.

        Args:
            radius: in pixels of [0, 1], as text such as ``"36/255"``.

        Returns:
            The fractions under the keys ``certified``, ``under_attack`` and ``clean``.

        Raises:
            UnsoundCertificatesError: unless certified <= under attack <= clean.
        """
        r, correct = parse_radius(radius), self.certificates.correct
        certified = _share(correct & (self.certificates.radius > r))
        under_attack, clean = _share(correct & (self.distance > r)), _share(correct)
        if not certified <= under_attack <= clean:
            raise UnsoundCertificatesError(
                f"at radius {radius} the shares are out of order: certified {certified}, under attack {under_attack}, "
                f"clean {clean}"
            )
        return {"certified": certified, "under_attack": under_attack, "clean": clean}

    def power(self, factor: float) -> float | None:
        """Return the fraction of certified images that flipped within ``factor`` times their radius.

        Here an image is certified if its radius is not 0, even if it is misclassified. None if no image is certified.
        """
        certified = self.certificates.radius > 0
        flipped = self.distance[certified] <= factor * self.certificates.radius[certified]
        return _share(flipped) if len(flipped) else None


def _share(which: Tensor) -> float:
    return float(which.double().mean())
