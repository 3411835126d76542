"""The rules for torch's modules: never below the singular values of their matrices."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lipnet.certify import lipschitz_bound
from tests.properties.cases import (
    BATCH,
    Fill,
    Record,
    ascended,
    drawn,
    examples,
    few_and_all,
    kinds,
    norms,
    padding_modes,
    scales,
    seeds,
)

LINEAR_EXAMPLES, CONVOLUTION_EXAMPLES = 120, 110


def matrix_of(module: nn.Module, size: tuple[int, ...]) -> Tensor:
    """Return the matrix of a linear module without bias, from the images of unit vectors."""
    inputs = torch.Size(size).numel()
    with torch.no_grad():
        images: Tensor = module(torch.eye(inputs, dtype=torch.float64).view(inputs, *size))
    return images.flatten(1).T


@few_and_all
def test_linear(share: float, record_property: Record) -> None:
    cases = 0

    @examples(share * LINEAR_EXAMPLES)
    @given(seeds, kinds, scales, st.integers(1, 8), st.integers(1, 8))
    def check(seed: int, kind: Fill, scale: float, inputs: int, outputs: int) -> None:
        nonlocal cases
        generator = torch.Generator().manual_seed(seed)
        layer = nn.Linear(inputs, outputs, bias=False).double().eval()
        for _ in range(BATCH):
            with torch.no_grad():
                layer.weight.copy_(scale * drawn(kind, (outputs, inputs, 1, 1), generator).flatten(1))
            assert norms(layer.weight) <= lipschitz_bound(layer)
            cases += 1

    check()
    record_property("cases", cases)
    assert cases >= share * LINEAR_EXAMPLES * BATCH


convolutions = st.fixed_dictionaries(
    {
        "kernel_size": st.sampled_from([(1, 1), (3, 3), (2, 2), (3, 1), (2, 3)]),
        "stride": st.sampled_from([1, 2, (1, 2)]),
        "dilation": st.sampled_from([1, 2]),
        "groups": st.sampled_from([1, 2]),
        "padding_mode": padding_modes,
    }
)


@st.composite
def padded(draw: st.DrawFn) -> dict[str, Any]:
    """Draw settings of a convolution. Zero padding is arbitrary; circular padding must not repeat pixels."""
    settings = draw(convolutions)
    reach = [settings["dilation"] * (kernel - 1) for kernel in settings["kernel_size"]]
    most = [2 + r if settings["padding_mode"] == "zeros" else r // 2 for r in reach]
    return {**settings, "padding": tuple(draw(st.integers(0, limit)) for limit in most)}


@few_and_all
def test_convolution(share: float, record_property: Record) -> None:
    cases = 0

    @examples(share * CONVOLUTION_EXAMPLES)
    @given(seeds, kinds, scales, st.integers(1, 3), st.integers(1, 3), padded())
    def check(seed: int, kind: Fill, scale: float, inputs: int, outputs: int, settings: dict[str, Any]) -> None:
        nonlocal cases
        generator = torch.Generator().manual_seed(seed)
        channels = [settings["groups"] * each for each in (inputs, outputs)]
        layer = nn.Conv2d(*channels, bias=False, **settings).double().eval()
        matrices, bounds = [], []
        for _ in range(BATCH):
            with torch.no_grad():
                layer.weight.copy_(scale * drawn(kind, tuple(layer.weight.shape), generator))
            matrices.append(matrix_of(layer, (channels[0], 5, 5)))
            bounds.append(lipschitz_bound(layer))
        assert (norms(torch.stack(matrices)) <= bounds).all(), settings
        cases += BATCH

    check()
    record_property("cases", cases)
    assert cases >= share * CONVOLUTION_EXAMPLES * BATCH


def nearness(weight: Tensor) -> Tensor:
    """Return the ratio of the norm on a torus of 6 x 6 to that of the reshaped filters."""
    spectrum = torch.fft.fft2(weight, s=(6, 6)).permute(0, 3, 4, 1, 2).flatten(1, 2)
    norm = torch.linalg.matrix_norm(spectrum, ord=2).amax(dim=1)
    blocked = weight.permute(0, 1, 3, 2, 4).flatten(3, 4).flatten(1, 2)
    shapes = (weight.flatten(2), weight.transpose(1, 2).flatten(2), blocked)
    reshaped = torch.stack([torch.linalg.matrix_norm(matrix, ord=2) for matrix in shapes])
    return norm / reshaped.amin(dim=0)


def test_convolutions_that_gradient_ascent_chose(record_property: Record) -> None:
    layer = nn.Conv2d(2, 3, 3, padding=1, bias=False, padding_mode="circular").double().eval()
    filters = ascended((60, 3, 2, 3, 3), nearness, seed=0)
    for weight in filters:
        with torch.no_grad():
            layer.weight.copy_(weight)
        assert norms(matrix_of(layer, (2, 6, 6))) <= lipschitz_bound(layer)
    record_property("cases", len(filters))
    assert nearness(filters).max() > 0.99 * 3, "the bound's factor, sqrt(3 * 3), is nearly reached"
