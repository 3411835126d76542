"""Hydra as before, after each command that runs in the test's own process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hydra.core.global_hydra import GlobalHydra


@pytest.fixture
def clean_hydra() -> Iterator[None]:
    """A command leaves Hydra initialized, as its process ends anyway."""
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()
