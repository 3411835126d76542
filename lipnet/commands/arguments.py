"""Expand short forms of command-line arguments for Hydra."""

import re
from collections.abc import Sequence

from lipnet.files import resolve_path


def with_checkpoint_key(arguments: Sequence[str]) -> list[str]:
    """Put ``ckpt_path=`` before the first argument if it is a path instead of an override or an option.

    Raises:
        SystemExit: if another argument names the checkpoint, too.

    Example:
        >>> with_checkpoint_key(["runs/it's.ckpt", "n_samples=5"])
        ["ckpt_path='runs/it\\\\'s.ckpt'", 'n_samples=5']
    """
    first, *others = arguments or [""]
    if not first or first.startswith("-") or ("=" in first and not resolve_path(first).exists()):
        return list(arguments)
    if any(each.startswith("ckpt_path=") for each in others):
        raise SystemExit(f"error: the checkpoint must be named once, got {first} and ckpt_path=...")
    return [f"ckpt_path={quoted(first)}", *others]


def with_data_place(arguments: Sequence[str]) -> list[str]:
    """Rewrite ``data.data_dir=``, which a training takes, as ``paths.data_dir=``, unless a group ``data=`` is given.

    Example:
        >>> with_data_place(["RUN", "data.data_dir=photos"])
        ['RUN', 'paths.data_dir=photos']
        >>> with_data_place(["RUN", "data=folder", "data.data_dir=photos"])
        ['RUN', 'data=folder', 'data.data_dir=photos']
    """
    if any(each.startswith("data=") for each in arguments):
        return list(arguments)
    return [f"paths.{each[5:]}" if each.startswith("data.data_dir=") else each for each in arguments]


def with_compare_list(arguments: Sequence[str]) -> list[str]:
    """Rewrite ``compare=RUN1,RUN2``, which Hydra would take for a sweep, as a list; keep ``compare=[...]``.

    Example:
        >>> with_compare_list(["compare=logs/a,it's", "overwrite=true"])
        ["compare=[logs/a,'it\\\\'s']", 'overwrite=true']
    """
    return [
        f"compare=[{','.join(map(quoted, each.removeprefix('compare=').split(',')))}]"
        if each.startswith("compare=") and not each.startswith("compare=[") and each != "compare=null"
        else each
        for each in arguments
    ]


def with_empty_lists(arguments: Sequence[str]) -> list[str]:
    """Rewrite ``logger=null`` and ``callbacks=null``, which Hydra refuses for groups, as empty lists.

    Example:
        >>> with_empty_lists(["logger=null", "seed=1"])
        ['logger=[]', 'seed=1']
    """
    return [f"{each[:-4]}[]" if each in ("logger=null", "callbacks=null") else each for each in arguments]


def quoted(text: str) -> str:
    """Quote a text for Hydra: escape quotes, and backslashes before a quote. Leave plain paths as they are."""
    # The slash tells a path from a number, true or null.
    if "/" in text and re.fullmatch(r"[A-Za-z0-9_./-]+", text):
        return text
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text)
    return f"'{escaped}'"
