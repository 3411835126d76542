"""Certificates of a model on images: prediction, certified L2 radius and correctness of each."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipnet.certify.bound import check_running
from lipnet.certify.logits import LogitBounds, logit_bounds
from lipnet.certify.precision import ieee_arithmetic


@dataclass(frozen=True)
class Certificates:
    """What was certified of B images; all tensors on the CPU.

    Attributes:
        prediction: the predicted classes, int64 (B,).
        radius: float64 (B,): no image within this L2 distance (pixels in [0, 1]) has another prediction; rounded down,
            and 0 where nothing is certified.
        correct: whether the prediction is the label, bool (B,).
    """

    prediction: Tensor
    radius: Tensor
    correct: Tensor


def certify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    batch_size: int = 256,
    lipschitz: LogitBounds | float | None = None,
) -> Certificates:
    """Certify a model on images, with the device and dtype that the model has.

    radius = (f_(1) - f_(2)) / (sqrt(2) K), K being the model's Lipschitz bound in its input pixels; with a last layer
    that declares bounds D of its own for each difference of two logits, radius = min over j of (f_y - f_j) / D[y, j].

    Args:
        model: from pixels in [0, 1] to logits, in evaluation mode.
        images: (B, C, H, W), pixels in [0, 1].
        labels: the true classes, integers (B,).
        batch_size: images that go through the model at once.
        lipschitz: the `logit_bounds` of exactly these weights, if they have already been computed; a number is K.

    Raises:
        ValueError: for pixels that are NaN or out of range, shapes that do not fit, and a model that
            `lipschitz_bound` refuses.
        TypeError: for a module without a rule.

    Source: Tsuzuku, Sato & Sugiyama, "Lipschitz-Margin Training", NeurIPS 2018 (arXiv 1802.04034); for each pair of
    logits: Singla, Singla & Feizi, ICLR 2022 (arXiv 2108.04062).
    """
    _check_images(images, labels)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, received {batch_size}")
    check_running(model)
    bounds = logit_bounds(model) if lipschitz is None else lipschitz
    if not isinstance(bounds, LogitBounds):
        bounds = LogitBounds(bounds)
    reference = reference_tensor(model)
    parts = []
    batches: tuple[Tensor, ...] = torch.split(images, batch_size)
    with torch.no_grad(), ieee_arithmetic(reference.device):
        for batch in batches:
            logits = model(batch.to(reference.device, reference.dtype))
            parts.append(bounds.certified_radius(logits.cpu()))
    prediction, radius = (torch.cat(values) for values in zip(*parts, strict=True))
    return Certificates(prediction, radius, prediction == labels.cpu())


def reference_tensor(model: nn.Module) -> Tensor:
    """A tensor with the device and the dtype of a model's arithmetic: those of its first parameter, if it has one."""
    return next(model.parameters(), torch.empty(0))


def _check_images(images: Tensor, labels: Tensor) -> None:
    if images.dim() != 4 or not images.is_floating_point() or len(images) == 0:
        raise ValueError(
            f"images must be floating and of shape (B, C, H, W), B >= 1, received {images.dtype} {tuple(images.shape)}"
        )
    whole = labels.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if labels.shape != images.shape[:1] or not whole:
        raise ValueError(
            f"labels must be {len(images)} integers, one for each image, received {labels.dtype} {tuple(labels.shape)}"
        )
    if not bool(images.isfinite().all()):
        count = int((~images.isfinite()).flatten(1).any(dim=1).sum())
        raise ValueError(
            f"pixels must be numbers in [0, 1], received NaN or infinity in {count} of {len(images)} images"
        )
    lowest, highest = float(images.min()), float(images.max())
    if lowest < 0 or highest > 1:
        raise ValueError(
            f"pixels must lie in [0, 1], received [{lowest:g}, {highest:g}]: the model normalises by itself"
        )
