"""Errors of the user, printed as one line instead of a traceback."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

FULL_ERROR = "HYDRA_FULL_ERROR"
WRONG_INPUT, WRONG_CERTIFICATE = 1, 2
"""Exit statuses of the commands besides 0."""


class UnconfirmedCertificatesError(Exception):
    """A verification found differences, and has printed them."""


def clear_errors(main: Callable[..., Any]) -> Callable[..., Any]:
    """End a program with one message, and exit code 1 for wrong input or 2 for a wrong certificate.

    Wrong input means wrong values and types (ValueError, TypeError), missing files and files in the way (OSError), and
    settings that Hydra or Lightning refuse; the message is that of the original cause. HYDRA_FULL_ERROR=1 in the
    environment shows the traceback, as everywhere in Hydra. A wrong certificate is an UnsoundCertificatesError, or an
    UnconfirmedCertificatesError, which needs no further message. Every other exception is a defect of the program and
    keeps its traceback.

    A job of a multirun raises the error again after its message, so that the other jobs run; `SweepTable` then ends the
    multirun with the exit code.
    """

    @wraps(main)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        # Imported here, because --help ends before and torch takes seconds to import.
        from lipnet.certify import UnsoundCertificatesError
        from lipnet.workflows.folders import is_multirun

        try:
            return main(*args, **kwargs)
        except UnsoundCertificatesError as error:
            if full_errors():
                traceback.print_exc()
            print("\n".join([f"unsound: {error}", *getattr(error, "__notes__", ())]), file=sys.stderr)
            if is_multirun():
                raise
            sys.exit(WRONG_CERTIFICATE)
        except UnconfirmedCertificatesError:
            if is_multirun():
                raise
            sys.exit(WRONG_CERTIFICATE)
        except wrong_input() as error:
            if full_errors():
                raise
            print(f"error: {cause_of(error)}\n(set {FULL_ERROR}=1 for the traceback)", file=sys.stderr)
            if is_multirun():
                raise
            sys.exit(WRONG_INPUT)

    return guarded


@contextmanager
def unwritten_as_note(verdict: Exception) -> Iterator[None]:
    """Write files that describe a verdict: if they cannot be written, the verdict gets a note and stays the error."""
    try:
        yield
    except (OSError, ValueError) as error:
        verdict.add_note(f"a file about it could not be written: {error}")


def full_errors() -> bool:
    """Return True if the user asked for tracebacks by HYDRA_FULL_ERROR=1."""
    return os.environ.get(FULL_ERROR) == "1"


def wrong_input() -> tuple[type[Exception], ...]:
    """Return the exceptions that report wrong input."""
    # Imported here, because Lightning takes seconds to import.
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    return (ValueError, TypeError, OSError, HydraException, OmegaConfBaseException, MisconfigurationException)


def cause_of(error: BaseException) -> BaseException:
    """Return the exception that Hydra's instantiation wrapped, or the exception itself."""
    while isinstance(error, HydraException) and error.__cause__ is not None:
        error = error.__cause__
    return error
