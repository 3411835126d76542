"""Centring, position codes and patch embeddings: maps that shift, move or rotate their input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing

from lipnet.certify import lipschitz_bound
from lipnet.layers import Centering, PatchEmbedding, PositionCode, export
from tests.oracles import dense_jacobian, spectral_norm


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_running_mean_follows_its_formula() -> None:
    layer, expected = Centering(3, momentum=0.3, dtype=torch.float64), np.zeros(3)
    for step in range(1, 7):
        x = noise(4, 3, 2, 5, seed=step) + step
        y = layer(x)
        weight = max(0.3, 1 / step)
        expected = (1 - weight) * expected + weight * x.mean(dim=(0, 2, 3)).numpy()
        np.testing.assert_allclose(layer.mean, expected, rtol=1e-13)
        np.testing.assert_allclose(y, x - torch.from_numpy(expected).view(-1, 1, 1), rtol=1e-13, atol=1e-14)


def test_evaluation_subtracts_the_frozen_mean() -> None:
    layer = Centering(2).double()
    layer(noise(3, 2, 4, 4) + 5)
    mean = layer.mean.clone()
    x = noise(2, 2, 3, 3)
    torch.testing.assert_close(layer.eval()(x), x - mean.view(-1, 1, 1))
    assert torch.equal(layer.mean, mean)
    np.testing.assert_array_equal(dense_jacobian(layer, x[:1]), np.eye(18))
    assert lipschitz_bound(layer) == 1.0


def test_the_mean_gets_no_gradient() -> None:
    x = noise(3, 2).requires_grad_()
    Centering(2).double()(x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


def center(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    layer = Centering(3, dtype=torch.float64)
    for step in range(3):
        layer(noise(8, 3, 4, seed=step).chunk(2)[rank])
    torch.save(layer.mean, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_share_one_mean(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(center, args=(str(tmp_path),), nprocs=2)
    alone = Centering(3, dtype=torch.float64)
    for step in range(3):
        alone(noise(8, 3, 4, seed=step))
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt", weights_only=True), alone.mean)


def test_centring_twice_in_a_backward_pass() -> None:
    layer, x = Centering(2).double(), noise(3, 2).requires_grad_()
    (layer(x).square().sum() + layer(x).square().sum()).backward()
    assert bool(x.grad.isfinite().all())


def test_centring_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"momentum must be in \(0, 1\], got 0"):
        Centering(2, momentum=0)
    with pytest.raises(ValueError, match=r"\(B, 2, \.\.\.\), got \(4, 3\)"):
        Centering(2)(torch.zeros(4, 3))


def test_a_position_code_is_one_number_for_a_row_and_one_for_a_column() -> None:
    layer = PositionCode(2, 3).double().eval()
    with torch.no_grad():
        layer.rows.copy_(noise(2, 3, 1))
        layer.columns.copy_(noise(2, 1, 3, seed=1))
    code = layer(torch.zeros(1, 2, 3, 3, dtype=torch.float64))[0].detach()
    for c, u, v in np.ndindex(2, 3, 3):
        assert code[c, u, v] == layer.rows[c, u, 0] + layer.columns[c, 0, v]
    assert lipschitz_bound(layer) == 1.0
    with pytest.raises(ValueError, match=r"\(B, 2, 3, 3\), got \(1, 2, 4, 4\)"):
        layer(torch.zeros(1, 2, 4, 4))


def test_patches_become_channels_and_zeros_follow() -> None:
    x = noise(2, 3, 4, 6)
    y = PatchEmbedding(3, 2, out_channels=14)(x)
    assert y.shape == (2, 14, 2, 3)
    assert not y[:, 12:].any()
    for u, v in np.ndindex(2, 3):
        patch = x[:, :, 2 * u : 2 * u + 2, 2 * v : 2 * v + 2]
        assert torch.equal(y[:, :12, u, v], patch.flatten(1))


def test_the_rotation_diagonalises_the_covariance_of_the_patches() -> None:
    layer = PatchEmbedding(2, 2, rotation=True, dtype=torch.float64)
    images = noise(50, 2, 4, 4).cumsum(dim=3)
    layer.fit(images)
    patches = PatchEmbedding(2, 2)(images).transpose(0, 1).flatten(1).numpy()
    values, vectors = np.linalg.eigh(np.cov(patches))
    components = layer.components.numpy()
    np.testing.assert_allclose(np.abs(components), np.abs(vectors.T[::-1]), atol=1e-9)
    rotated = np.cov(layer(images).transpose(0, 1).flatten(1).numpy())
    np.testing.assert_allclose(rotated, np.diag(values[::-1]), atol=1e-10)
    assert (components[np.arange(8), np.abs(components).argmax(axis=1)] > 0).all()


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_rotation_does_not_depend_on_the_scale_of_the_pixels(scale: float) -> None:
    one, other = (PatchEmbedding(1, 2, rotation=True, dtype=torch.float64) for _ in range(2))
    images = noise(50, 1, 4, 4)
    one.fit(images)
    other.fit(scale * images - 0.5)
    torch.testing.assert_close(one.components, other.components)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bound_is_that_of_the_rounded_rotation(dtype: torch.dtype) -> None:
    layer = PatchEmbedding(1, 2, rotation=True, dtype=dtype)
    layer.fit(noise(20, 1, 4, 4).to(dtype))
    layer.double().eval()
    norm = spectral_norm(dense_jacobian(layer, noise(1, 1, 4, 4)))
    assert norm <= lipschitz_bound(layer) < 1 + 1e-6
    with torch.no_grad():
        layer.components.mul_(1.5)
    assert 1.5 <= lipschitz_bound(layer) < 1.5 + 1e-6


def test_the_embedding_is_exported() -> None:
    layer = PatchEmbedding(1, 2, 6, rotation=True).eval()
    x = torch.rand(3, 1, 4, 4)
    layer.fit(x)
    torch.testing.assert_close(export(layer, (1, 4, 4))(x), layer(x))


def test_embeddings_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"out_channels must be at least .* = 12, .*got 11"):
        PatchEmbedding(3, 2, 11)
    with pytest.raises(ValueError, match="in_channels and patch_size must be at least 1, got 3 and 0"):
        PatchEmbedding(3, 0)
    with pytest.raises(ValueError, match=r"patches of 2 x 2 divide, got \(1, 3, 5, 4\)"):
        PatchEmbedding(3, 2)(torch.zeros(1, 3, 5, 4))
    with pytest.raises(ValueError, match="rotation=False"):
        PatchEmbedding(3, 2).fit(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="finite pixels"):
        PatchEmbedding(1, 2, rotation=True).fit(torch.full((1, 1, 4, 4), torch.nan))
    with pytest.raises(ValueError, match="at least two patches, got 1"):
        PatchEmbedding(1, 2, rotation=True).fit(torch.zeros(1, 1, 2, 2))
