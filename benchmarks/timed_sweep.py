"""Sweep whose rows train for the same time, as numbers of steps, so that other load changes no result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from benchmarks.sweep import Row, Sweep


@dataclass(frozen=True)
class Length:
    """Length of the trainings of a `TimedSweep`.

    Attributes:
        minutes: time of a row.
        seconds: time of a training step of each row, by name.
        images: number of training images, without the validation images.
        epochs: smallest number of epochs. Rows with slow steps then have short ones.
    """

    minutes: float
    seconds: Mapping[str, float]
    images: int
    epochs: int

    def of(self, name: str, batch_size: int) -> tuple[int, int]:
        """Return the number of epochs, and the number of steps of each.

        Raises:
            ValueError: for a time that is shorter than a step.
        """
        steps = 60 * self.minutes / self.seconds[name]
        if steps < 1:
            raise ValueError(f"minutes must be enough for a step of {self.seconds[name]:.3g} s, got {self.minutes}")
        # No epoch may need more images than there are.
        epochs = min(int(steps), max(self.epochs, ceil(steps * batch_size / self.images)))
        return epochs, min(round(steps / epochs), max(1, self.images // batch_size))


class TimedSweep(Sweep):
    """Runs rows for the same time as numbers of steps; their base states the batch size.

    Args:
        work, output, more, threads, base: see `Sweep`.
        length: time of the rows and of their steps.
        validations: validate after every epoch; otherwise after the last one alone.
    """

    def __init__(
        self,
        work: Path,
        output: Path,
        length: Length,
        base: Sequence[str],
        more: Sequence[str] = (),
        threads: int = 1,
        validations: bool = False,
    ) -> None:
        super().__init__(work, output, more, threads, base)
        self.length, self.validations = length, validations

    def length_of(self, row: Row) -> Length:
        """Return the length of a row's training."""
        return self.length

    def overrides_of(self, row: Row) -> list[str]:
        """Return the overrides of a row's training, with its epochs and the steps of each."""
        stated = super().overrides_of(row)
        batch_size = [int(each.partition("=")[2]) for each in stated if each.startswith("data.batch_size=")][-1]
        epochs, batches = self.length_of(row).of(row.name, batch_size)
        return [
            *stated,
            f"trainer.max_epochs={epochs}",
            f"trainer.check_val_every_n_epoch={1 if self.validations else epochs}",
            f"trainer.limit_train_batches={batches}",
        ]
