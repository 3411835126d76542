"""Learning-rate schedules stated as fractions of the training."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import cos, pi
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR, OneCycleLR


def step_schedule(
    optimizer: Optimizer, *, total_epochs: int, at: Sequence[float] = (0.5, 0.75), gamma: float = 0.1
) -> MultiStepLR:
    """Multiply the learning rate by ``gamma`` at the given fractions of the training; stepped once an epoch.

    The paper uses 200 epochs, with 0.1 at 1/2 and 3/4 (Gorbunov et al., NeurIPS 2024, arXiv 2406.10019).

    Args:
        optimizer: optimizer whose learning rate is scheduled.
        total_epochs: length of the training.
        at: increasing fractions in (0, 1), rounded to whole epochs, at least 1.
        gamma: the factor.

    Raises:
        ValueError: for fractions outside (0, 1) or not increasing, and for an unknown length.
    """
    if total_epochs < 1:
        raise ValueError(f"total_epochs must be at least 1, got {total_epochs}: set trainer.max_epochs")
    if not all(0 < fraction < 1 for fraction in at) or list(at) != sorted(set(at)):
        raise ValueError(f"at must be increasing fractions in (0, 1), got {list(at)}")
    milestones = [max(1, round(fraction * total_epochs)) for fraction in at]
    return MultiStepLR(optimizer, milestones=milestones, gamma=gamma)


Length = int | Callable[[], float]
"""Length of a training: its number of steps, or a function that returns the used fraction of its time."""


class PerStepSchedule(ABC):
    """Schedule over the whole training that is stepped after every optimizer step.

    `CertifiedClassifier` passes the length of the training, in steps or time as ``over`` says, and steps it.
    """

    over: Literal["steps", "time"] = "steps"

    @abstractmethod
    def __call__(self, optimizer: Optimizer, length: Any) -> LRScheduler:
        """Return the schedule over a `Length`, with the optimizer's current learning rates as peaks."""


class CosineWithWarmup(PerStepSchedule):
    r"""Linear warm-up, then half a cosine.

    With N steps, of which w = min(round(warmup N), N - 1) warm up, step s (from 0) has the peak rate times

    .. math:: \frac{s + 1}{w}\ \ (s < w), \qquad
        f + \frac{1 - f}{2} \left(1 + \cos \pi \frac{s - w}{N - w}\right)\ \ (s \ge w).

    Args:
        warmup: fraction of the training that warms up, in [0, 1).
        final: f, the last rate as a fraction of the peak rate, in [0, 1].

    Raises:
        ValueError: for a fraction out of range.

    Source: Loshchilov & Hutter, "SGDR", ICLR 2017 (arXiv 1608.03983), without restarts; warm-up: Goyal et al.,
    arXiv 1706.02677.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> schedule = CosineWithWarmup(warmup=0.2)(optimizer, 10)
        >>> schedule.get_last_lr()
        [0.05]
    """

    def __init__(self, warmup: float = 0.05, final: float = 0.0) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup must be a fraction in [0, 1), got {warmup}")
        if not 0 <= final <= 1:
            raise ValueError(f"final must be a fraction in [0, 1], got {final}")
        self.warmup, self.final = warmup, final

    def __call__(self, optimizer: Optimizer, length: int) -> LambdaLR:
        warmup_steps = min(round(self.warmup * length), length - 1)

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / warmup_steps
            # The schedule is stepped once more after the last step.
            progress = min(1.0, (step - warmup_steps) / (length - warmup_steps))
            return self.final + (1 - self.final) * (1 + cos(pi * progress)) / 2

        return _StatedLambda(optimizer, factor, total_steps=length, warmup_steps=warmup_steps, final=self.final)


class _StatedLambda(LambdaLR):
    """LambdaLR whose state holds the settings of its function, which a resumed training compares."""

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float], **settings: float) -> None:
        self.settings = settings
        super().__init__(optimizer, factor)


class OneCycle(PerStepSchedule):
    r"""1cycle policy as in `torch.optim.lr_scheduler.OneCycleLR`: the rate rises, then falls, along half cosines.

    Over steps it is torch's schedule itself. Over time, for trainings that ``Trainer(max_time=...)`` ends, the fraction
    of the time budget that all starts together have used takes the place of the fraction of steps. These rates depend
    on the speed of the machine, so two such trainings are not bit for bit the same.

    Args:
        pct_start: fraction of the training in which the rate rises, in (0, 1).
        div_factor: peak rate divided by the first rate.
        final_div_factor: first rate divided by the last rate.
        momentum: smallest and largest momentum (or first beta, for Adam). The momentum falls while the rate rises. None
            keeps the optimizer's momentum.
        over: ``"steps"`` or ``"time"``.

    Raises:
        ValueError: for a setting out of range; when called, for an optimizer without a momentum to schedule.

    Source: Smith & Topin, "Super-Convergence", arXiv 1708.07120.
    """

    def __init__(
        self,
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        momentum: Sequence[float] | None = None,
        over: Literal["steps", "time"] = "steps",
    ) -> None:
        if not 0 < pct_start < 1:
            raise ValueError(f"pct_start must be a fraction in (0, 1), got {pct_start}")
        for name, divisor in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
            if not divisor >= 1:
                raise ValueError(f"{name} must be at least 1, got {divisor}")
        if momentum is not None and not (len(momentum) == 2 and 0 <= momentum[0] <= momentum[1] < 1):
            raise ValueError(f"momentum must be a smallest and a largest value in [0, 1), got {momentum}")
        if over not in ("steps", "time"):
            raise ValueError(f"over must be 'steps' or 'time', got {over!r}")
        self.over = over
        smallest, largest = momentum or (0.0, 0.0)
        shape = {"pct_start": pct_start, "div_factor": div_factor, "final_div_factor": final_div_factor}
        cycle = {"cycle_momentum": momentum is not None, "base_momentum": smallest, "max_momentum": largest}
        self._settings: dict[str, Any] = {**shape, **cycle}

    def __call__(self, optimizer: Optimizer, length: Length) -> OneCycleLR:
        peaks = [group["lr"] for group in optimizer.param_groups]
        if callable(length):
            return _OneCycleOverTime(optimizer, length, max_lr=peaks, **self._settings)
        return OneCycleLR(optimizer, max_lr=peaks, total_steps=length, **self._settings)


class _OneCycleOverTime(OneCycleLR):
    """OneCycleLR whose step number is the used fraction of the time, in billionths."""

    _STEPS = 10**9

    def __init__(self, optimizer: Optimizer, fraction: Callable[[], float], **settings: Any) -> None:
        self.fraction = fraction
        super().__init__(optimizer, total_steps=self._STEPS, **settings)

    def get_lr(self) -> list[float | Tensor]:
        self.last_epoch = round(min(1.0, max(0.0, self.fraction())) * (self._STEPS - 1))
        return super().get_lr()

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict().items() if name != "fraction"}
