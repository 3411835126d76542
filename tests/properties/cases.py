"""Hypothesis strategies for random filters of every kind that has fooled a norm estimate, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

from lipnet.functional import skew_filter

# Filters per Hypothesis example: cheap once the settings are drawn.
BATCH = 20
SCALES = (1e-3, 1.0, 1e3)

# Run a twentieth of the examples by default; the whole suite also runs all.
few_and_all = pytest.mark.parametrize("share", [0.05, pytest.param(1, marks=pytest.mark.slow)], ids=["few", "all"])

Fill = Callable[[Tensor, torch.Generator], Tensor]


def examples(count: float) -> settings:
    """Return settings for this number of examples, the same ones in every run."""
    return settings(
        max_examples=round(count),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def gaussian(noise: Tensor, generator: torch.Generator) -> Tensor:
    return noise


def zero(noise: Tensor, generator: torch.Generator) -> Tensor:
    return torch.zeros_like(noise)


def rank_one(noise: Tensor, generator: torch.Generator) -> Tensor:
    """One output pattern for one input pattern, the same at every tap but the first."""
    result = noise[:, :1, :1, :1] * noise[:1, :, :1, :1] + torch.zeros_like(noise)
    result[:, :, 0, 0] *= 2
    return result


def decoupled(noise: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the channels are independent of the others, and a thousand times larger."""
    result = noise.clone()
    rows, columns = noise.shape[0] // 2, noise.shape[1] // 2
    result[rows:, columns:] *= 1e3
    result[:rows, columns:] = 0
    result[rows:, :columns] = 0
    return result


def one_entry(noise: Tensor, generator: torch.Generator) -> Tensor:
    result = torch.zeros_like(noise)
    place = torch.randint(noise.numel(), (1,), generator=generator)
    result.view(-1)[place] = 1
    return result


def constant(noise: Tensor, generator: torch.Generator) -> Tensor:
    """All taps and channels are equal."""
    return torch.ones_like(noise)


def one_frequency(noise: Tensor, generator: torch.Generator) -> Tensor:
    """A wave over the taps: its frequency need not be on any grid."""
    place = torch.arange(noise.shape[-2] * noise.shape[-1]).double().view(noise.shape[-2:])
    frequency = 3 * torch.rand(1, generator=generator, dtype=torch.float64)
    return noise[:, :, :1, :1] * (frequency * place).cos()


KINDS: tuple[Fill, ...] = (gaussian, zero, rank_one, decoupled, one_entry, constant, one_frequency)


class Setting(NamedTuple):
    """Setting of a skew convolution."""

    seed: int
    kind: Fill
    scale: float
    per_group: int
    groups: int
    kernel: tuple[int, int]
    size: tuple[int, int]
    padding_mode: str

    def filters(self, count: int = BATCH) -> list[Tensor]:
        """Draw skew filters (c, c/groups, kh, kw) of this setting."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.groups * self.per_group, self.per_group, *self.kernel)
        return [skew_filter(self.scale * drawn(self.kind, shape, generator), self.groups) for _ in range(count)]


def drawn(kind: Fill, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return kind(torch.randn(shape, generator=generator, dtype=torch.float64), generator)


seeds = st.integers(0, 2**31)
kinds = st.sampled_from(KINDS)
scales = st.sampled_from(SCALES)
kernels = st.sampled_from([(1, 1), (3, 3), (5, 5), (3, 1), (1, 5), (5, 3)])
padding_modes = st.sampled_from(["zeros", "circular"])
skew_settings = st.builds(
    Setting,
    seed=seeds,
    kind=kinds,
    scale=scales,
    per_group=st.integers(1, 4),
    groups=st.integers(1, 2),
    kernel=kernels,
    size=st.tuples(st.integers(3, 5), st.integers(3, 5)),
    padding_mode=padding_modes,
)


def norms(matrices: Tensor) -> np.ndarray:
    """Return the largest singular values of (..., m, n), computed by NumPy."""
    return np.asarray(np.linalg.svd(matrices.detach().numpy(), compute_uv=False)[..., 0])


def same_convolution_matrix(weight: Tensor, setting: Setting) -> Tensor:
    """Return the matrix of the 'same' convolution for the setting's size, from the images of unit vectors."""
    height, width = setting.size
    inputs = weight.shape[1] * setting.groups * height * width
    units = torch.eye(inputs, dtype=weight.dtype).view(inputs, -1, height, width)
    rows, columns = (kernel // 2 for kernel in setting.kernel)
    mode = "constant" if setting.padding_mode == "zeros" else "circular"
    padded = F.pad(units, (columns, columns, rows, rows), mode=mode)
    return F.conv2d(padded, weight, groups=setting.groups).flatten(1).T


def ascended(shape: tuple[int, ...], ratio: Callable[[Tensor], Tensor], seed: int, steps: int = 40) -> Tensor:
    """Return filters, stacked along the first dimension, for which gradient ascent made a ratio (count,) large."""
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights.requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (-ratio(weights).log().sum()).backward()
        optimizer.step()
    return weights.detach()


Record = Callable[[str, Any], None]
