"""The caches and buffers of SOC: never stale, never changed by evaluation."""

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
from lipnet.layers.engines import DenseEngine, SpectralEngine
from lipnet.layers.soc import SCALINGS
from tests.settings import touch

SHAPE: dict[str, Any] = {"in_channels": 2, "out_channels": 4, "stride": 2, "groups": 2}
# Both scalings and all engines, with what each of them caches.
KINDS = [("zeros", "series", "jacobian"), ("zeros", "dense", "reshaped"), ("circular", "spectral", "jacobian")]
# Between a result that keeps no graph and one that does: matrices that are kept are shrunk to a norm of at most 1.
NEAR = {torch.float32: 3e-6, torch.float64: 1e-11}


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(params=KINDS, ids="-".join)
def layer(request: pytest.FixtureRequest, dtype: torch.dtype) -> SOC:
    """A layer that has evaluated once, so that its cache is full."""
    padding_mode, engine, scaling = request.param
    layer = SOC(**SHAPE, padding_mode=padding_mode, engine=engine, scaling=scaling, dtype=dtype).eval()
    evaluate(layer)
    return layer


def another(layer: SOC) -> SOC:
    """A new layer with the same settings."""
    scaling = next(name for name, kind in SCALINGS.items() if type(layer.scaling) is kind)
    settings = {"padding_mode": layer.padding_mode, "engine": layer.engine, "scaling": scaling}
    return SOC(**SHAPE, **settings, dtype=layer.weight.dtype)


def evaluate(layer: nn.Module) -> Tensor:
    weight = next(layer.parameters())
    x = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        return layer(x.to(weight.dtype))


def evaluate_afresh(layer: SOC) -> Tensor:
    """Evaluate a new layer with the same weights; its vectors are random, because they must not matter."""
    fresh = another(layer)
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
    layer.load_state_dict(another(layer).state_dict())
    return layer


def assign_a_state(layer: SOC) -> SOC:
    layer.load_state_dict(another(layer).state_dict(), assign=True)
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


@pytest.mark.cover(1)
@pytest.mark.parametrize("change", CHANGES)
def test_an_evaluation_is_never_stale(layer: SOC, change: Callable[[SOC], SOC]) -> None:
    before = evaluate(layer)
    changed = change(layer)
    assert not torch.equal(evaluate(changed), before)
    assert torch.equal(evaluate(changed), evaluate_afresh(changed))


@pytest.mark.parametrize("to", [torch.float32, torch.float64])
def test_a_move_to_another_dtype(layer: SOC, to: torch.dtype) -> None:
    moved = layer.to(to)
    result = evaluate(moved)
    assert result.dtype == moved.filter().dtype == to
    assert torch.equal(result, evaluate_afresh(moved))


@pytest.mark.parametrize("engine", ["series", "dense", "auto"])
def test_a_change_of_the_engine(layer: SOC, engine: str) -> None:
    before = evaluate(layer)
    requested, layer.engine = layer.engine, engine
    assert torch.equal(evaluate(layer), evaluate_afresh(layer))
    layer.engine = requested
    assert torch.equal(evaluate(layer), before)


@pytest.mark.cover(1)
@pytest.mark.parametrize("size", [(4, 4), (6, 4), (4, 6), (2, 2), (12, 12)])
def test_maps_of_another_size(layer: SOC, size: tuple[int, int]) -> None:
    before = evaluate(layer)
    x = torch.randn(2, 2, *size, dtype=layer.weight.dtype)
    fresh = another(layer).eval()
    fresh.load_state_dict(layer.state_dict())
    with torch.no_grad():
        assert torch.equal(layer(x), fresh(x))
    assert torch.equal(evaluate(layer), before)


