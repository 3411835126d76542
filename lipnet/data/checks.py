"""Checks that several data modules share, and the lists of names in their errors."""

from collections.abc import Sequence
from numbers import Real

MAXIMUM_SEED = 2**32 - 1
_SHOWN = 5


def check_at_least(least: int, **values: int) -> None:
    """Raise ValueError if a value, given by its name, is below ``least``."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def check_fraction(name: str, value: float) -> None:
    """Raise ValueError unless a value is a number strictly between 0 and 1."""
    if not isinstance(value, Real) or not 0.0 < value < 1.0:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}")


def check_seed(name: str, value: int) -> None:
    """Raise ValueError unless a value is an integer from 0 to `MAXIMUM_SEED`."""
    if not isinstance(value, int) or not 0 <= value <= MAXIMUM_SEED:
        raise ValueError(f"{name} must be an integer from 0 to {MAXIMUM_SEED}, got {value!r}")


def few(names: Sequence[str], separator: str = ", ") -> str:
    """Join the first few texts, and state the number of the others."""
    more = [f"and {len(names) - _SHOWN:,} more"] if len(names) > _SHOWN else []
    return separator.join([*names[:_SHOWN], *more])
