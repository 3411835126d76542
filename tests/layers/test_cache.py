"""The weight cache: computed once for the same values, and never stale."""

from __future__ import annotations

import copy
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lipnet.layers import AOL, SOC, OrthogonalMixing
from lipnet.layers.cache import WeightCache, versions


class Square:
    """The square of a weight, counting how often it was computed."""

    def __init__(self, cache: WeightCache) -> None:
        self.cache, self.calls = cache, 0

    def __call__(self, weight: Tensor) -> Tensor:
        def compute() -> Tensor:
            self.calls += 1
            return weight**2

        return self.cache.get([weight], compute)


def test_the_same_values_are_computed_once() -> None:
    square, weight = Square(WeightCache()), torch.tensor([1.0, 2.0])
    assert square(weight).tolist() == [1.0, 4.0]
    assert square(weight) is square(weight.clone())
    assert square.calls == 1


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad])
def test_a_fused_step_counts_as_a_change(optimizer: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    layer, other = SOC(2, 2), torch.nn.Parameter(torch.ones(2))
    step = optimizer([*layer.parameters(), other], lr=0.1, fused=True).step
    before = versions([layer.weight]), versions([other])
    vectors = []
    for _ in range(2):
        layer(torch.rand(1, 2, 4, 4)).sum().backward()
        vectors.append(layer.scaling.vectors.clone())
        step()
    assert versions([layer.weight]) != before[0]
    # It has no gradient.
    assert versions([other]) == before[1]
    # Power iteration goes on.
    assert not torch.equal(*vectors)


@pytest.mark.parametrize("change", ["in place", "through data", "one element", "another tensor", "dtype", "shape"])
def test_other_values_are_computed_anew(change: str) -> None:
    square, weight = Square(WeightCache()), torch.tensor([1.0, 2.0])
    square(weight)
    if change == "in place":
        weight.mul_(3)
    elif change == "through data":
        weight.data[:] = 5
    elif change == "one element":
        weight[1] = torch.nextafter(weight[1], torch.tensor(3.0))
    elif change == "another tensor":
        weight = torch.tensor([0.0, 7.0])
    elif change == "dtype":
        weight = weight.double()
    else:
        weight = weight[:1]
    result = square(weight)
    assert square.calls == 2
    assert result.dtype == weight.dtype
    assert torch.equal(result, weight**2)


def test_the_cache_keeps_a_copy_of_the_weight() -> None:
    square, weight = Square(WeightCache()), torch.tensor([1.0, 2.0])
    kept = square(weight)
    weight.zero_()
    square(weight)
    weight.copy_(torch.tensor([1.0, 2.0]))
    assert torch.equal(square(weight), kept)
    assert square.calls == 3


def test_values_that_are_not_numbers_are_never_taken_for_the_same() -> None:
    square, weight = Square(WeightCache()), torch.tensor([float("nan")])
    square(weight)
    square(weight)
    assert square.calls == 2


@pytest.mark.parametrize("restored", [False, True])
def test_a_value_is_not_kept_if_its_weights_change_meanwhile(restored: bool) -> None:
    cache, weight = WeightCache(), torch.ones(2)

    def disturbed() -> Tensor:
        if restored:
            weight.mul_(3)
        result = weight**2
        weight.mul_(3)
        return result

    cache.get([weight], disturbed)
    weight.fill_(1.0 if restored else 3.0)
    assert cache.get([weight], lambda: weight**2).equal(weight**2)


def test_vmap_over_weights_leaves_the_cache_alone() -> None:
    square, weights = Square(WeightCache()), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    kept = square(weights[0])
    assert torch.func.vmap(square)(weights).equal(weights**2)
    assert square(weights[0]) is kept


def test_clearing() -> None:
    cache = WeightCache()
    square, weight = Square(cache), torch.ones(2)
    square(weight)
    cache.clear()
    square(weight)
    assert square.calls == 2


def test_the_value_is_detached() -> None:
    weight = torch.ones(2, requires_grad=True)
    value = WeightCache().get([weight], lambda: weight**2)
    assert not value.requires_grad


def test_a_value_from_inference_mode_can_be_differentiated_through() -> None:
    square, weight = Square(WeightCache()), torch.ones(2)
    with torch.inference_mode():
        assert not square(weight).is_inference()
    x = torch.ones(2, requires_grad=True)
    (square(weight) * x).sum().backward()
    assert square.calls == 1
    assert torch.equal(x.grad, torch.ones(2))


def test_a_change_of_any_of_several_weights_is_noticed() -> None:
    cache, weights = WeightCache(), [torch.ones(2), torch.zeros(3)]
    assert cache.get(weights, lambda: 1) == 1
    assert cache.get(weights, lambda: 2) == 1
    weights[1][2] = 1.0
    assert cache.get(weights, lambda: 3) == 3
    assert cache.get(weights[:1], lambda: 4) == 4


def test_a_pickle_starts_empty() -> None:
    square, weight = Square(WeightCache()), torch.ones(2)
    square(weight)
    other = Square(pickle.loads(pickle.dumps(square.cache)))
    other(weight)
    assert other.calls == 1


def test_a_copy_keeps_the_value_until_its_own_weight_changes() -> None:
    square, weight = Square(WeightCache()), torch.ones(2)
    square(weight)
    other = Square(copy.deepcopy(square.cache))
    other(weight.clone())
    assert other.calls == 0
    other(weight + 1)
    square(weight)
    assert (other.calls, square.calls) == (1, 1)


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU count as a device that works asynchronously, and comparisons of values fail."""

    def fail(*arguments: object) -> bool:
        raise AssertionError("waited for the device")

    monkeypatch.setattr("lipnet.layers.cache.waits_for_comparisons", lambda weight: True)
    monkeypatch.setattr(torch, "equal", fail)


@pytest.mark.usefixtures("accelerator")
def test_an_accelerator_is_not_waited_for_while_version_and_address_are_the_same() -> None:
    square, weight = Square(WeightCache()), torch.tensor([1.0, 2.0])
    square(weight)
    square(weight)
    assert square.calls == 1
    weight.mul_(1)
    with pytest.raises(AssertionError, match="waited"):
        square(weight)
    with pytest.raises(AssertionError, match="waited"):
        square(weight.clone())


def test_bounds_compare_values_on_an_accelerator_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lipnet.layers.cache.waits_for_comparisons", lambda weight: True)
    cache, weight = WeightCache(), torch.tensor([1.0, 2.0])
    assert cache.get([weight], lambda: 1) == 1
    weight.data[:] = 5
    assert cache.get([weight], lambda: 2) == 1
    assert cache.get([weight], lambda: 3, exact=True) == 3
    assert cache.get([weight], lambda: 4) == 3


def test_a_changed_version_with_the_same_values_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lipnet.layers.cache.waits_for_comparisons", lambda weight: True)
    square, weight = Square(WeightCache()), torch.tensor([1.0, 2.0])
    square(weight)
    weight.mul_(1)
    square(weight)
    assert square.calls == 1


def test_a_change_of_the_settings_is_noticed() -> None:
    cache, weight = WeightCache(), torch.ones(2)
    assert cache.get([weight], lambda: 1, settings={"terms": 5}) == 1
    assert cache.get([weight], lambda: 2, settings={"terms": 5}) == 1
    assert cache.get([weight], lambda: 3, settings={"terms": 6}) == 3
    assert cache.get([weight], lambda: 4, settings={"terms": 6}) == 3


CACHED: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "exponential": (lambda: SOC(4, 4), lambda layer: layer.prepared()),
    "operands": (lambda: AOL(4, 4), lambda layer: layer.operands_in_use((4, 4))[0]),
    "rotation": (lambda: OrthogonalMixing(4), lambda layer: layer.matrices()),
}


@pytest.mark.parametrize("name", CACHED)
def test_evaluation_again_keeps_what_is_cached_and_training_frees_it(name: str) -> None:
    build, cached = CACHED[name]
    layer = build().eval().requires_grad_(False)
    kept = weakref.ref(cached(layer))
    assert kept() is not None
    assert cached(layer.eval()) is kept()
    layer.train()
    assert kept() is None
