"""Polynomials of a convolution against autograd's own derivative of the plain recurrence."""

import pytest
import torch
from torch import Tensor

from lipnet.functional import convolution_polynomial, same_convolution

COEFFICIENTS = [0.5, -1.0, 0.25, 2.0]
SETTINGS = [
    pytest.param((2, 2, 3, 3), 1, "zeros", id="3x3"),
    pytest.param((4, 2, 3, 3), 2, "zeros", id="grouped"),
    pytest.param((4, 2, 3, 1), 2, "circular", id="circular"),
    pytest.param((4, 4, 1, 1), 1, "zeros", id="pointwise"),
]


def plain(x: Tensor, weight: Tensor, groups: int, padding_mode: str) -> Tensor:
    power, result = x, COEFFICIENTS[0] * x
    for coefficient in COEFFICIENTS[1:]:
        power = same_convolution(power, weight, groups, padding_mode)
        result = result + coefficient * power
    return result


def operands(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, shape[0], 4, 3, dtype=dtype, requires_grad=True)
    return x, torch.randn(shape, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize(("shape", "groups", "padding_mode"), SETTINGS)
def test_value_and_gradients_of_any_filter(shape: tuple[int, ...], groups: int, padding_mode: str) -> None:
    x, weight = operands(shape)
    cotangent = torch.randn_like(x)
    expected = plain(x, weight, groups, padding_mode)
    result = convolution_polynomial(x, weight, COEFFICIENTS, groups, padding_mode)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    for actual, correct in zip(
        torch.autograd.grad(result, (x, weight), cotangent),
        torch.autograd.grad(expected, (x, weight), cotangent),
        strict=True,
    ):
        torch.testing.assert_close(actual, correct, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("shape", "groups", "padding_mode"), SETTINGS)
def test_gradcheck(shape: tuple[int, ...], groups: int, padding_mode: str) -> None:
    x, weight = operands(shape)
    torch.autograd.gradcheck(
        lambda *both: convolution_polynomial(*both, COEFFICIENTS, groups, padding_mode), (x, weight)
    )


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_only_what_is_needed_is_differentiated(needed: tuple[bool, bool]) -> None:
    x, weight = (
        tensor.detach().requires_grad_(need) for tensor, need in zip(operands((2, 2, 3, 3)), needed, strict=True)
    )
    convolution_polynomial(x, weight, COEFFICIENTS).sum().backward()
    assert [x.grad is not None, weight.grad is not None] == list(needed)


def test_a_second_derivative_is_refused() -> None:
    x, weight = operands((2, 2, 3, 3))
    (gradient,) = torch.autograd.grad(
        convolution_polynomial(x, weight, COEFFICIENTS).square().sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_the_result_is_not_the_inputs_memory() -> None:
    x, weight = operands((2, 2, 3, 3))
    before = x.detach().clone()
    convolution_polynomial(x.detach(), weight.detach(), [1.0, 1.0]).zero_()
    assert torch.equal(x, before)


def test_function_transforms() -> None:
    x, weight = operands((2, 2, 3, 3))
    jacobian = torch.func.jacrev(lambda maps: convolution_polynomial(maps, weight, COEFFICIENTS))(x.detach())
    expected = torch.autograd.functional.jacobian(lambda maps: plain(maps, weight, 1, "zeros"), x)
    torch.testing.assert_close(jacobian, expected, rtol=1e-12, atol=1e-12)


def test_autocast_computes_and_differentiates_in_the_lower_precision() -> None:
    x, weight = operands((2, 2, 3, 3), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        result = convolution_polynomial(x, weight, COEFFICIENTS)
    result.float().sum().backward()
    assert result.dtype is torch.bfloat16
    assert x.grad is not None
    assert x.grad.dtype is torch.float32
    torch.testing.assert_close(result.float(), plain(x, weight, 1, "zeros"), rtol=0.05, atol=0.5)


def test_other_padding_is_refused() -> None:
    with pytest.raises(ValueError, match=r"padding_mode must be one of .*'reflect'"):
        convolution_polynomial(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 3, 3), [1.0, 1.0], padding_mode="reflect")