@pytest.mark.parametrize(
    "change", [{"padding_mode": "zeros"}, {"padding_mode": "circular"}, {"eval_tolerance": 0.3}, {"eval_terms": 2}]
)
@pytest.mark.parametrize("engine", ["series", "dense"])
@pytest.mark.parametrize("size", [(2, 2), (8, 4)])
def test_a_setting_that_changes_is_in_the_next_evaluation(
    engine: str, change: dict[str, Any], size: tuple[int, int]
) -> None:
    layer = SOC(2, 4, engine=engine, padding_mode="zeros" if "circular" in change.values() else "circular").eval()
    fresh = SOC(2, 4, engine=engine, **{"padding_mode": layer.padding_mode, **change}).eval()
    fresh.load_state_dict(layer.state_dict())
    x = torch.randn(2, 2, *size)
    with torch.no_grad():
        layer(x)
        for name, value in change.items():
            setattr(layer, name, value)
        assert torch.equal(layer(x), fresh(x))
    assert layer.lipschitz_bound() == fresh.lipschitz_bound()


@pytest.mark.parametrize("name", ["target", "interval"])
@pytest.mark.parametrize("scaling", ["jacobian", "reshaped"])
def test_a_setting_of_the_scale_that_changes_is_in_the_next_evaluation(scaling: str, name: str) -> None:
    # Groups of more than 16 channels have a series for the interval.
    layer, fresh = (SOC(2, 20, engine="series", scaling=scaling, bias=False).eval() for _ in range(2))
    fresh.load_state_dict(layer.state_dict())
    before = evaluate(layer)
    for each in (layer, fresh):
        setattr(each.scaling, name, 0.5 * getattr(each.scaling, name))
    assert torch.equal(evaluate(layer), evaluate(fresh))
    assert not torch.equal(evaluate(layer), before)
    assert layer.lipschitz_bound() == fresh.lipschitz_bound()


def test_copies_do_not_share_anything(layer: SOC) -> None:
    before = evaluate(layer)
    for duplicate in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(evaluate(duplicate), before)
        write_through_data(duplicate)
        assert not torch.equal(evaluate(duplicate), before)
        assert torch.equal(evaluate(layer), before)


def test_a_functional_call_uses_its_own_weight_and_leaves_the_layer_as_it_was(layer: SOC) -> None:
    before = evaluate(layer)
    other = another(layer)
    x = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(layer.weight.dtype)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            called = torch.func.functional_call(layer, dict(other.named_parameters()), (x,))
        atol = NEAR[layer.weight.dtype] if grad else 0
        torch.testing.assert_close(called, evaluate_afresh(other), rtol=0, atol=atol)
        assert torch.equal(evaluate(layer), before)


def test_evaluation_changes_no_state(layer: SOC) -> None:
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    layer(torch.randn(2, 2, 8, 8, dtype=layer.weight.dtype)).sum().backward()
    evaluate(layer)
    layer.lipschitz_bound()
    layer.filter()
    vectors = [f"scaling.{name}" for name, _ in layer.scaling.named_buffers()]
    assert list(state) == list(layer.state_dict()) == ["weight", "bias", *vectors]
    assert vectors in (["scaling.vectors"], ["scaling.flat_vectors", "scaling.blocked_vectors"])
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
    torch.testing.assert_close(layer(x).detach(), first, rtol=0, atol=NEAR[layer.weight.dtype])
    layer.weight.requires_grad_(False)
    assert torch.equal(first, layer(x))
    layer.train().eval()
    assert torch.equal(first, layer(x))


