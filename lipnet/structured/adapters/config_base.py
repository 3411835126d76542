"""Base class of the configurations of adapters."""

from abc import ABC, abstractmethod
from typing import ClassVar

from lipnet.structured.updates import WeightUpdate


class AdapterConfig(ABC):
    """Structure of an adapter and its settings. Subclasses are frozen dataclasses of plain values.

    Attributes:
        merges: as in `WeightUpdate`.
    """

    merges: ClassVar[bool] = True

    @abstractmethod
    def build(self, out_features: int, in_features: int) -> WeightUpdate:
        """Return a new update of a weight (out_features, in_features).

        Raises:
            ValueError: if the settings do not fit the shape.
        """


def check_counts(**counts: int) -> None:
    """Raise ValueError unless all values, given by their names, are whole numbers of at least 1."""
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
