"""Every form of a convolution that is applied several times, against its dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import lipnet.functional.convolution
from lipnet.functional import forms, same_convolution, skew_filter
from lipnet.functional.forms import ChannelsLast, Products, convolution_form, form_matrices
from tests.oracles import Matrix, convolution_matrix, to_numpy

# Dtype, padding and size decide the form: products of channels, oneDNN's blocked layout, or F.conv2d. Maps of a single
# row are smaller than the kernel. Maps of 5 x 3 pixels stand for those in bfloat16.
FORMS = [
    pytest.param(torch.float64, "zeros", (2, 2), id="products"),
    pytest.param(torch.float64, "circular", (1, 2), id="products-circular"),
    pytest.param(torch.float32, "zeros", (1, 1), id="products-of-a-pixel"),
    pytest.param(torch.float64, "zeros", (4, 2), id="products-of-a-tile"),
    pytest.param(torch.float64, "zeros", (4, 8), id="products-of-two-tiles"),
    pytest.param(torch.float32, "zeros", (3, 5), id="blocked"),
    pytest.param(torch.float64, "zeros", (3, 5), id="direct"),
    pytest.param(torch.float32, "circular", (3, 5), id="direct-circular"),
    pytest.param(torch.float64, "zeros", (1, 5), id="direct-small-maps"),
    pytest.param(torch.float64, "zeros", (5, 3), id="channels-last"),
    pytest.param(torch.float64, "circular", (5, 3), id="channels-last-circular"),
]
KERNELS = [((3, 3), 1), ((3, 3), 2), ((1, 1), 1), ((1, 3), 2)]


@pytest.fixture(autouse=True)
def small_maps_take_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "_MIN_CHANNELS_OF_TILES", 1)
    monkeypatch.setattr(forms, "_MIN_BATCH_OF_TILES", 1)
    monkeypatch.setattr(forms, "reads_channels_last", lambda x: x.shape[-2:] == (5, 3))


class Case:
    """A form, feature maps for it, and the matrix that it stands for."""

    def __init__(
        self,
        dtype: torch.dtype,
        padding_mode: str,
        size: tuple[int, int],
        kernel: tuple[int, int],
        groups: int,
        batch: int = 2,
    ):
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(4, 4 // groups, *kernel, generator=generator, dtype=torch.float64)
        self.weight = skew_filter(weight, groups).to(dtype)
        self.groups, self.padding_mode = groups, padding_mode
        self.maps, self.gradient = (
            torch.randn(batch, 4, *size, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)
        )
        self.form = convolution_form(self.maps, self.weight, groups, padding_mode)
        self.matrix: Matrix = convolution_matrix(self.weight, *size, groups, padding_mode)
        self.tolerance = 1e-13 if dtype is torch.float64 else 2e-5

    def close(self, actual: Tensor, expected: Matrix) -> None:
        np.testing.assert_allclose(to_numpy(actual).reshape(expected.shape), expected, rtol=0, atol=self.tolerance)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


def cases(kernels: list[tuple[tuple[int, int], int]]) -> pytest.MarkDecorator:
    parameters = [
        pytest.param((*form.values, kernel, groups), id=f"{form.id}-{kernel[0]}x{kernel[1]}-{groups}")
        for form in FORMS
        for kernel, groups in kernels
    ]
    return pytest.mark.parametrize("case", parameters, indirect=True)


@cases(KERNELS)
def test_entering_and_leaving(case: Case) -> None:
    entered = case.form.enter(case.maps)
    assert torch.equal(case.form.leave(entered), case.maps)
    assert torch.equal(case.form.leave(case.form.enter(entered)), case.maps)


@cases(KERNELS)
def test_applying(case: Case) -> None:
    maps = to_numpy(case.maps.flatten(1))
    before = case.maps.clone()
    for shift, sign in ((0.0, 1), (0.0, -1), (0.7, 1), (-0.7, -1)):
        result = case.form.apply(case.form.enter(case.maps), shift, sign)
        expected = maps @ (sign * case.matrix + shift * np.eye(len(case.matrix))).T
        case.close(case.form.leave(result), expected)
        # The result does not share memory with the feature maps.
        if not result.is_mkldnn:
            result.zero_()
            assert torch.equal(case.maps, before)


@cases([each for each in KERNELS if each[1] == 1])
def test_the_first_channels_and_maps_of_the_first_channels(case: Case) -> None:
    maps, identity = to_numpy(case.maps.flatten(1)), np.eye(len(case.matrix))
    pixels = case.maps.shape[-2] * case.maps.shape[-1]
    for channels in (1, 3):
        first = case.form.apply_first(case.form.enter(case.maps), 0.7, channels)
        assert first.shape == (2, channels, *case.maps.shape[2:])
        case.close(first.flatten(1), (maps @ (case.matrix + 0.7 * identity).T)[:, : channels * pixels])
        result = case.form.leave(case.form.apply_to_first(case.maps[:, :channels].contiguous(), 0.7))
        only = maps.copy()
        only[:, channels * pixels :] = 0
        case.close(result.flatten(1), only @ (0.7 * identity - case.matrix).T)


@cases(KERNELS)
def test_the_gradient_of_the_filter_is_the_adjoint(case: Case) -> None:
    check_the_gradient(case)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 4)])
def test_the_gradient_of_a_filter_that_is_larger_than_the_maps(size: tuple[int, int]) -> None:
    check_the_gradient(Case(torch.float64, "zeros", size, (3, 3), 1, batch=1))


def check_the_gradient(case: Case) -> None:
    maps, gradient = case.form.enter(case.maps), case.form.enter(case.gradient)
    for each in ((maps, gradient, 1), (gradient, maps, -1), (maps, maps, 1)):
        case.form.collect(*each)
    result = case.form.filter_gradient()
    x, weight = case.maps.double(), case.weight.double().requires_grad_()
    groups, mode = case.groups, case.padding_mode
    image, other = (same_convolution(each, weight, groups, mode) for each in (x, case.gradient.double()))
    loss = (image * (case.gradient.double() + x)).sum() - (other * x).sum()
    (expected,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=10 * case.tolerance, check_stride=False)


@pytest.mark.parametrize("size", [(2, 2), (3, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_gradient_of_the_filter_from_the_first_channels(dtype: torch.dtype, size: tuple[int, int]) -> None:
    one, other = (Case(dtype, "zeros", size, (3, 3), 1) for _ in range(2))
    some = one.gradient.clone()
    some[:, 3:] = 0
    maps = one.form.enter(one.maps)
    for form, gradient in ((one.form, some[:, :3].contiguous()), (other.form, one.form.enter(some))):
        form.collect(maps, gradient, -1)
    result = one.form.filter_gradient()
    torch.testing.assert_close(result, other.form.filter_gradient(), rtol=0, atol=10 * one.tolerance)
    assert not result[3:].any()


@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_saved_matrices_serve_another_form(padding_mode: str) -> None:
    case = Case(torch.float64, padding_mode, (2, 2), (3, 3), 1)
    for kept in (case.form.saved[0], form_matrices(case.weight, (2, 2), 1, padding_mode)):
        other = convolution_form(case.maps, torch.full_like(case.weight, torch.nan), 1, padding_mode, kept)
        case.close(other.leave(other.apply(other.enter(case.maps))), to_numpy(case.maps.flatten(1)) @ case.matrix.T)


def test_matrices_of_groups_are_not_saved() -> None:
    assert Case(torch.float64, "zeros", (2, 2), (3, 3), 2).form.saved == []


def test_larger_maps_save_no_tensors() -> None:
    case = Case(torch.float64, "zeros", (3, 5), (3, 3), 1)
    assert case.form.saved == []
    assert form_matrices(case.weight, (3, 5), 1, "zeros") is None


@pytest.mark.parametrize("fast", [False, True])
def test_channels_come_last_where_bfloat16_is_fast(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(lipnet.functional.convolution, "multiplies_bfloat16_fast", lambda device: fast)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        case = Case(dtype, "zeros", (3, 5), (3, 3), 2)
        assert isinstance(case.form, ChannelsLast) is (fast and dtype is torch.bfloat16)
    case = Case(torch.bfloat16, "zeros", (3, 5), (3, 3), 2)
    result = case.form.leave(case.form.apply(case.form.enter(case.maps)))
    assert result.is_contiguous(memory_format=torch.channels_last) is fast
    expected = to_numpy(case.maps.double().flatten(1)) @ case.matrix.T
    assert np.linalg.norm(to_numpy(result.double().flatten(1)) - expected) <= 2.0**-8 * np.linalg.norm(expected)


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
def test_the_blocked_layout_is_not_used_if_onednn_is_switched_off() -> None:
    enabled = Case(torch.float32, "zeros", (3, 5), (3, 3), 1)
    assert enabled.form.enter(enabled.maps).is_mkldnn == torch.backends.mkldnn.is_available()
    with torch.backends.mkldnn.flags(enabled=False):
        disabled = Case(torch.float32, "zeros", (3, 5), (3, 3), 1)
        # Maps in the layout of another form are understood.
        entered = disabled.form.enter(enabled.form.enter(enabled.maps))
        assert not entered.is_mkldnn
        disabled.close(disabled.form.apply(entered), to_numpy(enabled.maps.flatten(1)) @ disabled.matrix.T)


@pytest.mark.parametrize("size", [(1, 1), (4, 4)])
def test_other_padding_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"padding_mode must be one of \('zeros', 'circular'\), got 'replicate'"):
        convolution_form(torch.zeros(1, 2, *size), torch.zeros(2, 2, 3, 3), 1, "replicate")


@pytest.mark.parametrize(
    ("channels", "groups", "size", "dtype", "padding_mode", "products"),
    [
        (128, 1, (4, 4), torch.float32, "zeros", True),
        (128, 1, (8, 8), torch.float64, "zeros", True),
        (127, 1, (8, 8), torch.float32, "zeros", False),
        (256, 2, (4, 4), torch.float32, "zeros", False),
        (128, 1, (16, 16), torch.float32, "zeros", False),
        (128, 1, (4, 4), torch.bfloat16, "zeros", False),
        (128, 1, (4, 4), torch.float32, "circular", False),
        (128, 1, (4, 3), torch.float32, "zeros", False),
        (4, 2, (2, 2), torch.bfloat16, "zeros", True),
    ],
)
def test_products_where_they_are_cheaper(
    monkeypatch: pytest.MonkeyPatch,
    channels: int,
    groups: int,
    size: tuple[int, int],
    dtype: torch.dtype,
    padding_mode: str,
    products: bool,
) -> None:
    monkeypatch.undo()
    weight = torch.zeros(channels, channels // groups, 3, 3, dtype=dtype)
    assert (form_matrices(weight, size, groups, padding_mode) is not None) is products


def test_small_batches_use_tiles_only_with_cached_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    weight = torch.zeros(128, 128, 3, 3)
    for batch, tiles in ((63, False), (64, True)):
        form = convolution_form(torch.zeros(batch, 128, 4, 4), weight, 1, "zeros")
        assert isinstance(form, Products) is tiles
    matrices = form_matrices(weight, (4, 4), 1, "zeros")
    assert isinstance(convolution_form(torch.zeros(1, 128, 4, 4), weight, 1, "zeros", matrices), Products)
