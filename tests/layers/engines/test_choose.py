"""Every branch of the choice of an engine, with its reason."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest
import torch

from lipnet.layers import GSSOC, SOC, SOCLinear
from lipnet.layers.engines.choose import ENGINES, Choice, Situation, choose_engine

USUAL = Situation("zeros", (3, 3), channels=64, size=(16, 16), batch=32, terms=5, training=True)


def choose(requested: str = "auto", **changes: Any) -> Choice:
    return choose_engine(requested, USUAL._replace(**changes))


@pytest.mark.parametrize(
    ("changes", "engine", "reason"),
    [
        ({"training": True}, "series", "zero padding"),
        ({"training": True, "size": (1, 1), "channels": 2}, "series", "zero padding"),
        ({"training": False}, "series", "zero padding"),
        ({"training": False, "size": (4, 4), "channels": 4}, "dense", "at most 512 entries in a group"),
        ({"training": False, "size": (1, 2), "channels": 128}, "dense", "at most 1024 entries in a group"),
        ({"training": False, "size": (1, 2), "channels": 4096}, "series", "zero padding"),
    ],
)
def test_with_zero_padding(changes: dict[str, Any], engine: str, reason: str) -> None:
    assert choose(**changes).engine == engine
    assert reason in choose(**changes).reason


@pytest.mark.parametrize(
    ("changes", "engine", "reason"),
    [
        ({"training": False, "size": (4, 4), "channels": 4}, "dense", "at most 512 entries in a group"),
        ({"training": False}, "spectral", "in evaluation: one exponential for each frequency, cached"),
        ({"size": (2, 2), "batch": 10**6}, "series", "fewer than 16 pixels"),
        ({"batch": 10**6}, "spectral", "a polynomial at each frequency is cheaper than the series"),
        ({"batch": 1, "channels": 512}, "series", "for this batch the series is cheaper"),
        # Groups make convolutions dearer, not the matrices at each frequency.
        ({"channels": 8}, "series", "for this batch the series is cheaper"),
        ({"channels": 8, "groups": 4}, "spectral", "a polynomial at each frequency is cheaper than the series"),
    ],
)
def test_with_circular_padding(changes: dict[str, Any], engine: str, reason: str) -> None:
    choice = choose(padding_mode="circular", **changes)
    assert choice.engine == engine
    assert reason in choice.reason


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
@pytest.mark.parametrize(
    ("changes", "engine", "reason"),
    [
        ({"training": False}, "dense", "in evaluation: one matrix exponential, cached"),
        ({"training": False, "channels": 10**4}, "series", "channels in a group: the exponential would cost too much"),
        ({"batch": 10**6}, "dense", "many pixels: the polynomial of its matrix is cheaper"),
        ({"batch": 1, "size": (1, 1)}, "series", "few pixels: the series is cheaper"),
    ],
)
def test_of_a_pointwise_convolution(changes: dict[str, Any], engine: str, reason: str, padding_mode: str) -> None:
    choice = choose(kernel_size=(1, 1), padding_mode=padding_mode, **changes)
    assert choice.engine == engine
    assert reason in choice.reason


@pytest.mark.parametrize("kernel_size", [(1, 1), (3, 3)])
@pytest.mark.parametrize("channels", [4, 64, 512])
def test_matrices_pay_from_some_batch_on(channels: int, kernel_size: tuple[int, int]) -> None:
    """The cost of matrices does not depend on the batch; that of a series does."""
    size = (1, 1) if kernel_size == (1, 1) else (16, 16)
    settings = {"padding_mode": "circular", "kernel_size": kernel_size, "channels": channels, "size": size}
    engines = [choose(batch=2**power, **settings).engine for power in range(24)]
    assert engines == sorted(engines, key=lambda engine: engine != "series")
    assert len(set(engines)) == 2 or channels == 4


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("engine", ["series", "spectral", "dense"])
def test_a_request_is_granted(engine: str, training: bool) -> None:
    for changes in ({"padding_mode": "circular"}, {"kernel_size": (1, 1)}, {"padding_mode": "circular", "batch": 1}):
        assert choose(engine, training=training, **changes) == (engine, "requested", torch.float32)
    if engine != "spectral":
        assert choose(engine, training=training) == (engine, "requested", torch.float32)


def test_requests_that_cannot_be_granted_are_refused() -> None:
    received = "got padding_mode='zeros', kernel_size=(3, 3)"
    with pytest.raises(ValueError, match=f"engine 'spectral' needs padding_mode='circular'.*{re.escape(received)}"):
        choose("spectral")
    with pytest.raises(ValueError, match=rf"engine must be one of {re.escape(str(ENGINES))}, got 'fourier'"):
        choose("fourier")


def test_layers_say_what_they_take() -> None:
    layer = SOC(8, 8, padding_mode="circular")
    assert layer.choice(batch=4, size=(2, 2)).engine == "series"
    assert layer.eval().choice(batch=4, size=(2, 2)).engine == "dense"
    assert layer.choice(batch=4, size=(64, 64)).engine == "spectral"
    assert SOC(8, 8, engine="dense").choice(4, (2, 2)) == ("dense", "requested", torch.float32)
    assert SOCLinear(8, 3).eval().choice(1, (1, 1)).engine == "dense"


@pytest.mark.parametrize("engine", ["series", "spectral", "dense"])
def test_autocast_reduces_the_products_of_training(engine: str) -> None:
    layer = SOC(8, 8, engine=engine, padding_mode="circular")
    x = torch.rand(2, 8, 8, 8)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.choice(2, (8, 8)) == (engine, "requested", torch.bfloat16)
        reduced = layer(x)
        assert reduced.dtype == torch.bfloat16
        layer.eval()
        # The matrices of evaluation are contractions in float32 alone.
        evaluated = torch.bfloat16 if engine == "series" else torch.float32
        assert layer.choice(2, (8, 8)).dtype == evaluated
    torch.testing.assert_close(reduced.float(), expected, rtol=0, atol=0.05)


def test_layers_do_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers compute with the chosen engine, in training and in evaluation."""
    called: list[str] = []
    for name, engine in (("skew_polynomial", "series"), ("apply_spectral", "spectral"), ("apply_dense", "dense")):
        module = importlib.import_module(f"lipnet.layers.engines.{engine}")
        function = getattr(module, name)

        def observed(*args: Any, function: Any = function, engine: str = engine, **options: Any) -> torch.Tensor:
            called.append(engine)
            return function(*args, **options)

        monkeypatch.setattr(module, name, observed)
    expected = []
    for padding_mode in ("zeros", "circular"):
        layer = GSSOC(8, 8, groups=(2, 1), padding_mode=padding_mode)
        for training in (True, False):
            layer.train(training)
            for size in ((2, 2), (16, 16)):
                layer(torch.randn(2, 8, *size))
                expected += [part.choice(2, size).engine for part in (layer.spatial, layer.pointwise)]
    assert called == expected
    assert set(called) == {"series", "spectral", "dense"}
