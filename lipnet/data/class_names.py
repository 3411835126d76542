"""Checks of the names of classes that are folders."""

import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from lipnet.data.checks import few


def check_class_names(root: Path, names: Sequence[str]) -> None:
    """Refuse names that look the same, and warn of names that only differ in case or spaces.

    Args:
        root: the folder that contains the folders of the classes.
        names: the names of these folders.

    Raises:
        ValueError: names only differ in their Unicode form, as the two spellings of an accented letter do.
    """
    twins = _alike(names, lambda name: unicodedata.normalize("NFC", name))
    if twins:
        raise ValueError(
            f"classes in {root} have names that look the same, but differ in their Unicode form: {few(twins)}; merge "
            "or rename their folders"
        )
    similar = _alike(names, lambda name: "".join(unicodedata.normalize("NFKC", name).casefold().split()))
    if similar:
        warnings.warn(
            f"classes in {root} have names that only differ in case or spaces: {few(similar)}; each folder is a class "
            "of its own, so merge those that should be one",
            stacklevel=2,
        )


def _alike(names: Sequence[str], key: Callable[[str], str]) -> list[str]:
    """Return those names that share their key with another name, as quoted ASCII."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[key(name)].append(ascii(name))
    return [name for group in groups.values() if len(group) > 1 for name in group]
