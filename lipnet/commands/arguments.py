"""Short forms of arguments on the command line, written out for Hydra."""

import re
from collections.abc import Sequence

from lipnet.files import resolve_path


def with_checkpoint_key(arguments: Sequence[str]) -> list[str]:
    """Let the first argument of a command be the path of a checkpoint or run: put ``ckpt_path=`` before it.

    Example:
        >>> with_checkpoint_key(["runs/it's.ckpt", "n_samples=5"])
        ["ckpt_path='runs/it\\\\'s.ckpt'", 'n_samples=5']
    """
    first, *others = arguments or [""]
    if not first or first.startswith("-") or ("=" in first and not resolve_path(first).exists()):
        return list(arguments)
    return [f"ckpt_path={quoted(first)}", *others]


def with_compare_list(arguments: Sequence[str]) -> list[str]:
    """Let ``compare=RUN1,RUN2`` name a list, where Hydra would see a sweep; ``compare=[...]`` is left as it is.

    Example:
        >>> with_compare_list(["compare=logs/a,it's", "overwrite=true"])
        ["compare=['logs/a','it\\\\'s']", 'overwrite=true']
    """
    return [
        f"compare=[{','.join(map(quoted, each.removeprefix('compare=').split(',')))}]"
        if each.startswith("compare=") and not each.startswith("compare=[") and each != "compare=null"
        else each
        for each in arguments
    ]


def quoted(text: str) -> str:
    """Return a text in Hydra's quotes, in which quotes are escaped, and backslashes before a quote."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text)
    return f"'{escaped}'"
