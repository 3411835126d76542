"""Learning-rate schedules that are stated as fractions of the training."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import cos, pi

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR, OneCycleLR


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
        ValueError: for fractions outside (0, 1) or not increasing, and for a length that is not known.
    """
    if total_epochs < 1:
        raise ValueError(f"the schedule needs the number of epochs, got {total_epochs}: set trainer.max_epochs")
    if not all(0 < fraction < 1 for fraction in at) or list(at) != sorted(set(at)):
        raise ValueError(f"the schedule needs increasing fractions in (0, 1), got {list(at)}")
    milestones = [max(1, round(fraction * total_epochs)) for fraction in at]
    return MultiStepLR(optimizer, milestones=milestones, gamma=gamma)


class PerStepSchedule(ABC):
    """A schedule that is stepped after every optimizer step, over the whole training.

    `CertifiedClassifier` asks the trainer for the number of steps, and steps it.
    """

    @abstractmethod
    def __call__(self, optimizer: Optimizer, total_steps: int) -> LRScheduler:
        """Schedule the optimizer's rates, whose present values are the peaks, over ``total_steps`` >= 1 steps."""


class CosineWithWarmup(PerStepSchedule):
    r"""Linear warm-up, then half a cosine.

    With N steps, of which w = round(warmup N) warm up, step s (from 0) has the peak rate times

    .. math:: \frac{s + 1}{w}\ \ (s < w), \qquad
        f + \frac{1 - f}{2} \left(1 + \cos \pi \frac{s - w}{N - w}\right)\ \ (s \ge w).

    Args:
        warmup: fraction of the training that warms up, in [0, 1).
        final: f, the fraction of the peak rate that the end approaches, in [0, 1].

    Raises:
        ValueError: for a fraction out of range.

    Source: Loshchilov & Hutter, "SGDR", ICLR 2017 (arXiv 1608.03983), without restarts; the warm-up: Goyal et al.,
    arXiv 1706.02677.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> schedule = CosineWithWarmup(warmup=0.2)(optimizer, total_steps=10)
        >>> schedule.get_last_lr()
        [0.05]
    """

    def __init__(self, warmup: float = 0.05, final: float = 0.0) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup must be a fraction in [0, 1), got {warmup}")
        if not 0 <= final <= 1:
            raise ValueError(f"final must be a fraction in [0, 1], got {final}")
        self.warmup, self.final = warmup, final

    def __call__(self, optimizer: Optimizer, total_steps: int) -> LambdaLR:
        warmup_steps = min(round(self.warmup * total_steps), total_steps - 1)

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            # The schedule is stepped once more after the last step.
            progress = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
            return self.final + (1 - self.final) * (1 + cos(pi * progress)) / 2

        return LambdaLR(optimizer, factor)


class OneCycle(PerStepSchedule):
    r"""The 1cycle policy: one rise of the rate and one long fall, both half cosines.

    With N steps the rise ends at step :math:`a = \mathrm{rise}\,N - 1`, the fall at step N - 1:

    .. math:: c(u, v, x) = v + \frac{u - v}{2} (1 + \cos \pi x), \qquad
        \eta_s = c\left(\frac{\eta}{d}, \eta, \frac{s}{a}\right)\ (s \le a), \quad
        c\left(\eta, \frac{\eta}{d\,e}, \frac{s - a}{N - 1 - a}\right)\ (s > a)

    with the peak :math:`\eta`. If a range of momentum is given, it falls from its larger value to its smaller one while
    the rate rises, and rises while the rate falls.

    Args:
        rise: fraction of the training in which the rate rises, in (0, 1).
        initial_divisor: d, of the peak rate at the start.
        final_divisor: e, of the starting rate at the end.
        momentum: smallest and largest momentum (or first beta, of Adam's kind); None leaves the optimizer's.

    Raises:
        ValueError: for a setting out of range; when made, for an optimizer without momentum, if it is to be scheduled.

    Source: Smith & Topin, "Super-Convergence", arXiv 1708.07120; the half cosines are torch's.
    """

    def __init__(
        self,
        rise: float = 0.3,
        initial_divisor: float = 25.0,
        final_divisor: float = 1e4,
        momentum: Sequence[float] | None = None,
    ) -> None:
        if not 0 < rise < 1:
            raise ValueError(f"rise must be a fraction in (0, 1), got {rise}")
        if not (initial_divisor >= 1 and final_divisor >= 1):
            raise ValueError(f"the divisors must be at least 1, got {initial_divisor} and {final_divisor}")
        if momentum is not None and not (len(momentum) == 2 and 0 <= momentum[0] <= momentum[1] < 1):
            raise ValueError(f"momentum must be a smallest and a largest value in [0, 1), got {momentum}")
        self.rise, self.initial_divisor, self.final_divisor = rise, initial_divisor, final_divisor
        self.momentum = None if momentum is None else tuple(momentum)

    def __call__(self, optimizer: Optimizer, total_steps: int) -> OneCycleLR:
        smallest, largest = self.momentum or (0.0, 0.0)
        return OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=total_steps,
            pct_start=self.rise,
            div_factor=self.initial_divisor,
            final_div_factor=self.final_divisor,
            cycle_momentum=self.momentum is not None,
            base_momentum=smallest,
            max_momentum=largest,
        )
