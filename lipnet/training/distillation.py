"""Knowledge distillation: training labels that a trained network, the teacher, has softened."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipnet.functional.digest import tensors_sha256


class Distillation:
    r"""Labels softened by a teacher: :math:`q = (1 - w)\,y + w\,\mathrm{softmax}(t(x) / T)`.

    y are the labels of a training step, as one-hot or mixed probabilities, and t(x) the teacher's logits for the same
    augmented images x. The teacher needs no Lipschitz bound, because no certificate uses it. It is frozen, put into
    evaluation mode, and not part of the checkpoints.

    Args:
        teacher: maps images (B, C, H, W), pixels in [0, 1], to logits (B, classes).
        weight: w, from 0 to 1.
        temperature: T, positive.
        run: record of the teacher's training (see `lipnet.training.RunRecord`), which the student's record includes;
            None if it is unknown.

    Raises:
        ValueError: for a setting out of range; in calls, if the teacher has another number of classes.

    Source: Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015 (arXiv 1503.02531); the same
    images for both networks: Beyer et al., CVPR 2022 (arXiv 2106.05237).

    Example:
        >>> teacher = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> _ = nn.init.zeros_(teacher[1].weight), nn.init.zeros_(teacher[1].bias)
        >>> distillation = Distillation(teacher, weight=0.5)
        >>> distillation.soften(torch.rand(1, 1, 2, 2), torch.tensor([0]), classes=2)
        tensor([[0.7500, 0.2500]])
    """

    def __init__(
        self, teacher: nn.Module, weight: float = 0.5, temperature: float = 1.0, run: Mapping[str, Any] | None = None
    ) -> None:
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must be from 0 to 1, got {weight}")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        self.teacher = teacher.eval().requires_grad_(False)
        self.weight, self.temperature, self.run = weight, temperature, run
        self.sha256 = tensors_sha256(teacher.state_dict())
        """SHA-256 of the teacher's weights."""

    def soften(self, images: Tensor, labels: Tensor, classes: int) -> Tensor:
        """Return the softened labels (B, classes).

        Args:
            images: (B, C, H, W), pixels in [0, 1].
            labels: classes (B,), or probabilities (B, classes).
            classes: number of classes.
        """
        with torch.no_grad():
            logits: Tensor = self.teacher(images)
            if logits.shape != (len(images), classes):
                raise ValueError(
                    f"the teacher must return logits of shape {(len(images), classes)}, got {tuple(logits.shape)}"
                )
            taught = (logits.float() / self.temperature).softmax(dim=1)
            given = F.one_hot(labels, classes).to(taught) if labels.dim() == 1 else labels.to(taught)
            return torch.lerp(given, taught, self.weight)
