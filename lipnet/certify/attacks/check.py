"""Attack certificates, to check that none of them is wrong."""

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
from lipnet.certify.certificates import Certificates, checked_images
from lipnet.certify.checks import check_computes_as_declared
from lipnet.functional.margins import STANDARD_RADII, parse_radius

POWER_FACTORS: tuple[float, ...] = (1.1, 1.2, 1.5, 2.0)
"""Multiples of the certified radius at which an attack shows how much it finds."""

# The ball is open: search just inside it.
_INSIDE = 1 - 1e-9
# Bisection steps between an image and a flipped one, to find the distance of the flip.
_HALVINGS = 12


class Attacker(Protocol):
    """The interface of an attack, such as `PGD` and `AutoAttack`."""

    def perturb(self, model: nn.Module, images: Tensor, prediction: Tensor, epsilon: Tensor) -> Tensor:
        """Return images in [0, 1] within the L2 distances epsilon (B,), with another prediction where one was found."""


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

    An image is attacked just inside its certified radius, then at multiples of it, then, if its prediction is right, at
    fixed radii. A changed prediction counts once it is confirmed in float64, in the certified arithmetic; then the
    distance is lowered by bisection. An attack that finds nothing proves nothing; the changes that it finds
    beyond the radius show its power.

    Args:
        model: the certified model, in evaluation mode; its device and dtype are those of the attack.
        images: (B, C, H, W), pixels in [0, 1].
        labels: (B,).
        certificates: those of exactly these images.
        attacker: `PGD` by default.
        radii: fixed radii, as text.
        factors: multiples of the certified radius, more than 1.
        batch_size: images per forward pass.
        indices: the images' numbers, for errors; 0, 1, ... by default.

    Raises:
        CertificateViolationError: for an image whose prediction changes within its certified radius, or is wrong from
            the start.
        ValueError: for images, labels and certificates that do not belong together, a factor of 1 or less, a model in
            training mode, and radii that cannot be read.

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
    _check(model, labels, certificates, factors, batch_size)
    numbers = range(len(images)) if indices is None else indices
    search = _Search(model, attacker or PGD(), sorted(factors), sorted(map(parse_radius, radii)))
    parts: list[Tensor] = []
    with _frozen(model), ieee_arithmetic(reference_tensor(model).device):
        for first in range(0, len(images), batch_size):
            place = slice(first, first + batch_size)
            part = Certificates(certificates.prediction[place], certificates.radius[place], certificates.correct[place])
            parts.append(search.batch(images[place], part, numbers[place]))
    return AttackResult(certificates, torch.cat(parts), search.unconfirmed)


def _check(
    model: nn.Module, labels: Tensor, certificates: Certificates, factors: Sequence[float], batch_size: int
) -> None:
    check_computes_as_declared(model)
    shapes = [tuple(values.shape) for values in (certificates.prediction, certificates.radius, certificates.correct)]
    if shapes != [tuple(labels.shape)] * 3:
        raise ValueError(f"certificates must be those of {len(labels)} images, got tensors of shapes {shapes}")
    if not (certificates.prediction == labels.cpu()).equal(certificates.correct):
        raise ValueError("the certificates are not those of these labels: they disagree on which predictions are right")
    if not all(1 < factor < inf for factor in factors):
        raise ValueError(f"factors must be finite and more than 1, got {list(factors)}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Freeze the weights, so that the model computes as it does when it is certified."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_()


class _Search:
    """Searches for the smallest distances at which predictions change, batch by batch."""

    def __init__(self, model: nn.Module, attacker: Attacker, factors: list[float], radii: list[float]) -> None:
        self.model, self.attacker, self.factors, self.radii = model, attacker, factors, radii
        own = reference_tensor(model).dtype
        self.exact = model if own == torch.float64 else copy.deepcopy(model).double().requires_grad_(False)
        self.unconfirmed = 0

    def batch(self, images: Tensor, certificates: Certificates, numbers: Sequence[int]) -> Tensor:
        """Return the distances (B,), float64 on the CPU."""
        images = images.to(reference_tensor(self.model))
        distance = torch.full((len(images),), inf, dtype=torch.float64)
        # The images themselves first: each must have the prediction that is certified around it.
        self._record(images, images, certificates, certificates.radius > 0, distance, numbers)
        for epsilon in self._radii(certificates):
            # A nearer flip is already known.
            wanted = (epsilon > 0) & (distance > epsilon)
            if bool(wanted.any()):
                found = images.clone()
                there = wanted.to(images.device)
                prediction = certificates.prediction.to(images.device)[there]
                found[there] = self.attacker.perturb(
                    self.model, images[there], prediction, epsilon[wanted].to(images)
                ).detach()
                self._record(images, found, certificates, wanted, distance, numbers)
        return distance

    def _radii(self, certificates: Certificates) -> Iterator[Tensor]:
        yield certificates.radius * _INSIDE
        for factor in self.factors:
            yield certificates.radius * factor
        for radius in self.radii:
            yield torch.where(certificates.correct, radius, 0.0).double()

    def _record(
        self,
        images: Tensor,
        found: Tensor,
        certificates: Certificates,
        which: Tensor,
        distance: Tensor,
        numbers: Sequence[int],
    ) -> None:
        """Lower the distances, in place, for the images whose prediction changed."""
        place = which.nonzero().squeeze(1)
        if len(place) == 0:
            return
        there = place.to(images.device)
        # Certificates only hold for pixels in [0, 1]; rounding may have left the range.
        start, end = images[there], found[there].clamp(0, 1)
        prediction = certificates.prediction.to(images.device)[there]
        flipped = self._predict(end) != prediction
        if self.exact is not self.model:
            with torch.no_grad():
                self.unconfirmed += int(((self.model(end).argmax(dim=1) != prediction) & ~flipped).sum())
        if not bool(flipped.any()):
            return
        place, start, prediction = place[flipped.cpu()], start[flipped].double(), prediction[flipped]
        end = self._nearer(start, end[flipped].double(), prediction)
        distance[place] = torch.minimum(distance[place], distances_up(start, end).cpu())
        for i, number in enumerate(place.tolist()):
            if distance[number] < certificates.radius[number]:
                raise CertificateViolationError(
                    int(numbers[number]),
                    start[i].cpu(),
                    end[i].cpu(),
                    float(distance[number]),
                    float(certificates.radius[number]),
                    int(prediction[i]),
                    int(self._predict(end[i : i + 1])),
                )

    def _nearer(self, start: Tensor, end: Tensor, prediction: Tensor) -> Tensor:
        """Return nearer images with another prediction, by bisection towards the start."""
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
        # The function that the certificates are about.
        with explicit_arithmetic(self.exact):
            return logits_of(self.exact, images).argmax(dim=1).to(images.device)
