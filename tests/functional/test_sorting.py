"""Pairs are sorted, and their gradients permuted, ties included."""

import pytest
import torch
from torch import Tensor

from lipnet.functional import sort_pairs
from lipnet.functional.sorting import exchange


def test_larger_and_smaller() -> None:
    first, second = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    larger, smaller = sort_pairs(first, second)
    both = torch.stack((first, second)).sort(dim=0).values
    assert torch.equal(torch.stack((smaller, larger)), both)


def test_gradients_twice() -> None:
    torch.manual_seed(0)
    pairs = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda both: sort_pairs(*both), pairs)
    assert torch.autograd.gradgradcheck(lambda both: sort_pairs(*both), pairs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_exchange(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    in_order, (first, second) = torch.rand(6, 4) < 0.5, torch.randn(2, 6, 4).to(dtype)
    first[:2], second[1:3] = torch.tensor([-0.0, torch.nan, torch.inf, -torch.inf]), torch.nan
    # Also on strided tensors.
    for transpose in (False, True):
        booleans, one, other = (each.mT if transpose else each for each in (in_order, first, second))
        expected = torch.where(booleans, one, other), torch.where(booleans, other, one)
        for result, value in zip(exchange(booleans, one, other), expected, strict=True):
            # Bits, since NaN differs from itself.
            integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
            assert torch.equal(result.view(integers), value.view(integers))


def test_an_exchange_of_negative_views() -> None:
    numbers, in_order = torch.arange(1.0, 5.0).view(2, 2), torch.tensor([True, False])
    larger, smaller = exchange(in_order, *torch._neg_view(numbers))
    assert larger.tolist() == [-1, -4]
    assert smaller.tolist() == [-3, -2]


def test_derivatives_of_an_exchange() -> None:
    torch.manual_seed(0)
    in_order, pairs = torch.rand(5) < 0.5, torch.randn(2, 5, dtype=torch.float64, requires_grad=True)

    def function(both: Tensor) -> tuple[Tensor, Tensor]:
        return exchange(in_order, *both)

    assert torch.autograd.gradcheck(function, pairs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, pairs, check_batched_grad=True)


def test_the_jacobian_is_a_permutation_in_a_tie() -> None:
    jacobian = torch.autograd.functional.jacobian(lambda both: torch.stack(sort_pairs(*both)), torch.zeros(2))
    assert jacobian.sum(dim=0).tolist() == [1.0, 1.0]
    assert jacobian.sum(dim=1).tolist() == [1.0, 1.0]
    assert jacobian.square().sum() == 2


def test_nan_stays_nan() -> None:
    larger, smaller = sort_pairs(torch.tensor([torch.nan, 1.0]), torch.tensor([0.0, torch.nan]))
    assert larger.isnan().all()
    assert smaller.isnan().all()


def test_function_transforms() -> None:
    pairs = torch.tensor([[1.0, 5.0], [2.0, 3.0]])
    jacobian = torch.func.jacrev(lambda both: torch.stack(sort_pairs(*both)))(pairs)
    expected = torch.func.jacrev(lambda both: torch.stack((both.amax(0), both.amin(0))))(pairs)
    assert torch.equal(jacobian, expected)


def test_forward_mode_and_vmap() -> None:
    torch.manual_seed(0)
    # Add a tie, for which each result follows one of the inputs.
    pairs, tangent = torch.randn(2, 2, 5, dtype=torch.float64)
    pairs[1, 0] = pairs[0, 0]
    result, moved = torch.func.jvp(lambda both: torch.stack(sort_pairs(*both)), (pairs,), (tangent,))
    order = pairs.argsort(dim=0, descending=True, stable=True)
    assert torch.equal(result, pairs.gather(0, order))
    assert torch.equal(moved, tangent.gather(0, order))
    forward = torch.func.jacfwd(lambda both: torch.stack(sort_pairs(*both)))(pairs)
    assert torch.equal(forward, torch.func.jacrev(lambda both: torch.stack(sort_pairs(*both)))(pairs))
    assert torch.equal(torch.vmap(lambda both: sort_pairs(*both)[0])(pairs.expand(3, 2, 5)), result[0].expand(3, 5))
