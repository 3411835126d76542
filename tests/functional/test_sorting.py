"""Pairs are sorted, and their gradients permuted, ties included."""

import torch

from lipnet.functional import sort_pairs


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
