"""Learning-rate schedules that are stated as fractions of the training."""

from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import MultiStepLR


def step_schedule(
    optimizer: Optimizer, *, total_epochs: int, at: Sequence[float] = (0.5, 0.75), gamma: float = 0.1
) -> MultiStepLR:
    """Multiply the learning rate by ``gamma`` at the given fractions of the training; stepped once an epoch.

    The paper's: 200 epochs, by 0.1 at 1/2 and 3/4 (Gorbunov et al., NeurIPS 2024, arXiv 2406.10019).

    Args:
        optimizer: whose learning rate is scheduled.
        total_epochs: length of the training.
        at: increasing fractions in (0, 1), rounded to whole epochs, but never to the start.
        gamma: the factor.

    Raises:
        ValueError: for fractions outside (0, 1) or not increasing.
    """
    if not all(0 < fraction < 1 for fraction in at) or list(at) != sorted(set(at)):
        raise ValueError(f"the schedule needs increasing fractions in (0, 1), received {list(at)}")
    milestones = [max(1, round(fraction * total_epochs)) for fraction in at]
    return MultiStepLR(optimizer, milestones=milestones, gamma=gamma)
