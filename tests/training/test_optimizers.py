"""Optimizers by kind of parameter, Lookahead, Muon and Riemannian steps, each against its formula."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from math import sqrt
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torch.optim import Optimizer

from lipnet.layers import SOC, Householder, OrthogonalMixing
from lipnet.training import CombinedOptimizer, KernelMuon, Lookahead, ModuleOptimizer, Muon, RiemannianAdam
from lipnet.training.muon import nearly_orthogonal

SGD = partial(torch.optim.SGD, lr=0.1)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(count: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([np.linalg.qr(each)[0] for each in noise(count, size, size, seed=seed)]))


def take(optimizer: Optimizer, parameters: list[nn.Parameter], steps: int, start: int = 0) -> None:
    """Take steps with fixed gradients."""
    for step in range(start, start + steps):
        for number, parameter in enumerate(parameters):
            parameter.grad = noise(*parameter.shape, seed=100 * step + number).to(parameter.dtype)
        optimizer.step()


def test_biases_have_their_own_rate_and_the_rest_the_optimizers() -> None:
    module = nn.Sequential(SOC(2, 4), Householder(4), nn.Linear(4, 3))
    optimizer = ModuleOptimizer(SGD, bias_lr_factor=64)(module)
    rates = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
    assert rates == {id(each): 6.4 if name.endswith("bias") else 0.1 for name, each in module.named_parameters()}


def test_without_settings_it_is_the_optimizer_itself() -> None:
    module = nn.Linear(4, 3)
    optimizer = ModuleOptimizer(SGD)(module)
    assert type(optimizer) is torch.optim.SGD
    assert [list(group["params"]) for group in optimizer.param_groups] == [list(module.parameters())]


def test_matrices_on_the_manifold_take_riemannian_steps() -> None:
    module = nn.Sequential(OrthogonalMixing(4, parametrization="manifold"), OrthogonalMixing(4), nn.Linear(4, 2))
    optimizer = ModuleOptimizer(SGD, manifold_lr=0.02, bias_lr_factor=2)(module)
    assert isinstance(optimizer, CombinedOptimizer)
    assert [type(each) for each in optimizer.optimizers] == [torch.optim.SGD, RiemannianAdam]
    assert optimizer.param_groups[-1]["params"] == [module[0].weight]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2, 0.02]


@pytest.mark.parametrize("settings", [{"bias_lr_factor": 0}, {"manifold_lr": -1.0}])
def test_rates_that_are_not_positive_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(settings))} must be positive, got"):
        ModuleOptimizer(SGD, **settings)


def test_a_step_on_the_manifold_is_adam_in_the_tangent_space() -> None:
    start = orthogonal(2, 4)
    weight = nn.Parameter(start.clone())
    optimizer = RiemannianAdam([weight], lr=0.05, betas=(0.8, 0.9), eps=1e-6, retract_every=1000)
    take(optimizer, [weight], 6)
    expected = [matrix.numpy() for matrix in start.view(2, 4, 4)]
    mean, square = np.zeros((2, 4, 4)), np.zeros((2, 4, 4))
    for step in range(6):
        gradients = noise(8, 4, seed=100 * step).view(2, 4, 4).numpy()
        for number, matrix in enumerate(expected):
            component = (matrix.T @ gradients[number] - gradients[number].T @ matrix) / 2
            mean[number] = 0.8 * mean[number] + 0.2 * component
            square[number] = 0.9 * square[number] + 0.1 * component**2
            corrected = mean[number] / (1 - 0.8 ** (step + 1)), square[number] / (1 - 0.9 ** (step + 1))
            expected[number] = matrix @ scipy.linalg.expm(-0.05 * corrected[0] / (np.sqrt(corrected[1]) + 1e-6))
    np.testing.assert_allclose(weight.detach(), np.concatenate(expected), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrices_stay_orthogonal_for_a_thousand_steps(dtype: torch.dtype) -> None:
    weight = nn.Parameter(orthogonal(1, 6).to(dtype))
    take(RiemannianAdam([weight], lr=0.3, retract_every=50), [weight], 1000)
    deviation = (weight.detach().mT @ weight.detach() - torch.eye(6, dtype=dtype)).abs().max()
    assert deviation < 30 * torch.finfo(dtype).eps


def test_riemannian_steps_reach_the_nearest_orthogonal_matrix() -> None:
    # From a rotation away: steps do not leave the component of the determinant.
    target = orthogonal(1, 4)
    weight = nn.Parameter(target @ torch.from_numpy(scipy.linalg.expm((noise(4, 4) - noise(4, 4).mT).numpy() / 4)))
    optimizer = RiemannianAdam([weight], lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        (weight - target).square().sum().backward()
        optimizer.step()
    assert float((weight - target).detach().norm()) < 1e-2


@pytest.mark.parametrize("settings", [{"lr": 0.0}, {"eps": 0.0}, {"betas": (1.0, 0.9)}, {"retract_every": 0}])
def test_riemannian_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="lr and eps must be positive"):
        RiemannianAdam([nn.Parameter(torch.eye(2))], **settings)
    with pytest.raises(ValueError, match=r"params must be orthogonal matrices of shape \(m n, n\), got \(3, 2\)"):
        RiemannianAdam([nn.Parameter(torch.zeros(3, 2))])


def test_lookahead_follows_its_formula() -> None:
    weight = nn.Parameter(noise(3, seed=1))
    slow = fast = weight.detach().clone().numpy()
    optimizer = Lookahead(torch.optim.SGD([weight], lr=0.1), steps=3, alpha=0.3)
    for step in range(7):
        take(optimizer, [weight], 1, step)
        fast = fast - 0.1 * noise(3, seed=100 * step).numpy()
        if step % 3 == 2:
            slow = fast = slow + 0.3 * (fast - slow)
        np.testing.assert_allclose(weight.detach(), fast, rtol=1e-12)


def test_lookahead_on_the_manifold_stops_in_the_middle_of_the_geodesic() -> None:
    start = orthogonal(1, 4)
    weight, alone = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    take(Lookahead(RiemannianAdam([weight], lr=0.05), steps=4, alpha=0.5), [weight], 4)
    take(RiemannianAdam([alone], lr=0.05), [alone], 4)
    travelled = scipy.linalg.logm(start.numpy().T @ alone.detach().numpy()).real
    np.testing.assert_allclose(weight.detach(), start.numpy() @ scipy.linalg.expm(travelled / 2), atol=1e-10)


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, RiemannianAdam, Muon])
def test_lookahead_waits_for_the_first_gradient_of_a_parameter(make: Callable[..., Optimizer]) -> None:
    """A head that is frozen at first moves as one of a training that begins with its first gradient."""
    body, head, alone = (nn.Parameter(orthogonal(1, 4, seed)) for seed in (1, 2, 2))
    optimizer = Lookahead(make([body, head], lr=0.1), steps=2)
    take(optimizer, [body], 2)
    assert head.equal(alone)
    for step in (2, 3):
        body.grad, head.grad = noise(4, 4, seed=7), noise(4, 4, seed=step)
        optimizer.step()
    other = Lookahead(make([alone], lr=0.1), steps=2)
    for step in (2, 3):
        alone.grad = noise(4, 4, seed=step)
        other.step()
    torch.testing.assert_close(head, alone, rtol=1e-12, atol=1e-12)


def test_muon_is_torchs_on_matrices() -> None:
    matrices = [nn.Parameter(noise(*shape).float()) for shape in ((3, 5), (6, 4))]
    bias = nn.Parameter(noise(4).float())
    twins = [nn.Parameter(each.detach().clone()) for each in matrices]
    vector = nn.Parameter(bias.detach().clone())
    optimizer = Muon([*matrices, bias], lr=0.05, momentum=0.9, weight_decay=0.1, rest_lr=0.01)
    take(optimizer, [*matrices, bias], 4)
    take(torch.optim.Muon(twins, lr=0.05, momentum=0.9, weight_decay=0.1), twins, 4)
    take(
        torch.optim.AdamW([vector], lr=0.01, weight_decay=0.1),
        [nn.Parameter(noise(1)), nn.Parameter(noise(1)), vector],
        4,
    )
    for ours, theirs in zip(matrices, twins, strict=True):
        # torch multiplies in bfloat16, whose epsilon is 0.008.
        torch.testing.assert_close(ours, theirs, atol=0.05 * 4 * 0.02, rtol=0)
    torch.testing.assert_close(bias, vector)


@pytest.mark.parametrize(
    ("shape", "size"), [((8, 4, 3, 3), 4), ((6, 4, 3, 3), 6), ((4, 8, 1, 1), 4), ((6, 2), 6)], ids=str
)
def test_the_steps_of_muon_are_orthogonal_in_each_group(shape: tuple[int, ...], size: int) -> None:
    kernel = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    take(KernelMuon([kernel], lr=0.5, momentum=0), [kernel], 1)
    for block in kernel.detach().flatten(1).split(size):
        values = torch.linalg.svdvals(block) / (0.5 * sqrt(max(1, size / block.shape[1])))
        assert values.min() > 0.6
        assert values.max() < 1.25


def test_the_iteration_of_muon_is_its_polynomial() -> None:
    matrices = noise(6, 5).view(2, 3, 5)
    u, s, v = torch.linalg.svd(matrices / torch.linalg.matrix_norm(matrices)[:, None, None], full_matrices=False)
    for _ in range(2):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    expected = u * s[:, None] @ v
    torch.testing.assert_close(nearly_orthogonal(matrices, steps=2), expected)
    torch.testing.assert_close(nearly_orthogonal(matrices.mT, steps=2), expected.mT)


def test_muon_multiplies_large_matrices_in_bfloat16_where_that_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = noise(4, 8).float()[None], noise(256, 300).float()[None]
    results = {}
    for fast in (False, True):
        monkeypatch.setattr("lipnet.training.muon.multiplies_bfloat16_fast", lambda device, fast=fast: fast)
        results[fast] = [nearly_orthogonal(each) for each in (small, large, large.double())]
    (small_plain, large_plain, double_plain), (small_fast, large_fast, double_fast) = results[False], results[True]
    assert torch.equal(small_plain, small_fast)
    assert torch.equal(double_plain, double_fast)
    assert large_fast.dtype == torch.float32
    assert not torch.equal(large_plain, large_fast)
    # Singular values stay near 1, so the entries of the difference are small beside the norm, about sqrt(256).
    assert (large_plain - large_fast).norm() < 0.1 * large_plain.norm()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"lr": -1}, "lr must not be negative, got -1"),
        ({"momentum": 1.0}, r"in \[0, 1\), got 1"),
        ({"steps": 0}, "steps"),
    ],
    ids=str,
)
def test_muon_refuses_settings_out_of_range(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        KernelMuon([nn.Parameter(torch.zeros(2, 2))], **settings)


def test_muon_skips_parameters_without_a_gradient_and_refuses_vectors() -> None:
    kernel = nn.Parameter(torch.ones(2, 2, 1, 1))
    KernelMuon([kernel]).step()
    assert torch.equal(kernel, torch.ones(2, 2, 1, 1))
    with pytest.raises(ValueError, match=r"at least two dimensions, got shape \(3,\)"):
        KernelMuon([nn.Parameter(torch.zeros(3))])


def test_muon_with_rates_of_biases_has_few_groups() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), Householder(4))
    optimizer = ModuleOptimizer(partial(Muon, lr=0.02, rest_lr=0.001), bias_lr_factor=10)(module)
    assert [(len(group["params"]), group["lr"]) for group in optimizer.param_groups] == [
        (2, 0.02),
        (1, 0.001),
        (2, 0.01),
    ]


OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "muon": ModuleOptimizer(partial(Muon, lr=0.02)),
    "lookahead": ModuleOptimizer(partial(torch.optim.NAdam, lr=0.01), lookahead=partial(Lookahead, steps=3)),
    "all": ModuleOptimizer(
        partial(Muon, lr=0.02), bias_lr_factor=4, manifold_lr=0.01, lookahead=partial(Lookahead, steps=3)
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_optimizer_continues_exactly(name: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(OrthogonalMixing(4, 2, parametrization="manifold"), nn.Linear(4, 3))
    if name != "all":
        module = nn.Sequential(nn.Linear(4, 3))
    optimizer = OPTIMIZERS[name](module)
    take(optimizer, list(module.parameters()), 4)
    twin = copy.deepcopy(module)
    restored = OPTIMIZERS[name](twin)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for group, other in zip(optimizer.param_groups, restored.param_groups, strict=True):
        assert group["lr"] == other["lr"]
    take(optimizer, list(module.parameters()), 5, start=4)
    take(restored, list(twin.parameters()), 5, start=4)
    for parameter, other_parameter in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter, other_parameter)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_schedules_and_closures_reach_every_part(name: str) -> None:
    module = nn.Sequential(OrthogonalMixing(4, 2, parametrization="manifold"), nn.Linear(4, 3))
    optimizer = OPTIMIZERS[name](module)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    x = torch.randn(5, 4)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = module(x).square().sum()
        loss.backward()
        return loss

    before = [parameter.detach().clone() for parameter in module.parameters()]
    assert optimizer.step(closure).item() > 0
    assert not any(map(torch.equal, before, module.parameters()))
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.0] * len(rates)
    between = [parameter.detach().clone() for parameter in module.parameters()]
    optimizer.step(closure)
    # A rate of 0 changes nothing, up to the rounding of the exponential of 0.
    for parameter, other in zip(between, module.parameters(), strict=True):
        torch.testing.assert_close(parameter, other.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("steps", "alpha"), [(0, 0.5), (5, 0.0), (5, 1.5)])
def test_lookahead_settings_out_of_range_are_refused(steps: int, alpha: float) -> None:
    with pytest.raises(ValueError, match=rf"steps must be at least 1 and alpha in \(0, 1\], got {steps} and {alpha}"):
        Lookahead(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1), steps, alpha)
