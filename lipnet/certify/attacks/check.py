"""Attack certified images, to check that no certificate is wrong."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import Protocol

import torch
from torch import Tensor, nn

from lipnet.certify.arithmetic import explicit_arithmetic, ieee_arithmetic, logits_of, reference_tensor
from lipnet.certify.attacks.geometry import distances_up
from lipnet.certify.attacks.pgd import PGD
from lipnet.certify.attacks.result import AttackResult
from lipnet.certify.attacks.violation import CertificateViolationError
from lipnet.certify.certificates import Certificates
from lipnet.certify.checks import check_computes_as_declared
from lipnet.certify.inputs import checked_images
from lipnet.functional.margins import STANDARD_RADII, parse_radius

POWER_FACTORS: tuple[float, ...] = (1.1, 1.2, 1.5, 2.0)
"""Multiples of the certified radius at which an attack shows how much it finds."""

# A certificate holds for distances below its radius: search just inside.
_INSIDE = 1 - 1e-9
# Bisection steps between an image and a flipped one, to find the distance of the flip.
_HALVINGS = 12


class Attacker(Protocol):
    """The interface of an attack, such as `PGD` and `AutoAttack`."""

    def perturb(self, model: nn.Module, images: Tensor, prediction: Tensor, epsilon: Tensor) -> Tensor:
        """Return images in [0, 1] within the L2 distances epsilon, with another prediction where one was found.

        Arguments and shapes are those of `PGD.perturb`.
        """


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    certificates: Certificates,
    *,
    attacker: Attacker | None = None,
    radii: Sequence[str] = STANDARD_RADII,
    factors: Sequence[float] = POWER_FACTORS,
    batch_size: int = 256,
    indices: Sequence[int] | None = None,
) -> AttackResult:
    """Attack every certified image, whether its prediction is right or not.

    Each image is attacked just inside its certified radius, then at multiples of it, and, if its prediction is right,
    at fixed radii. A changed prediction counts if it is confirmed in float64, in the certified arithmetic; bisection
    then lowers its distance. An attack that finds nothing proves nothing; the changes that it finds beyond the radius
    show its power.

    Args:
        model: the certified model, in evaluation mode; the attack runs on its device and in its dtype.
        images: (B, C, H, W), pixels in [0, 1].
        labels: the true classes, (B,).
        certificates: the certificates of exactly these images.
        attacker: `PGD` by default.
        radii: fixed radii, as text.
        factors: multiples of the certified radius, above 1.
        batch_size: images per forward pass.
        indices: the images' numbers, for errors; 0, 1, ... by default.

    Raises:
        CertificateViolationError: for an image whose prediction changes within its certified radius, or whose own
            prediction is not the certified one.
        ValueError: for images, labels and certificates that do not belong together, a factor of 1 or less, a model in
            training mode, radii that cannot be read, and an attacker that returns other shapes, NaN or infinity.

    Example:
        >>> from lipnet.certify import certify
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).double().eval()
        >>> _ = model[1].weight.data.copy_(torch.eye(2)), model[1].bias.data.zero_()
        >>> images, labels = torch.tensor([[[[0.9, 0.1]]]]).double(), torch.tensor([0])
        >>> certificates = certify(model, images, labels)
        >>> result = attack(model, images, labels, certificates)
        >>> round(certificates.radius.item(), 4), result.power(1.1)
        (0.5657, 1.0)
    """
    images, labels = checked_images(images, labels)
    check_computes_as_declared(model)
    _check_certificates(certificates, labels)
    if not all(1 < factor < inf for factor in factors):
        raise ValueError(f"factors must be finite and more than 1, got {list(factors)}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    numbers = range(len(images)) if indices is None else indices
    reference = reference_tensor(model)
    exact = model if reference.dtype == torch.float64 else copy.deepcopy(model).double().requires_grad_(False)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    unconfirmed = 0
    with _frozen(model), ieee_arithmetic(reference.device):
        for first in range(0, len(images), batch_size):
            place = slice(first, first + batch_size)
            part = Certificates(certificates.prediction[place], certificates.radius[place], certificates.correct[place])
            search = _Search(model, exact, images[place].to(reference), part, numbers[place])
            epsilons = [part.radius * factor for factor in (_INSIDE, *sorted(factors))]
            epsilons += [part.correct.double() * r for r in sorted(map(parse_radius, radii))]
            for epsilon in epsilons:
                search.attack(attacker or PGD(), epsilon)
            found.append((search.distance, *search.nearest_images()))
            unconfirmed += search.unconfirmed
    distance, nearest, prediction = (torch.cat(parts) for parts in zip(*found, strict=True))
    return AttackResult(certificates, distance, unconfirmed, nearest, prediction)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Freeze the weights within the context, because layers compute differently while weights require gradients."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_()


def _check_certificates(certificates: Certificates, labels: Tensor) -> None:
    """Raise ValueError unless these may be the certificates of images with these labels."""
    shapes = [tuple(each.shape) for each in (certificates.prediction, certificates.radius, certificates.correct)]
    if shapes != [tuple(labels.shape)] * 3:
        raise ValueError(f"certificates must be those of {len(labels)} images, got tensors of shapes {shapes}")
    if not (certificates.prediction == labels.cpu()).equal(certificates.correct):
        raise ValueError("the certificates are not those of these labels: they disagree on which predictions are right")
    if not bool((certificates.radius >= 0).all()):
        raise ValueError("radii must be at least 0, got negative ones or NaN")


class _Search:
    """Search for the smallest distances at which the predictions of a batch change.

    Args:
        model: the model to attack; it may compute in float32.
        exact: the same model in float64, which confirms every change.
        images: (B, C, H, W), on the model's device.
        certificates: their certificates.
        numbers: the images' numbers, for errors.

    Attributes:
        distance: the smallest distances found so far, float64 (B,), on the CPU.
        unconfirmed: as in `AttackResult`.

    Raises:
        CertificateViolationError: from the constructor and from `attack`, once a certificate is shown to be wrong.
    """

    def __init__(
        self, model: nn.Module, exact: nn.Module, images: Tensor, certificates: Certificates, numbers: Sequence[int]
    ) -> None:
        self.model, self.exact, self.images, self.numbers = model, exact, images, numbers
        self.radius, self.prediction = certificates.radius, certificates.prediction.to(images.device)
        self.distance = torch.full((len(images),), inf, dtype=torch.float64)
        self.unconfirmed = 0
        self._nearest = images.double().clone()
        # Distance 0 first: each certified image must itself have the certified prediction.
        certified = self.radius > 0
        self._record(certified, images[certified.to(images.device)])

    def nearest_images(self) -> tuple[Tensor, Tensor]:
        """Return the nearest changed images, float32, and their predictions in float64; both on the CPU."""
        return self._nearest.float().cpu(), self._predict(self._nearest).cpu()

    def attack(self, attacker: Attacker, epsilon: Tensor) -> None:
        """Attack at the radii epsilon (B,), unless they are 0 or a nearer flip is already known."""
        wanted = (epsilon > 0) & (self.distance > epsilon)
        if bool(wanted.any()):
            there = wanted.to(self.images.device)
            images, prediction = self.images[there], self.prediction[there]
            found = attacker.perturb(self.model, images, prediction, epsilon[wanted].to(images)).detach()
            if found.shape != images.shape or not bool(found.isfinite().all()):
                raise ValueError(
                    f"{type(attacker).__name__}.perturb must return finite images of shape {tuple(images.shape)}, got "
                    f"shape {tuple(found.shape)}"
                )
            self._record(wanted, found)

    def _record(self, which: Tensor, end: Tensor) -> None:
        """Lower the distances of the images whose prediction changes.

        Args:
            which: bool (B,), on the CPU: the images that were attacked.
            end: the attacked images after the attack, in the same order.

        Raises:
            CertificateViolationError: if an image changes within its certified radius.
        """
        place = which.nonzero().squeeze(1)
        if len(place) == 0:
            return
        there = which.to(self.images.device)
        start, prediction = self.images[there], self.prediction[there]
        # Certificates only hold for pixels in [0, 1], which rounding may have left.
        end = end.clamp(0, 1)
        flipped = self._predict(end) != prediction
        if self.exact is not self.model:
            with torch.no_grad():
                self.unconfirmed += int(((self.model(end).argmax(dim=1) != prediction) & ~flipped).sum())
        if not bool(flipped.any()):
            return
        place, start, prediction = place[flipped.cpu()], start[flipped].double(), prediction[flipped]
        end = self._nearer(start, end[flipped].double(), prediction)
        distances = distances_up(start, end).cpu()
        closer = distances < self.distance[place]
        self._nearest[place[closer].to(end.device)] = end[closer.to(end.device)]
        self.distance[place] = torch.minimum(self.distance[place], distances)
        for i, number in enumerate(place.tolist()):
            distance, radius = float(self.distance[number]), float(self.radius[number])
            if distance < radius:
                index, changed = int(self.numbers[number]), int(self._predict(end[i : i + 1]))
                original, perturbed, certified = start[i].cpu(), end[i].cpu(), int(prediction[i])
                raise CertificateViolationError(index, original, perturbed, distance, radius, certified, changed)

    def _nearer(self, start: Tensor, end: Tensor, prediction: Tensor) -> Tensor:
        """Return images nearer to ``start`` that still have another prediction, by bisection from ``end``."""
        low = torch.zeros(len(start), 1, 1, 1, dtype=torch.float64, device=start.device)
        high, nearest = torch.ones_like(low), end
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            there = torch.lerp(start, end, middle.expand_as(start)).clamp(0, 1)
            flips = (self._predict(there) != prediction).view(-1, 1, 1, 1)
            low, high = torch.where(flips, low, middle), torch.where(flips, middle, high)
            nearest = torch.where(flips, there, nearest)
        return nearest

    def _predict(self, images: Tensor) -> Tensor:
        # Certificates are about this function: float64 weights in explicit arithmetic.
        with explicit_arithmetic(self.exact):
            return logits_of(self.exact, images).argmax(dim=1).to(images.device)
