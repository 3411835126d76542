"""Losses that raise certified accuracy, as modules.

| loss | needs K, the constant from pixels to logits | labels |
| --- | --- | --- |
| ``torch.nn.CrossEntropyLoss`` | no | classes (B,), or probabilities (B, C) |
| `OffsetCrossEntropy` | yes | classes (B,), or probabilities (B, C) |
| `CertificateRegularization` | yes, or for each pair | classes (B,) |
| `LogitAnnealing` | no | classes (B,) |
| `MulticlassHinge` | yes, or for each pair | classes (B,) |
| `lipnet.training.emma.EMMA`, `AnnealedEMMA` | yes, or for each pair | classes (B,) |

All but the first two are defined for one correct class and raise an error for mixed labels.
"""

from collections.abc import Callable
from copy import copy
from math import inf, prod
from typing import Self

from torch import Tensor, nn

from lipnet.functional.margins import parse_radius
from lipnet.layers import Normalize
from lipnet.training.loss_functions import (
    certificate_regularization,
    logit_annealing,
    multiclass_hinge,
    offset_cross_entropy,
)


class LipschitzLoss(nn.Module):
    """Loss that needs K, the Lipschitz constant from pixels in [0, 1] to logits.

    A head may have one constant for each difference of two logits: K of the network before the head, times the distance
    between the head's two rows. Losses of radii then use these constants.

    Args:
        lipschitz_constant: K; None for the network's own, which `CertifiedClassifier` fills in.

    Raises:
        ValueError: for a K that is not positive and finite; in calls, while K is None.
    """

    def __init__(self, lipschitz_constant: float | None = None) -> None:
        super().__init__()
        if lipschitz_constant is not None:
            check_positive("lipschitz_constant", lipschitz_constant)
        self.lipschitz_constant = lipschitz_constant
        self._row_distances: Callable[[], Tensor] | None = None

    def for_network(self, lipschitz_constant: float, row_distances: Callable[[], Tensor] | None = None) -> Self:
        """Return a copy of this loss for a network.

        Args:
            lipschitz_constant: K, used if this loss has none.
            row_distances: returns the current distances (C, C) between the rows of the network's head; None for a head
                with one constant for all logits.
        """
        check_positive("lipschitz_constant", lipschitz_constant)
        other = copy(self)
        if other.lipschitz_constant is None:
            other.lipschitz_constant = lipschitz_constant
        other._row_distances = row_distances
        return other

    def constant(self) -> float:
        """Return K; raise ValueError while it is None."""
        if self.lipschitz_constant is None:
            raise ValueError(
                f"{type(self).__name__} needs the Lipschitz constant from pixels to logits: set lipschitz_constant"
            )
        return self.lipschitz_constant

    def radius_constant(self) -> float | Tensor:
        """Return the constant for radii: K, or K times the distances (C, C) between the head's rows."""
        return self.constant() if self._row_distances is None else self.constant() * self._row_distances()


class OffsetCrossEntropy(LipschitzLoss):
    """Module of the loss `offset_cross_entropy`; labels are classes (B,) or probabilities (B, C).

    Args:
        radius: the target radius, a number or text such as ``"36/255"``; L2, pixels in [0, 1].
        temperature: divides the logits, which are divided by K first.
        lipschitz_constant: K, as in `LipschitzLoss`.

    Raises:
        ValueError: for a setting out of range; in calls, as for the function.
    """

    def __init__(
        self, radius: str | float = "36/255", temperature: float = 0.25, lipschitz_constant: float | None = None
    ) -> None:
        super().__init__(lipschitz_constant)
        check_positive("temperature", temperature)
        self.radius, self.temperature = parse_radius(radius), temperature

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return offset_cross_entropy(
            logits, labels, lipschitz_constant=self.constant(), radius=self.radius, temperature=self.temperature
        )


class CertificateRegularization(LipschitzLoss):
    """Module of the loss `certificate_regularization`; labels are classes (B,).

    Args:
        gamma: weight of the certified radius, at least 0.
        lipschitz_constant: K, as in `LipschitzLoss`.

    Raises:
        ValueError: for a setting out of range; in calls, as for the function.
    """

    def __init__(self, gamma: float = 0.5, lipschitz_constant: float | None = None) -> None:
        super().__init__(lipschitz_constant)
        check_not_negative("gamma", gamma)
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return certificate_regularization(logits, labels, lipschitz_constant=self.radius_constant(), gamma=self.gamma)


class LogitAnnealing(nn.Module):
    """Module of the loss `logit_annealing`; labels are classes (B,).

    Args:
        offset: in logits, at least 0.
        temperature: divides the logits.
        beta: the exponent, at least 0.

    Raises:
        ValueError: for a setting out of range; in calls, as for the function.
    """

    def __init__(self, offset: float = 2.0, temperature: float = 0.75, beta: float = 5.0) -> None:
        super().__init__()
        check_not_negative("offset", offset)
        check_positive("temperature", temperature)
        check_not_negative("beta", beta)
        self.offset, self.temperature, self.beta = offset, temperature, beta

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return logit_annealing(logits, labels, offset=self.offset, temperature=self.temperature, beta=self.beta)


class MulticlassHinge(LipschitzLoss):
    """Module of the loss `multiclass_hinge`; labels are classes (B,).

    Args:
        radius: the target radius, a number or text such as ``"36/255"``; L2, pixels in [0, 1].
        lipschitz_constant: K, as in `LipschitzLoss`.

    Raises:
        ValueError: for a setting out of range; in calls, as for the function.
    """

    def __init__(self, radius: str | float = "72/255", lipschitz_constant: float | None = None) -> None:
        super().__init__(lipschitz_constant)
        self.radius = parse_radius(radius)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return multiclass_hinge(logits, labels, lipschitz_constant=self.radius_constant(), radius=self.radius)


def nominal_lipschitz_constant(model: nn.Module) -> float:
    """Return the Lipschitz constant from pixels to logits if every layer but the normalisation is 1-Lipschitz.

    Losses use it to convert radii to margins. It is not a bound, and nothing is certified with it.
    """
    return prod(module.lipschitz_bound() for module in model.modules() if isinstance(module, Normalize))


def row_distances_of(model: nn.Module) -> Callable[[], Tensor] | None:
    """Return the method ``row_distances`` of the model's last module, or None if it has none."""
    last = model
    while isinstance(last, nn.Sequential) and len(last):
        last = last[-1]
    return getattr(last, "row_distances", None)


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless a setting is positive and finite."""
    if not 0 < value < inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")


def check_not_negative(name: str, value: float) -> None:
    """Raise ValueError unless a setting is finite and at least 0."""
    if not 0 <= value < inf:
        raise ValueError(f"{name} must be finite and at least 0, got {value}")
