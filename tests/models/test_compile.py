"""Networks under torch.compile: one graph, and the same results."""

from __future__ import annotations

import shutil
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipnet.layers import GSSOC, SOC, export
from lipnet.models import LipConvNet
from tests.settings import PUBLISHED


def network(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    conv = partial(GSSOC, groups=(2, 1), **options)
    return LipConvNet(3, depth=2, stages=2, initial_channels=4, image_size=8, conv=conv, head=nn.Linear)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(4, 3, 8, 8, generator=generator), torch.randint(3, (4,), generator=generator)


def step(call: Any, model: nn.Module) -> list[Tensor]:
    """A step of SGD: the loss, and the weights and vectors after it."""
    images, labels = batch()
    model.zero_grad()
    loss = nn.functional.cross_entropy(call(images), labels)
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
    return [loss.detach().clone(), *(value.clone() for value in model.state_dict().values())]


def assert_same_steps(backend: str, **options: Any) -> None:
    plain, model = network(**options), network(**options)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for _ in range(3):
        torch.testing.assert_close(step(compiled, model), step(plain, plain), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"engine": "dense"},
        {"padding_mode": "circular", "engine": "spectral"},
        {**PUBLISHED, "recompute": True},
    ],
    ids=["auto", "dense", "spectral", "published"],
)
def test_training_is_one_graph(options: dict[str, Any]) -> None:
    assert_same_steps("aot_eager", **options)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler of C++, as torch.compile does on a processor")
@pytest.mark.parametrize("engine", ["auto", "dense"])
def test_a_compiled_training_takes_the_same_steps(engine: str) -> None:
    """The network has maps of 8 x 8, 4 x 4 and 2 x 2 pixels: torch's compiler gets some sums of products wrong."""
    assert_same_steps("inductor", engine=engine)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler of C++, as torch.compile does on a processor")
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_compiled_layer_has_the_same_result_and_gradients(size: int, groups: int) -> None:
    x = torch.rand(4, 8, size, size, generator=torch.Generator().manual_seed(1))
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        layer, maps = SOC(8, 8, 3, groups=groups), x.clone().requires_grad_()
        call = torch.compile(layer, fullgraph=True, dynamic=False) if compiled else layer
        y = call(maps)
        (y * torch.arange(y.numel()).view_as(y) / y.numel()).sum().backward()
        results.append([y.detach(), layer.weight.grad, maps.grad])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_evaluation_is_what_it_is_without_and_never_stale() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(SOC(3, 4), nn.Flatten(), nn.Linear(4 * 64, 3)).eval()
    compiled = torch.compile(model, backend="eager")
    images = batch()[0]
    with torch.no_grad():
        for _ in range(2):
            expected = model(images)
            assert torch.equal(compiled(images), expected)
            model[0].weight.data += torch.randn_like(model[0].weight)
            assert not torch.equal(model(images), expected)


@pytest.mark.slow
def test_an_exported_evaluation_is_one_graph() -> None:
    model, images = network().eval(), batch()[0]
    plain = torch.compile(export(model, (3, 8, 8)), fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(plain(images), model(images), rtol=0, atol=1e-5)
