"""Learning-rate schedules over a budget of time, for trainings that end when it is used up."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import cos, pi

from lightning import Trainer
from lightning.pytorch.callbacks import Timer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class TimedSchedule(ABC):
    """A schedule over the time of ``Trainer(max_time=...)``, a budget of all starts of a training together.

    `CertifiedClassifier` gives it the clock, and steps it after every optimizer step. Rates depend on how fast the
    machine is: two such trainings are not bit for bit the same.
    """

    @abstractmethod
    def factor(self, fraction: float) -> float:
        """What the peak rate is multiplied by, when this fraction of the time in [0, 1] is used up."""

    def __call__(self, optimizer: Optimizer, fraction: Callable[[], float]) -> LambdaLR:
        """Schedule the optimizer's rates, whose present values are the peaks, by what ``fraction`` answers."""
        return LambdaLR(optimizer, lambda _: self.factor(min(1.0, max(0.0, fraction()))))


class TimedOneCycle(TimedSchedule):
    r"""The 1cycle policy over a budget of time: one rise of the rate and one long fall, both half cosines.

    `OneCycle` with the fraction of the time x in place of that of the steps: from :math:`\eta / d` the rate rises to
    the peak :math:`\eta` at x = rise, and falls to :math:`\eta / (d\,e)` at x = 1.

    Args:
        rise: fraction of the time in which the rate rises, in (0, 1).
        initial_divisor: d, of the peak rate at the start.
        final_divisor: e, of the starting rate at the end.

    Raises:
        ValueError: for a setting out of range.

    Source: Smith & Topin, "Super-Convergence", arXiv 1708.07120.

    Example:
        >>> schedule = TimedOneCycle(rise=0.25, initial_divisor=25, final_divisor=4)
        >>> [round(schedule.factor(fraction), 4) for fraction in (0, 0.25, 0.625, 1)]
        [0.04, 1.0, 0.505, 0.01]
    """

    def __init__(self, rise: float = 0.3, initial_divisor: float = 25.0, final_divisor: float = 1e4) -> None:
        if not 0 < rise < 1:
            raise ValueError(f"rise must be a fraction in (0, 1), got {rise}")
        if not (initial_divisor >= 1 and final_divisor >= 1):
            raise ValueError(f"the divisors must be at least 1, got {initial_divisor} and {final_divisor}")
        self.rise, self.initial_divisor, self.final_divisor = rise, initial_divisor, final_divisor

    def factor(self, fraction: float) -> float:
        start, end = 1 / self.initial_divisor, 1 / (self.initial_divisor * self.final_divisor)
        if fraction < self.rise:
            return _half_cosine(start, 1.0, fraction / self.rise)
        return _half_cosine(1.0, end, (fraction - self.rise) / (1 - self.rise))


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + cos(pi * progress)) / 2


def fraction_of_time(trainer: Trainer) -> Callable[[], float]:
    """How much of the trainer's ``max_time`` is used up, whenever it is asked; the first process's, in all of them.

    Raises:
        ValueError: for a trainer that has no budget of time.
    """
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
    if not timers or timers[0].time_remaining() is None:
        raise ValueError("a schedule over the time of a training needs its budget: set trainer.max_time=DD:HH:MM:SS")

    def fraction() -> float:
        elapsed, remaining = timers[0].time_elapsed(), timers[0].time_remaining()
        assert remaining is not None
        # Clocks differ, and rates that differ would drive the processes' weights apart.
        used: float = trainer.strategy.broadcast(elapsed / (elapsed + remaining))
        return used

    return fraction
