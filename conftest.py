"""Fixtures of all tests, also of the examples in docstrings: one thread, seeds, and no compiled code from before."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Give each process and its children one thread: pytest-xdist keeps all cores busy, and tensors are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Seed all random numbers, so that a test or an example draws the same ones whichever run before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _forget_compiled_code() -> None:
    """Forget what earlier tests compiled: torch.compile gives up after eight compilations of one function."""
    torch.compiler.reset()
