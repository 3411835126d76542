"""The EMMA loss, whose radius grows during training, as functions and as modules."""

from math import sqrt

import torch.nn.functional as F
from torch import Tensor

from lipnet.functional.margins import parse_radius
from lipnet.training.loss_functions import logit_annealing, radii_to_others, scores_of
from lipnet.training.losses import LipschitzLoss, check_not_negative, check_positive


class EMMA(LipschitzLoss):
    r"""Module of the loss `emma`, with a radius that grows during training; labels are classes (B,).

    When a fraction t of the training is done, the radius is

    .. math:: \epsilon(t) = r\,\left(a + (b - a) \min(1, t / h)\right)

    for the target radius r. It grows from a r at the start to b r at the fraction h. `CertifiedClassifier` sets
    ``progress`` = t before each step; validation uses the radius of the last step.

    Args:
        radius: r, a number or text such as ``"36/255"``; L2, pixels in [0, 1].
        first, last: a and b, the factors of the radius; positive.
        ramp: h, the fraction of the training in which the radius grows, in (0, 1].
        lipschitz_constant: K, as in `LipschitzLoss`.

    Raises:
        ValueError: for a setting out of range, and as for `emma`.

    Source: Hu et al., NeurIPS 2023 (arXiv 2301.12549).

    Example:
        >>> loss = EMMA(radius=0.1)
        >>> loss.progress = 0.25
        >>> round(loss.present_radius(), 9)
        0.155
    """

    def __init__(
        self,
        radius: str | float = "36/255",
        first: float = 0.1,
        last: float = 3.0,
        ramp: float = 0.5,
        lipschitz_constant: float | None = None,
    ) -> None:
        super().__init__(lipschitz_constant)
        self.radius = parse_radius(radius)
        for name, value in {"radius": self.radius, "first": first, "last": last}.items():
            check_positive(name, value)
        if not 0 < ramp <= 1:
            raise ValueError(f"ramp must be a fraction in (0, 1], got {ramp}")
        self.first, self.last, self.ramp = first, last, ramp
        self.progress = 0.0

    def present_radius(self) -> float:
        """Return epsilon(t) for the current ``progress``."""
        return self.radius * (self.first + (self.last - self.first) * min(1.0, self.progress / self.ramp))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return emma(logits, labels, lipschitz_constant=self.radius_constant(), radius=self.present_radius())


class AnnealedEMMA(EMMA):
    r"""Logit annealing loss of the logits shifted by EMMA; labels are classes (B,).

    .. math:: -T\,(1 - p_y)^\beta \log p_y, \qquad p = \mathrm{softmax}\left(\frac{z' - \xi\,y}{T}\right)

    This is `logit_annealing` of the logits z' from `emma_shift`, at the radius of `EMMA`. In the numerator, y is the
    one-hot label.

    Args:
        radius, first, last, ramp, lipschitz_constant: as in `EMMA`.
        offset: :math:`\xi`, in logits, at least 0; by default 0, because EMMA's shift takes its place.
        temperature: T, which divides the logits.
        beta: the exponent, at least 0.

    Raises:
        ValueError: for a setting out of range, and as for `emma_shift` and `logit_annealing`.

    Source: Lai et al., "Block reflector orthogonal layers and logit annealing loss", ICML 2025 (arXiv 2505.15174).
    """

    def __init__(
        self,
        radius: str | float = "36/255",
        first: float = 0.1,
        last: float = 3.0,
        ramp: float = 0.5,
        offset: float = 0.0,
        temperature: float = 0.75,
        beta: float = 5.0,
        lipschitz_constant: float | None = None,
    ) -> None:
        super().__init__(radius, first, last, ramp, lipschitz_constant)
        check_not_negative("offset", offset)
        check_positive("temperature", temperature)
        check_not_negative("beta", beta)
        self.offset, self.temperature, self.beta = offset, temperature, beta

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        constant, radius = self.radius_constant(), self.present_radius()
        shifted = emma_shift(logits, labels, lipschitz_constant=constant, radius=radius)
        return logit_annealing(shifted, labels, offset=self.offset, temperature=self.temperature, beta=self.beta)


def emma_shift(logits: Tensor, labels: Tensor, *, lipschitz_constant: float | Tensor, radius: float) -> Tensor:
    r"""Raise each logit by the most that an attack within a radius can gain for its class, as EMMA does.

    .. math:: z'_j = z_j + D_{yj}\,\epsilon_j, \qquad \epsilon_j = \epsilon\,\mathrm{clip}(R_j / \epsilon,\ 0.01,\ 1),
        \qquad R_j = (z_y - z_j) / D_{yj}

    for the classes :math:`j \ne y`, and :math:`z'_y = z_y`. D is as in `correct_class_radius`: for a head with rows w,
    :math:`\|w_y - w_j\| K`. No gradient flows through :math:`\epsilon_j`. For a class nearer than the radius,
    :math:`\epsilon_j` is its distance :math:`R_j`, or 0.01 of the radius if that is larger. So the shift closes the
    margin, but hardly reverses it: reversed margins would dominate the loss.

    Args:
        logits: (B, C), floating, C >= 2.
        labels: classes (B,).
        lipschitz_constant: K, or one constant for each pair of logits, as in `correct_class_radius`.
        radius: :math:`\epsilon > 0`, L2, pixels in [0, 1].

    Returns:
        The shifted logits (B, C), in at least float32.

    Raises:
        ValueError: for logits, labels or constants of another shape or dtype.

    Source: Hu et al., "Unlocking deterministic robustness certification on ImageNet", NeurIPS 2023 (arXiv 2301.12549).

    Example:
        >>> import torch
        >>> logits = torch.tensor([[4.0, 3.0, 0.0]])
        >>> emma_shift(logits, torch.tensor([0]), lipschitz_constant=2**-0.5, radius=2.0)
        tensor([[4., 4., 2.]])
    """
    distances = radii_to_others(logits, labels, lipschitz_constant).detach()
    # The label's own distance is infinite. Its shift is set to 0 below.
    allowed = distances.clamp(0.01 * radius, radius)
    scores, index = scores_of(logits), labels.unsqueeze(1)
    if isinstance(lipschitz_constant, Tensor):
        shift = lipschitz_constant[labels].to(scores.dtype) * allowed
    else:
        shift = sqrt(2) * lipschitz_constant * allowed
    return scores + shift.scatter(1, index, 0.0)


def emma(logits: Tensor, labels: Tensor, *, lipschitz_constant: float | Tensor, radius: float) -> Tensor:
    r"""Compute the EMMA loss: the cross-entropy of the logits of `emma_shift`.

    .. math:: \mathrm{mean}\ \log \sum_j \exp(z_j - z_y + D_{yj}\,\epsilon_j)

    Args, Raises: as for `emma_shift`.

    Returns:
        The mean over the batch, a scalar.

    Source: Hu et al., "Unlocking deterministic robustness certification on ImageNet", NeurIPS 2023 (arXiv 2301.12549).

    Example:
        >>> import torch
        >>> emma(torch.tensor([[4.0, 3.0]]), torch.tensor([0]), lipschitz_constant=2**-0.5, radius=2.0)
        tensor(0.6931)
    """
    shifted = emma_shift(logits, labels, lipschitz_constant=lipschitz_constant, radius=radius)
    return F.cross_entropy(shifted, labels)
