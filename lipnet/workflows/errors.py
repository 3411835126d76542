"""Errors that a person caused, as one line instead of a traceback."""

import os
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from lipnet.certify import UnsoundCertificatesError

FULL_ERROR = "HYDRA_FULL_ERROR"


def clear_errors(main: Callable[..., Any]) -> Callable[..., Any]:
    """Let a program end with exit code 1 and one message where its input was wrong, 2 where a certificate is.

    Wrong values and types (ValueError, TypeError), files that are missing or in the way (OSError) and settings that
    Hydra refuses are told by the message that was raised closest to the cause. With HYDRA_FULL_ERROR=1 in the
    environment the traceback is shown, as everywhere in Hydra. Certificates that are shown to be wrong
    (UnsoundCertificatesError) end it with exit code 2. Everything else is a defect of the program and keeps its
    traceback.
    """

    @wraps(main)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return main(*args, **kwargs)
        except UnsoundCertificatesError as error:
            if os.environ.get(FULL_ERROR) == "1":
                traceback.print_exc()
            print(f"unsound: {error}", file=sys.stderr)
            sys.exit(2)
        except (ValueError, TypeError, OSError, HydraException, OmegaConfBaseException) as error:
            if os.environ.get(FULL_ERROR) == "1":
                raise
            print(f"error: {_cause(error)}\n(set {FULL_ERROR}=1 for the traceback)", file=sys.stderr)
            sys.exit(1)

    return guarded


def _cause(error: BaseException) -> BaseException:
    """What Hydra's instantiation wrapped, if it did."""
    while isinstance(error, HydraException) and error.__cause__ is not None:
        error = error.__cause__
    return error
