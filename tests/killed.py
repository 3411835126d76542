"""A process that is killed at a step, for the tests."""

import os
from collections.abc import Callable
from typing import Any

STEPS = ("mkdir", "fsync", "rename", "replace", "rmdir", "unlink")
"""Functions of os, whose calls are the steps."""
KILLED = 9


def killed_at(step: int, function: Callable[[], Any]) -> bool:
    """Call a function in a process that ends before a step as if it were killed; return whether it came that far."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            left = iter(range(step))
            for name in STEPS:
                setattr(os, name, _counted(getattr(os, name), left))
            function()
            status = 0
        finally:
            os._exit(status)
    ended = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert ended in (0, KILLED)
    return ended == KILLED


def _counted(function: Callable[..., Any], left: Any) -> Callable[..., Any]:
    def call(*arguments: Any, **settings: Any) -> Any:
        if next(left, None) is None:
            os._exit(KILLED)
        return function(*arguments, **settings)

    return call
