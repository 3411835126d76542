"""What SOC remembers: nothing stale, nothing changed by evaluation."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lipnet.layers import SOC, SOCLinear

SETTINGS: dict[str, Any] = {"in_channels": 2, "out_channels": 4, "stride": 2, "groups": 2}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def layer(request: pytest.FixtureRequest) -> SOC:
    """A layer that has evaluated once, so that its cache is full."""
    layer = SOC(**SETTINGS, dtype=request.param).eval()
    evaluate(layer)
    return layer


def evaluate(layer: nn.Module) -> Tensor:
    weight = next(layer.parameters())
    x = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        return layer(x.to(weight.dtype))


def evaluate_afresh(layer: SOC) -> Tensor:
    """What a new layer with the same weights computes; its vectors are random, as they must not matter."""
    fresh = SOC(**SETTINGS, dtype=layer.weight.dtype)
    fresh.weight.data.copy_(layer.weight)
    fresh.bias.data.copy_(layer.bias)
    return evaluate(fresh.eval())


def step(layer: SOC) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    x = torch.randn(2, 2, 4, 4, dtype=layer.weight.dtype)
    (layer(x) - torch.randn(2, 4, 2, 2, dtype=layer.weight.dtype)).square().sum().backward()
    optimizer.step()


def step_in_training(layer: SOC) -> SOC:
    step(layer.train())
    return layer.eval()


def step_in_evaluation(layer: SOC) -> SOC:
    step(layer)
    return layer


def write_through_data(layer: SOC) -> SOC:
    layer.weight.data[0, 1, 0, 0] += 1
    return layer


def write_without_grad(layer: SOC) -> SOC:
    with torch.no_grad():
        layer.weight[0, 1, 0, 0] += 1
    return layer


def replace_the_parameter(layer: SOC) -> SOC:
    layer.weight = nn.Parameter(torch.randn_like(layer.weight))
    return layer


def load_a_state(layer: SOC) -> SOC:
    layer.load_state_dict(SOC(**SETTINGS, dtype=layer.weight.dtype).state_dict())
    return layer


def assign_a_state(layer: SOC) -> SOC:
    layer.load_state_dict(SOC(**SETTINGS, dtype=layer.weight.dtype).state_dict(), assign=True)
    return layer


def reset(layer: SOC) -> SOC:
    layer.reset_parameters()
    return layer


def copy_and_change(layer: SOC) -> SOC:
    return write_through_data(copy.deepcopy(layer))


def pickle_and_change(layer: SOC) -> SOC:
    return write_through_data(pickle.loads(pickle.dumps(layer)))


def average(layer: SOC) -> SOC:
    averaged = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    evaluate(averaged)
    averaged.update_parameters(layer)
    averaged.update_parameters(load_a_state(layer))
    evaluate(averaged)
    averaged.update_parameters(load_a_state(layer))
    assert torch.equal(evaluate(averaged), evaluate(averaged.module))
    return averaged.module


CHANGES = [
    step_in_training,
    step_in_evaluation,
    write_through_data,
    write_without_grad,
    replace_the_parameter,
    load_a_state,
    assign_a_state,
    reset,
    copy_and_change,
    pickle_and_change,
    average,
]


@pytest.mark.parametrize("change", CHANGES)
def test_an_evaluation_is_never_stale(layer: SOC, change: Callable[[SOC], SOC]) -> None:
    before = evaluate(layer)
    changed = change(layer)
    assert not torch.equal(evaluate(changed), before)
    assert torch.equal(evaluate(changed), evaluate_afresh(changed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_move_to_another_dtype(layer: SOC, dtype: torch.dtype) -> None:
    moved = layer.to(dtype)
    result = evaluate(moved)
    assert result.dtype == moved.filter().dtype == dtype
    assert torch.equal(result, evaluate_afresh(moved))


def test_copies_do_not_share_anything(layer: SOC) -> None:
    before = evaluate(layer)
    for duplicate in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(evaluate(duplicate), before)
        write_through_data(duplicate)
        assert not torch.equal(evaluate(duplicate), before)
        assert torch.equal(evaluate(layer), before)


def test_a_functional_call_uses_its_own_weight_and_leaves_the_layer_as_it_was(layer: SOC) -> None:
    before = evaluate(layer)
    other = SOC(**SETTINGS, dtype=layer.weight.dtype)
    x = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(layer.weight.dtype)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            called = torch.func.functional_call(layer, dict(other.named_parameters()), (x,))
        torch.testing.assert_close(called, evaluate_afresh(other), rtol=0, atol=1e-13 if grad else 0)
        assert torch.equal(evaluate(layer), before)


def test_evaluation_changes_no_state(layer: SOC) -> None:
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    layer(torch.randn(2, 2, 8, 8, dtype=layer.weight.dtype)).sum().backward()
    evaluate(layer)
    layer.lipschitz_bound()
    layer.filter()
    assert list(state) == list(layer.state_dict()) == ["weight", "bias", "flat_vectors", "blocked_vectors"]
    for name, value in layer.state_dict().items():
        assert torch.equal(value, state[name])
        assert value.dtype == state[name].dtype
    assert not layer.training


def test_two_evaluations_are_bit_identical(layer: SOC) -> None:
    x = torch.randn(2, 2, 4, 4, dtype=layer.weight.dtype)
    with torch.no_grad():
        first, second = layer(x), layer(x)
    with torch.inference_mode():
        third = layer(x).clone()
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert torch.equal(layer(x), layer(x))
    # The library's eigenvalues may differ in the last bit when it computes eigenvectors for a gradient, too.
    torch.testing.assert_close(layer(x).detach(), first, rtol=0, atol=1e-13)
    layer.weight.requires_grad_(False)
    assert torch.equal(first, layer(x))
    layer.train().eval()
    assert torch.equal(first, layer(x))


def test_a_differentiable_evaluation_after_inference_mode(layer: SOC) -> None:
    layer.train().eval()
    with torch.inference_mode():
        expected = evaluate(layer).clone()
    x = torch.randn(2, 2, 4, 4, dtype=layer.weight.dtype, requires_grad=True)
    layer(x).square().sum().backward()
    assert layer.weight.grad.abs().max() > 0
    # With frozen weights it is the cached filter that takes part in the graph.
    layer.weight.requires_grad_(False)
    layer(x).square().sum().backward()
    assert x.grad.abs().max() > 0
    assert torch.equal(evaluate(layer), expected)


def test_training_advances_the_vectors_and_only_they_change(layer: SOC) -> None:
    state = {name: value.clone() for name, value in layer.train().state_dict().items()}
    layer.flat_vectors.normal_()
    estimate = layer.filter()
    assert torch.equal(layer.filter(), estimate)
    evaluate(layer)
    assert not torch.equal(layer.flat_vectors, state["flat_vectors"])
    assert torch.equal(layer.weight, state["weight"])
    for _ in range(200):
        evaluate(layer)
    active = slice(layer.active_groups * layer.weight.shape[1])  # the vectors of the others are not needed
    torch.testing.assert_close(layer.filter()[active], layer.eval().filter()[active], rtol=1e-4, atol=1e-6)


def test_an_interrupted_training_continues_as_it_would_have(layer: SOC) -> None:
    x = torch.randn(2, 2, 4, 4, dtype=layer.weight.dtype)
    layer.train()(x)
    resumed = SOC(**SETTINGS, dtype=layer.weight.dtype)
    resumed.load_state_dict(layer.state_dict())
    for _ in range(3):
        assert torch.equal(layer(x), resumed(x))


def test_the_bound_is_not_stale_either() -> None:
    layer = SOC(4, 4, eval_terms=1, dtype=torch.float64).eval()
    before = layer.lipschitz_bound()
    layer.weight.data.zero_()
    assert layer.lipschitz_bound() == 1.0 < before
    head = SOCLinear(4, 3, eval_terms=1, dtype=torch.float64).eval()
    before = head.lipschitz_bound()
    head.weight.data.zero_()
    assert head.lipschitz_bound() == 1.0 < before
