"""Differences between the settings of two trainings, as errors state them."""

from collections.abc import Mapping
from typing import Any


def differences(one: Mapping[str, Any], other: Mapping[str, Any], places: tuple[str, str]) -> str:
    """Return the entries in which two mappings differ, in their order; an entry that one of them lacks is None there.

    Args:
        one, other: values by name.
        places: where the values of each are from.

    Example:
        >>> differences({"lr": 0.1, "seed": 0}, {"lr": 0.2, "seed": 0, "loss": "emma"}, ("there", "here"))
        'lr: 0.1 there, 0.2 here; loss: None there, emma here'
    """
    first, second = places
    return "; ".join(
        f"{name}: {one.get(name)} {first}, {other.get(name)} {second}"
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    )
