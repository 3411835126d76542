"""MaxMin and MaxMinPermuted against NumPy's sort."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from lipnet.functional import channel_shuffle
from lipnet.layers import BetaAbs, Householder, HouseholderOrder2, MaxMin, MaxMinPermuted, NormPool2d
from tests.oracles import dense_jacobian, spectral_norm

SHAPES = [(3, 2), (2, 8), (2, 6, 5), (2, 4, 3, 5), (1, 2, 2, 2, 2)]
ACTIVATIONS = [MaxMin, MaxMinPermuted]


def random_input(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_max_min_sorts_the_halves(shape: tuple[int, ...]) -> None:
    x = random_input(shape)
    pairs = x.numpy().reshape(shape[0], 2, shape[1] // 2, *shape[2:])
    expected = np.flip(np.sort(pairs, axis=1), axis=1).reshape(shape)
    np.testing.assert_array_equal(MaxMin()(x).numpy(), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_max_min_permuted_sorts_neighbours(shape: tuple[int, ...]) -> None:
    x = random_input(shape)
    pairs = x.numpy().reshape(shape[0], shape[1] // 2, 2, *shape[2:])
    expected = np.flip(np.sort(pairs, axis=2), axis=2).reshape(shape)
    np.testing.assert_array_equal(MaxMinPermuted()(x).numpy(), expected)
    if len(shape) == 4:
        strided = x.contiguous(memory_format=torch.channels_last)
        np.testing.assert_array_equal(MaxMinPermuted()(strided).numpy(), expected)


def test_the_maximum_comes_first() -> None:
    x = torch.tensor([[1.0, 5.0, 4.0, 2.0]])
    assert MaxMin()(x).tolist() == [[4.0, 5.0, 1.0, 2.0]]
    assert MaxMinPermuted()(x).tolist() == [[5.0, 1.0, 4.0, 2.0]]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_jacobian_is_a_permutation(activation: type[nn.Module]) -> None:
    jacobian = dense_jacobian(activation(), random_input((1, 4, 2, 3)))
    assert set(np.unique(jacobian)) == {0.0, 1.0}
    np.testing.assert_array_equal(jacobian.sum(axis=0), 1)
    np.testing.assert_array_equal(jacobian.sum(axis=1), 1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_ties_have_no_larger_jacobian(activation: type[nn.Module]) -> None:
    assert spectral_norm(dense_jacobian(activation(), torch.zeros(1, 4, 1, 1, dtype=torch.float64))) <= 1


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_two_inputs_never_move_apart(activation: type[nn.Module]) -> None:
    layer, inputs = activation(), random_input((2000, 4))
    x, y = inputs.chunk(2)
    assert ((layer(x) - layer(y)).norm(dim=1) <= (x - y).norm(dim=1) * (1 + 1e-15)).all()
    assert layer.lipschitz_bound() == 1.0
    np.testing.assert_allclose(layer(x).norm(dim=1), x.norm(dim=1), rtol=1e-14)


def test_a_paired_shuffle_commutes_with_max_min_permuted() -> None:
    x = random_input((2, 16, 3, 3))
    layer = MaxMinPermuted()
    assert torch.equal(layer(channel_shuffle(x, 4, paired=True)), channel_shuffle(layer(x), 4, paired=True))
    assert not torch.equal(layer(channel_shuffle(x, 4)), channel_shuffle(layer(x), 4))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients(activation: type[nn.Module]) -> None:
    assert torch.autograd.gradcheck(activation(), (random_input((2, 4, 2)).requires_grad_(),))


@pytest.mark.parametrize(
    "make", [BetaAbs, MaxMin, MaxMinPermuted, NormPool2d, lambda: Householder(4), lambda: HouseholderOrder2(4)]
)
def test_forward_mode_and_vmap(make: Callable[[], nn.Module]) -> None:
    layer, x, tangent = make().double(), random_input((2, 4, 2, 2)), random_input((1, 4, 2, 2)).expand(2, -1, -1, -1)
    result, moved = torch.func.jvp(layer, (x,), (tangent,))
    assert torch.equal(result, layer(x))
    jacobian = torch.func.jacrev(layer)(x)
    torch.testing.assert_close(moved, torch.einsum("...bcij,bcij->...", jacobian, tangent))
    torch.testing.assert_close(torch.func.jacfwd(layer)(x), jacobian)
    batches = random_input((3, 2, 4, 2, 2))
    assert torch.equal(torch.vmap(layer)(batches), torch.stack([layer(each) for each in batches]))
    torch.testing.assert_close(torch.vmap(torch.func.jacfwd(layer))(batches)[0], torch.func.jacrev(layer)(batches[0]))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_empty_batch_stays_empty(activation: type[nn.Module]) -> None:
    assert activation()(torch.zeros(0, 4, 3, 3)).shape == (0, 4, 3, 3)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.75, 1.0])
def test_beta_abs_folds_its_share_of_the_channels(beta: float) -> None:
    layer, x = BetaAbs(beta), random_input((3, 4, 2, 2))
    expected = np.array(x)
    expected[:, : round(4 * beta)] = np.abs(expected[:, : round(4 * beta)])
    assert np.array_equal(layer(x), expected)
    assert layer.lipschitz_bound() == 1.0
    x, y = random_input((2000, 4)).chunk(2)
    assert ((layer(x) - layer(y)).norm(dim=1) <= (x - y).norm(dim=1) * (1 + 1e-15)).all()


def test_beta_abs_is_max_min_between_rotations() -> None:
    x = random_input((5, 4, 2))
    half = 2**-0.5
    folded = BetaAbs()(torch.cat([half * (x[:, :2] - x[:, 2:]), half * (x[:, :2] + x[:, 2:])], dim=1))
    rotated = torch.cat([half * (folded[:, 2:] + folded[:, :2]), half * (folded[:, 2:] - folded[:, :2])], dim=1)
    torch.testing.assert_close(rotated, MaxMin()(x))


def test_beta_abs_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\], got 1.5"):
        BetaAbs(1.5)
    with pytest.raises(ValueError, match=r"\(B, C, ...\), got \(4,\)"):
        BetaAbs()(torch.zeros(4))


@pytest.mark.parametrize("shape", [(1, 3), (2, 5, 4, 4), (4,)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_odd_channels_are_refused(activation: type[nn.Module], shape: tuple[int, ...]) -> None:
    received = ", ".join(map(str, shape))
    message = rf"{activation.__name__} needs an even number of channels in \(B, C, ...\), got \({received}"
    with pytest.raises(ValueError, match=message):
        activation()(torch.zeros(shape))
