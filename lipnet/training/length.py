"""Length of a training, in optimizer steps, in batches of the loader and in time."""

from collections.abc import Callable
from math import inf

from lightning import Trainer
from lightning.pytorch.callbacks import Timer

from lipnet.training.batch_warmup import BatchWarmup
from lipnet.training.schedules import Length, PerStepSchedule


def steps_of(trainer: Trainer) -> float:
    """Return the number of optimizer steps of a training; infinite if only its time is limited."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, BatchWarmup) and trainer.max_epochs not in (None, -1):
            # Lightning refuses to count steps of a growing batch.
            trainer.fit_loop.setup_data()
            steps = callback.steps(int(trainer.num_training_batches), int(trainer.max_epochs or 0))
            return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)
    return trainer.estimated_stepping_batches


def batches_of(trainer: Trainer) -> float:
    """Return the number of the loader's batches in a training; infinite if only its time is limited."""
    grown = [each for each in trainer.callbacks if isinstance(each, BatchWarmup)]  # type: ignore[attr-defined]
    growth = grown[0] if grown else BatchWarmup({0: trainer.accumulate_grad_batches})
    batches, epochs, steps = trainer.num_training_batches, trainer.max_epochs, trainer.max_steps
    by_epochs = inf if epochs is None or epochs < 0 else epochs * batches
    return min(by_epochs, inf if steps < 0 else growth.batches(steps, batches))


def seconds_of(trainer: Trainer) -> float | None:
    """Return the time budget of a training in seconds, over all its starts; None without one."""
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
    return timers[0]._duration if timers else None


def fraction_of_time(trainer: Trainer) -> Callable[[], float]:
    """Return a function that returns the used fraction of the trainer's ``max_time``, the same in all processes.

    Raises:
        ValueError: for a trainer without a time budget.
    """
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
    if not timers or timers[0].time_remaining() is None:
        raise ValueError("a schedule over the time of a training needs its budget: set trainer.max_time=DD:HH:MM:SS")

    def fraction() -> float:
        elapsed, remaining = timers[0].time_elapsed(), timers[0].time_remaining()
        assert remaining is not None
        # Clocks differ, and different rates would drive the weights of the processes apart.
        used: float = trainer.strategy.broadcast(elapsed / (elapsed + remaining))
        return used

    return fraction


def length_for(schedule: PerStepSchedule, trainer: Trainer) -> Length:
    """Return the length of a training in the unit that a schedule needs, steps or time.

    Raises:
        ValueError: for a training without a limit in this unit.
    """
    if schedule.over == "time":
        return fraction_of_time(trainer)
    steps = steps_of(trainer)
    if not 1 <= steps < inf:
        raise ValueError(
            f"{type(schedule).__name__} needs the number of training steps, got {steps}: set trainer.max_epochs or "
            "trainer.max_steps, or use scheduler=timed_one_cycle"
        )
    return int(steps)


def progress_of(trainer: Trainer) -> Callable[[], float]:
    """Return a function that returns the fraction of the training that is done, the same in all processes.

    If both the time and the steps are limited, the larger fraction counts.

    Raises:
        ValueError: for a training without a limit.
    """
    steps = steps_of(trainer)
    timed = seconds_of(trainer) is not None
    if not timed and steps == inf:
        raise ValueError(
            "a loss whose radius grows with the training needs its length: set trainer.max_epochs, trainer.max_steps "
            "or trainer.max_time"
        )
    used = fraction_of_time(trainer) if timed else lambda: 0.0
    return lambda: min(1.0, max(used(), trainer.global_step / steps))
