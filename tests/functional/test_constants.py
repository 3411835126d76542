"""Constants are computed once, in whatever context they are first requested."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lipnet.functional.constants import constant

CPU = torch.device("cpu")
Constant = Callable[..., Tensor]


@pytest.fixture
def thirds() -> Constant:
    """Return n thirds, which differ between any two precisions."""

    @constant
    def thirds(n: int) -> Tensor:
        return torch.full((n,), 1 / 3, dtype=torch.float64)

    return thirds


def test_one_tensor_for_each_argument_and_dtype(thirds: Constant) -> None:
    first = thirds(3, dtype=torch.float32, device=CPU)
    assert first.dtype == torch.float32
    assert thirds(3, dtype=torch.float32, device=CPU) is first
    assert thirds(3, dtype=torch.float64, device=CPU).tolist() == [1 / 3] * 3
    assert len(thirds(2, dtype=torch.float32, device=CPU)) == 2


def test_a_constant_first_requested_in_inference_mode_works_in_training(thirds: Constant) -> None:
    with torch.inference_mode():
        thirds(1, dtype=torch.float32, device=CPU)
    weight = torch.ones(1, requires_grad=True)
    (weight * thirds(1, dtype=torch.float32, device=CPU)).sum().backward()
    assert weight.grad is not None
    assert not thirds(1, dtype=torch.float32, device=CPU).requires_grad


def test_the_default_device_does_not_matter(thirds: Constant) -> None:
    with torch.device("meta"):
        assert thirds(1, dtype=torch.float64, device=CPU).tolist() == [1 / 3]
        assert thirds(1, dtype=torch.float64, device=torch.device("meta")).is_meta


def test_tensors_of_tracers_are_not_cached(thirds: Constant) -> None:
    with FakeTensorMode():
        traced = thirds(1, dtype=torch.float64, device=CPU)
    assert type(traced) is not Tensor
    assert thirds(1, dtype=torch.float64, device=CPU).tolist() == [1 / 3]


def test_tensors_of_function_transforms_are_not_cached(thirds: Constant) -> None:
    def scaled(x: Tensor) -> Tensor:
        return x * thirds(1, dtype=torch.float64, device=CPU).sum()

    assert torch.func.grad(scaled)(torch.ones((), dtype=torch.float64)).item() == 1 / 3
    assert thirds(1, dtype=torch.float64, device=CPU).tolist() == [1 / 3]


@pytest.mark.slow
def test_compilers_call_the_function_once() -> None:
    calls = []

    @constant
    def ones(n: int) -> Tensor:
        calls.append(n)
        return torch.ones(n)

    @torch.compile(fullgraph=True)
    def function(x: Tensor) -> Tensor:
        return x + ones(3, dtype=x.dtype, device=x.device)

    for _ in range(3):
        assert function(torch.zeros(3)).tolist() == [1.0] * 3
    assert calls == [3]
