"""How far a model as it is deployed is from the one that is certified: measured on images, not proved."""

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipnet.certify.certificates import explicit_arithmetic, logits_of, reference_tensor
from lipnet.certify.precision import ieee_arithmetic


@dataclass(frozen=True)
class Deviation:
    """Largest distances of a batch's logits, in the Euclidean norm, from those that the certificates speak of.

    Attributes:
        images: how many were measured.
        float64: of the model in float64 as it runs by itself, by whatever is fastest.
        float32: of the same model in float32.
        float32_predictions: how many images have another prediction in float32.
    """

    images: int
    float64: float
    float32: float
    float32_predictions: int


def measured_deviation(model: nn.Module, images: Tensor) -> Deviation:
    """Run a model in its certified arithmetic, as it is deployed in float64, and in float32, on the same images.

    Args:
        model: float64, in evaluation mode; it is not changed.
        images: (B, C, H, W), pixels in [0, 1].

    Raises:
        ValueError: for a model in another dtype.

    Example:
        >>> from lipnet.layers import SOC
        >>> model = nn.Sequential(SOC(3, 4), nn.Flatten(), nn.Linear(4 * 64, 10)).double().eval()
        >>> deviation = measured_deviation(model, torch.rand(5, 3, 8, 8))
        >>> deviation.float64 < 1e-12 < deviation.float32 < 1e-4
        True
    """
    reference = reference_tensor(model)
    if reference.dtype != torch.float64:
        raise ValueError(f"what is certified is a model in float64, got one in {reference.dtype}")
    with explicit_arithmetic(model):
        certified = logits_of(model, images)
    with ieee_arithmetic(reference.device):
        deployed = logits_of(model, images)
        single = logits_of(deepcopy(model).float().requires_grad_(False), images.float()).double()
    return Deviation(
        images=len(images),
        float64=_largest(deployed - certified),
        float32=_largest(single - certified),
        float32_predictions=int((single.argmax(dim=1) != certified.argmax(dim=1)).sum()),
    )


def _largest(differences: Tensor) -> float:
    return float(differences.norm(dim=1).max())
