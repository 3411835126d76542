"""AutoAttack, through its authors' package."""

import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lipnet.certify.attacks.geometry import project

_EXTRA = "AutoAttack needs the package pyautoattack: pip install 'lipnet[attack]'"
# The package rounds images to float32, which must not leave the ball.
_INSIDE = 1 - 1e-5


@dataclass(frozen=True)
class AutoAttack:
    """The ensemble of Croce & Hein, ICML 2020 (arXiv 2003.01690), in the L2 norm.

    Its standard version is APGD on the cross-entropy, targeted APGD, targeted FAB and Square. It takes one radius for
    all images of a batch, so images with different radii go through it one by one: a check for hundreds of images, not
    for thousands. The package computes in float32, and the model in its own dtype.

    Attributes:
        attacks: a selection of ``"apgd-ce"``, ``"apgd-dlr"``, ``"apgd-t"``, ``"fab"``, ``"fab-t"``, ``"square"``; None
            for the four attacks of the standard version that suit the number of classes and the image size.
        queries: number of queries of Square, for each image.
        steps: number of steps of the others.
        seed: seed of all random numbers.

    Raises:
        ValueError: if the package is missing, for other attacks, and for fewer than one step or query.
    """

    attacks: tuple[str, ...] | None = None
    queries: int = 5000
    steps: int = 100
    seed: int = 0
    # Images with different radii take some seconds each, so batches are small for the progress bar to move.
    images_at_once: ClassVar[int] = 8

    def __post_init__(self) -> None:
        _package()
        unknown = set(self.attacks or ()) - {"apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"}
        if unknown or (self.attacks is not None and len(self.attacks) == 0):
            raise ValueError(f"attacks must be some of AutoAttack's, got {list(self.attacks or ())}")
        if self.queries < 1 or self.steps < 1:
            raise ValueError(f"queries and steps must be at least 1, got {self.queries} and {self.steps}")

    def perturb(self, model: nn.Module, images: Tensor, prediction: Tensor, epsilon: Tensor) -> Tensor:
        """Search for images within epsilon that the model classifies differently; arguments as in `PGD.perturb`."""
        found = images.clone()
        # The package draws from the global generator, and removes the trace function of a debugger or coverage tool.
        trace = sys.gettrace()
        try:
            with torch.random.fork_rng(), torch.enable_grad():
                for radius in sorted(set(epsilon.tolist())):
                    same = epsilon == radius
                    found[same] = self._attack(model, images[same], prediction[same], radius)
        finally:
            sys.settrace(trace)
        return found

    def _attack(self, model: nn.Module, images: Tensor, prediction: Tensor, radius: float) -> Tensor:
        # The package divides by zero for smaller radii.
        if radius < torch.finfo(torch.float32).eps:
            return images
        classes = model(images[:1]).shape[1]
        # APGD-T needs four logits, and Square's windows are a fifth of the image.
        unsuitable = {"apgd-t": classes <= 3, "square": images.shape[-2] < 5}
        standard = [name for name in ("apgd-ce", "apgd-t", "fab-t", "square") if not unsuitable.get(name)]

        def logits(x: Tensor) -> Tensor:
            scores: Tensor = model(x.to(images))
            return scores.float()

        attack = _package()(
            logits,
            attacks=list(self.attacks or standard),
            device=images.device,
            eps=radius * _INSIDE,
            norm="L2",
            seed=self.seed,
            version="custom",
        )
        attack.apgd.n_restarts = attack.fab.n_restarts = 1
        attack.apgd.n_iter = attack.apgd_targeted.n_iter = attack.fab.n_iter = self.steps
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, classes - 1)
        attack.square.n_queries = self.queries
        perturbed, _ = attack.run_standard_evaluation(images.float(), prediction, batch_size=len(images))
        offsets = perturbed.to(images) - images
        return images + project(images, offsets, torch.full_like(prediction, radius, dtype=images.dtype))


def _package() -> Any:
    """Return the package's class of attacks; raise ValueError if it is not installed."""
    try:
        import pyautoattack  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise ValueError(_EXTRA) from error
    return pyautoattack.AutoAttack
