"""Projected gradient descent in the L2 norm, with random restarts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import cos, inf, pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipnet.certify.attacks.geometry import project, unit

Loss = Callable[[Tensor], Tensor]


def margin_loss(logits: Tensor, prediction: Tensor) -> Tensor:
    """Return max over j != y of f_j - f_y, (B,): positive where the prediction has changed."""
    return targeted_loss(logits, prediction, ranked_classes(logits, prediction, 1))


def cross_entropy_loss(logits: Tensor, prediction: Tensor) -> Tensor:
    """Return -log softmax(f)_y, (B,)."""
    return F.cross_entropy(logits, prediction, reduction="none")


def targeted_loss(logits: Tensor, prediction: Tensor, target: Tensor) -> Tensor:
    """Return f_j - f_y, (B,), with a target class j for each sample."""
    return (logits.gather(1, target.unsqueeze(1)) - logits.gather(1, prediction.unsqueeze(1))).squeeze(1)


def ranked_classes(logits: Tensor, prediction: Tensor, rank: int) -> Tensor:
    """Return the class ``rank`` places behind the prediction for each sample, (B,), or the last if there are fewer."""
    rank = min(rank, logits.shape[1] - 1)
    others = logits.scatter(1, prediction.unsqueeze(1), -inf)
    return others.topk(rank, dim=1).indices[:, -1]


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent on the prediction: the untargeted L2 attack of Madry et al., ICLR 2018.

    Each step follows the normalised gradient of a loss, and then returns to the nearest point of the ball and the pixel
    box. The step length falls from twice the radius to zero, as half a cosine. Each restart has its own loss: the
    margin to the strongest other class at each step, then the cross-entropy, then margins to one class: the second
    behind the image's prediction, the third, and so on. The first restart starts at the image, the others at random
    points of the sphere. Flipped images are not attacked further.

    Attributes:
        steps: number of steps of each restart.
        restarts: number of restarts.
        seed: seed of the random starts.

    Raises:
        ValueError: for fewer than one step or restart.
    """

    steps: int = 20
    restarts: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(f"steps and restarts must be at least 1, got {self.steps} and {self.restarts}")

    def perturb(self, model: nn.Module, images: Tensor, prediction: Tensor, epsilon: Tensor) -> Tensor:
        """Search for images within epsilon that the model classifies differently.

        Args:
            model: frozen, in evaluation mode.
            images: (B, C, H, W), pixels in [0, 1], with the model's device and dtype.
            prediction: the present classes, (B,).
            epsilon: the radius for each image, (B,).

        Returns:
            (B, C, H, W); the image itself where nothing was found.
        """
        generator = torch.Generator().manual_seed(self.seed)
        found = images.clone()
        left = torch.arange(len(images), device=images.device)
        for restart in range(self.restarts):
            start = torch.randn(images.shape, generator=generator, dtype=torch.float64).to(images)
            start = unit(start[left]) * (restart > 0) * epsilon[left].view(-1, 1, 1, 1)
            loss = _loss(model, images[left], prediction[left], restart)
            adversarial, flipped = self._descend(model, images[left], prediction[left], epsilon[left], start, loss)
            found[left[flipped]] = adversarial[flipped]
            left = left[~flipped]
            if len(left) == 0:
                break
        return found

    def _descend(
        self, model: nn.Module, images: Tensor, prediction: Tensor, epsilon: Tensor, start: Tensor, loss: Loss
    ) -> tuple[Tensor, Tensor]:
        """Run one restart; return the first flipped image of each sample, and whether there was one."""
        size = epsilon.view(-1, 1, 1, 1).to(images)
        adversarial, flipped = images.clone(), torch.zeros_like(prediction, dtype=torch.bool)
        offset = project(images, start, epsilon)
        for step in range(self.steps + 1):
            with torch.enable_grad():
                offset.requires_grad_()
                moved = images + offset
                logits = model(moved)
                (slope,) = torch.autograd.grad(loss(logits).sum(), offset)
            new = (logits.argmax(dim=1) != prediction) & ~flipped
            adversarial[new] = moved.detach()[new]
            flipped |= new
            if bool(flipped.all()):
                break
            length = size * (1 + cos(pi * step / self.steps))
            offset = project(images, offset.detach() + length * unit(slope), epsilon)
        return adversarial, flipped


def _loss(model: nn.Module, images: Tensor, prediction: Tensor, restart: int) -> Loss:
    """Return the loss of a restart, for these images."""
    if restart == 0:
        return partial(margin_loss, prediction=prediction)
    if restart == 1:
        return partial(cross_entropy_loss, prediction=prediction)
    with torch.no_grad():
        target = ranked_classes(model(images), prediction, restart)
    return partial(targeted_loss, prediction=prediction, target=target)
