"""Autocast is reported for each device type, and switched off and on again."""

from __future__ import annotations

import pytest
import torch

from lipnet.functional.autocast import autocast_dtype, multiplies_bfloat16_fast, without_autocast

CPU, META, CUDA = (torch.device(name) for name in ("cpu", "meta", "cuda"))
DTYPES = [torch.bfloat16, torch.float16]


def random(seed: int) -> torch.Tensor:
    return torch.randn(5, 5, generator=torch.Generator().manual_seed(seed))


def test_without_autocast_no_device_has_a_dtype() -> None:
    assert [autocast_dtype(device) for device in (CPU, META, CUDA)] == [None] * 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_device_type_has_its_own_dtype(dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype):
        assert autocast_dtype(CPU) is dtype
        assert autocast_dtype(META) is None
        assert autocast_dtype(CUDA) is None
        with torch.autocast("cpu", enabled=False):
            assert autocast_dtype(CPU) is None
        assert autocast_dtype(CPU) is dtype
    assert autocast_dtype(CPU) is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_without_autocast_keep_their_precision(dtype: torch.dtype) -> None:
    one, other = random(0), random(1)
    exact = one.double().numpy() @ other.double().numpy()
    with torch.autocast("cpu", dtype):
        cast = one @ other
        with without_autocast(CPU):
            assert autocast_dtype(CPU) is None
            product = one @ other
        again = one @ other
    assert (cast.dtype, product.dtype, again.dtype) == (dtype, torch.float32, dtype)
    torch.testing.assert_close(product.double().numpy(), exact, rtol=0, atol=1e-5)
    assert (cast.double() - torch.from_numpy(exact)).abs().max() > 1e-4


def test_gradients_without_autocast_keep_their_precision() -> None:
    one, other = random(0).requires_grad_(), random(1)
    with torch.autocast("cpu", torch.bfloat16), without_autocast(CPU):
        (gradient,) = torch.autograd.grad((one @ other).sum(), one)
    torch.testing.assert_close(gradient, other.sum(dim=1).expand(5, 5), rtol=0, atol=1e-5)


def test_autocast_is_restored_after_an_error() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(KeyError), without_autocast(CPU):
            raise KeyError
        assert autocast_dtype(CPU) is torch.bfloat16


@pytest.mark.parametrize("device", [CPU, META])
def test_without_autocast_changes_nothing_where_nothing_is_cast(device: torch.device) -> None:
    with without_autocast(device):
        assert autocast_dtype(CPU) is None
        assert (torch.ones(2, 2, device=device) @ torch.ones(2, 2, device=device)).dtype is torch.float32


def test_switching_off_autocast_elsewhere_keeps_it_on_the_cpu() -> None:
    with torch.autocast("cpu", torch.bfloat16), without_autocast(META):
        assert autocast_dtype(CPU) is torch.bfloat16


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [
        ({}, False),
        ({"amx_bf16": True, "avx512_bf16": True}, True),
        ({"amx_bf16": False, "avx512_bf16": True}, True),
        ({"amx_bf16": False, "avx512_bf16": False, "avx512_f": True}, False),
    ],
)
def test_processors_that_multiply_bfloat16_are_known(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert multiplies_bfloat16_fast.__wrapped__(CPU) is fast
    assert not multiplies_bfloat16_fast.__wrapped__(META)
