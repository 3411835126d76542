"""The one-file example learns and certifies."""

import pytest

from examples import minimal


@pytest.mark.slow
def test_the_example_learns_and_certifies() -> None:
    figures = list(minimal.main(epochs=4).values())
    assert figures == sorted(figures, reverse=True)
    assert figures[0] > 0.85  # a guess is right for 10 % of the digits
    assert figures[1] > 0.7
