"""Calls in training on an unchanged weight compute one function: vectors advance once per change of the weight."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lipnet.layers import CPL, GSSOC, SOC, LiRes, MaxMin, ScaledConv2d, SOCTranspose
from tests.settings import SCALINGS, touch


def unsettled(layer: nn.Module) -> nn.Module:
    """A layer with vectors that are far from converged, so that every step of power iteration shows."""
    for name, buffer in layer.named_buffers():
        if "scaling" in name:
            buffer.normal_()
    return layer


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(4, 4, 1), (4, 16, 4)])
def test_the_second_call_equals_the_first_until_the_weight_changes(
    inputs: int, outputs: int, groups: int, scaling: str
) -> None:
    layer = unsettled(SOC(inputs, outputs, groups=groups, scaling=scaling))
    assert isinstance(layer, SOC)
    x = torch.randn(2, inputs, 5, 5)
    first = layer(x)
    used, vectors = layer.filter(), [buffer.clone() for buffer in layer.scaling.buffers()]
    assert torch.equal(layer(x), first)
    assert all(map(torch.equal, vectors, layer.scaling.buffers()))
    assert torch.equal(layer.filter(), used)
    touch(layer)
    assert not torch.equal(layer(x), first)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize(
    "make", [lambda: SOC(4, 4), lambda: GSSOC(8, 8, groups=(4, 4)), lambda: SOC(4, 4, scaling="reshaped")]
)
def test_checkpointing_leaves_the_gradients_as_they_are(make: Callable[[], nn.Module], use_reentrant: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(unsettled(make()), MaxMin(), unsettled(make())).double()
    saving = copy.deepcopy(plain)
    x = torch.randn(2, 8 if isinstance(plain[0], GSSOC) else 4, 6, 6, dtype=torch.float64, requires_grad=True)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (plain, saving)]
    for _ in range(3):
        plain(x).square().sum().backward()
        checkpoint(saving, x, use_reentrant=use_reentrant).square().sum().backward()
        one, other = (torch.cat([each.grad.flatten() for each in net.parameters()]) for net in (plain, saving))
        # Up to rounding: without gradients the polynomial is summed in another order.
        assert (other - one).norm() <= 1e-9 * one.norm()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def test_changes_of_the_vectors_are_seen() -> None:
    layer = unsettled(SOC(4, 4))
    x = torch.randn(1, 4, 5, 5)
    state, first = copy.deepcopy(layer.state_dict()), layer(x)
    layer.load_state_dict(state)
    assert torch.equal(layer(x), first)
    for buffer in layer.buffers():
        buffer.normal_()
    assert not torch.equal(layer(x), first)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_go_on_from_the_stored_vectors(duplicate: Callable[[Any], Any]) -> None:
    layer = unsettled(SOC(4, 4))
    x = torch.randn(1, 4, 5, 5)
    layer(x)
    copied = duplicate(layer)
    for each in (layer, copied):
        touch(each)
    assert torch.equal(layer(x), copied(x))


def test_a_tied_transpose_is_the_adjoint_in_training_too() -> None:
    layer = unsettled(SOC(4, 4, bias=False, dtype=torch.float64))
    assert isinstance(layer, SOC)
    x, y = torch.randn(2, 1, 4, 5, 5, dtype=torch.float64)
    image = layer(x)
    adjoint = SOCTranspose.of(layer)(y)
    torch.testing.assert_close((image * y).sum(), (x * adjoint).sum(), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        layer.weight.add_(0.1)
    torch.testing.assert_close((SOCTranspose.of(layer)(y) * x).sum(), (layer(x) * y).sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda: SOC(4, 4),
        lambda: SOC(4, 4, scaling="reshaped"),
        lambda: SOC(4, 16, groups=4),
        lambda: GSSOC(8, 8, groups=(4, 4)),
        lambda: ScaledConv2d(4, 4),
        lambda: LiRes(4, 4),
        lambda: CPL(4, 4),
    ],
)
def test_a_resumed_training_computes_the_same_bit_for_bit(make: Callable[[], nn.Module], frozen: bool) -> None:
    """The second training has what a checkpoint holds. Frozen layers never change; biases stay trained."""
    whole = unsettled(make())
    for name, parameter in whole.named_parameters():
        parameter.requires_grad_(not frozen or name.endswith("bias"))
    x = torch.randn(2, 8 if isinstance(whole, GSSOC) else 4, 6, 6)
    start = {name: buffer.clone() for name, buffer in whole.named_buffers()}
    for _ in range(2):
        step(whole, x)
    resumed = make()
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        other.requires_grad_(one.requires_grad)
    for _ in range(2):
        assert torch.equal(step(whole, x), step(resumed, x))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert all(torch.equal(buffer, start[name]) == frozen for name, buffer in whole.named_buffers())


def step(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Take a training step with SGD; return the outputs before it."""
    optimizer = torch.optim.SGD([each for each in layer.parameters() if each.requires_grad], lr=0.1)
    outputs: torch.Tensor = layer(x)
    outputs.pow(4).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return outputs.detach()