def test_what_is_kept_is_computed_once(layer: SOC, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate(layer)

    def fail(*arguments: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(layer, "_prepare", fail)
    for engine in (DenseEngine, SpectralEngine):
        monkeypatch.setattr(engine, "exponential", fail)
    assert torch.equal(evaluate(layer), first)
    assert layer.lipschitz_bound() == 1.0
    layer.weight.data.mul_(2)
    with pytest.raises(AssertionError, match="computed again"):
        evaluate(layer)


def test_a_differentiable_evaluation_after_inference_mode(layer: SOC) -> None:
    layer.train().eval()
    with torch.inference_mode():
        expected = evaluate(layer).clone()
    x = torch.randn(2, 2, 4, 4, dtype=layer.weight.dtype, requires_grad=True)
    layer(x).square().sum().backward()
    assert layer.weight.grad.abs().max() > 0
    # With frozen weights, the cached filter is part of the graph.
    layer.weight.requires_grad_(False)
    layer(x).square().sum().backward()
    assert x.grad.abs().max() > 0
    assert torch.equal(evaluate(layer), expected)


def test_training_advances_the_vectors_and_only_they_change(layer: SOC) -> None:
    for vectors in layer.train().scaling.buffers():
        vectors.normal_()
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    estimate = layer.filter()
    assert torch.equal(layer.filter(), estimate)
    evaluate(layer)
    active = layer.active_groups
    for name, value in layer.state_dict().items():
        if name.startswith("scaling."):
            assert not torch.equal(value[:active], state[name][:active])
            assert torch.equal(value[active:], state[name][active:])  # those of the others are not needed
        else:
            assert torch.equal(value, state[name])
    for _ in range(200):
        touch(layer)
        evaluate(layer)
    used = slice(active * layer.weight.shape[1])
    torch.testing.assert_close(layer.filter()[used], layer.eval().filter()[used], rtol=1e-4, atol=1e-5)


def test_an_interrupted_training_continues_as_it_would_have(layer: SOC) -> None:
    x = torch.randn(2, 2, 4, 4, dtype=layer.weight.dtype)
    layer.train()(x)
    resumed = another(layer)
    resumed.load_state_dict(layer.state_dict())
    for _ in range(3):
        for each in (layer, resumed):
            with torch.no_grad():
                each.weight.add_(0.1)
        assert torch.equal(layer(x), resumed(x))


def test_the_bound_is_not_stale_either() -> None:
    one_term: dict[str, Any] = {"engine": "series", "series": "taylor", "eval_terms": 1, "dtype": torch.float64}
    for layer in (SOC(4, 4, **one_term).eval(), SOCLinear(4, 3, **one_term).eval()):
        before = layer.lipschitz_bound()
        assert before > 1.1
        layer.weight.data.zero_()
        assert 1.0 <= layer.lipschitz_bound() <= 1 + 1e-12


def test_rounding_a_weight_changes_an_evaluation_by_rounding_only() -> None:
    x = torch.rand(1, 64, 8, 8, dtype=torch.float64)
    for channels, seed in ((4, 0), (16, 1), (16, 2), (64, 3)):
        torch.manual_seed(seed)
        layer = SOC(channels, channels, dtype=torch.float64).eval()
        with torch.no_grad():
            before = layer(x[:, :channels])
            weight = layer.weight[0, 1, 0]
            weight[seed % 3] = torch.nextafter(weight[seed % 3], torch.tensor(9.0, dtype=torch.float64))
            changed = layer(x[:, :channels])
        torch.testing.assert_close(changed, before, rtol=0, atol=1e-13)


def reload(layer: SOC) -> SOC:
    layer.load_state_dict(copy.deepcopy(layer.state_dict()))
    return layer


@pytest.mark.parametrize(
    "touch_without_change",
    [
        lambda layer: layer.eval(),
        lambda layer: layer.requires_grad_(False),
        lambda layer: layer.to("cpu"),
        lambda layer: layer.to(layer.weight.dtype),
        copy.deepcopy,
        reload,
    ],
    ids=["eval", "requires_grad_", "to device", "to dtype", "deepcopy", "load_state_dict"],
)
def test_unchanged_weights_are_not_prepared_again(
    layer: SOC, touch_without_change: Callable[[SOC], SOC], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, bound = evaluate(layer), layer.lipschitz_bound()
    after = touch_without_change(layer)

    def fail(*arguments: object) -> None:
        raise AssertionError("prepared again")

    monkeypatch.setattr(SOC, "_prepare", fail)
    assert torch.equal(evaluate(after), before)
    assert after.lipschitz_bound() == bound
