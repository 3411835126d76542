"""Plain models compute the same as the model, need no lipnet, and exist for evaluation only."""

from __future__ import annotations

import builtins
import operator
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import export_program
from lipnet.layers import (
    AOL,
    GSSOC,
    SOC,
    ChannelShuffle,
    MaxMin,
    MaxMinPermuted,
    Normalize,
    NormalizedLinear,
    SOC1d,
    SOCLinear,
    SOCTranspose,
    SOCTranspose1d,
    export,
)
from lipnet.layers.export import declared_input_shape, example_batch
from lipnet.models import LipConvNet
from lipnet.structured import OrthogonalMap, gsoft
from tests.settings import PATHS, PUBLISHED

Shape = tuple[int, ...]
# True if torch can prove that dimensions with strides that depend on the batch size may be merged.
MERGES_ARE_PROVED = torch.__version__ >= (2, 13)
# Reads a model and inputs from one folder, writes the results there, in a process where lipnet cannot be imported.
WITHOUT_LIPNET = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "lipnet":
            raise ImportError("lipnet is not installed here")

sys.meta_path.insert(0, Blocker())
import torch

torch.set_num_threads(1)
folder = sys.argv[1]
model = torch.load(folder + "/model.pt", weights_only=False)
inputs = torch.load(folder + "/inputs.pt")
torch.save([model(each) for each in inputs], folder + "/results.pt")
assert not any(name.partition(".")[0] == "lipnet" for name in sys.modules)
"""


def check_equal(model: nn.Module, shape: Shape, batches: tuple[int, ...] = (1, 2, 5)) -> nn.Module:
    """Return the plain model, after comparing it in float64, up to the order of sums."""
    model.double().eval()
    plain = export(model, shape)
    for batch in batches:
        x = torch.randn(batch, *shape, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(plain(x), model(x), rtol=1e-13, atol=1e-13)
    return plain


def assert_refused(model: nn.Module, shape: Shape) -> None:
    with pytest.raises(ValueError, match="cannot be exported"):
        export(model.eval(), shape)


@pytest.mark.slow
@pytest.mark.cover(0)
@pytest.mark.parametrize(("padding_mode", "engine"), PATHS)
def test_engines_groups_and_strides(padding_mode: str, engine: str) -> None:
    options: dict[str, Any] = {"padding_mode": padding_mode, "engine": engine}
    layers = [SOC(2, 8, **options), MaxMin(), SOC(8, 10, kernel_size=(3, 1), stride=(2, 1), groups=2, **options)]
    model = nn.Sequential(*layers)
    if engine == "spectral" and not MERGES_ARE_PROVED:
        assert_refused(model, (2, 6, 8))
    else:
        check_equal(model, (2, 6, 8))


@pytest.mark.cover(0)
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: SOC(3, 5, kernel_size=1), (3, 4, 4)),
        (lambda: SOC(3, 5, kernel_size=1, engine="series"), (3, 4, 4)),
        (lambda: SOC(3, 8, kernel_size=5, bias=False, **PUBLISHED), (3, 20, 20)),
        (lambda: GSSOC(16, 32, stride=2, groups=(4, 4)), (16, 8, 8)),
        (lambda: nn.Sequential(ChannelShuffle(2), ChannelShuffle(3).inverse()), (6, 4, 4)),
        (lambda: nn.Sequential(SOC(3, 8, stride=2), MaxMinPermuted(), SOCTranspose(8, 2, stride=(2, 1))), (3, 16, 12)),
        (lambda: nn.Sequential(SOC1d(2, 8, 5, stride=4), MaxMin(), SOCTranspose1d(8, 2, 5, stride=4)), (2, 64)),
        (lambda: SOC1d(2, 8, 5, padding_mode="circular", engine="spectral"), (2, 80)),
        (lambda: nn.Sequential(nn.Flatten(), SOCLinear(12, 20), MaxMin(), SOCLinear(20, 4)), (3, 2, 2)),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)),
            (3, 8, 8),
        ),
    ],
)
def test_layers_and_torch_modules(model: Callable[[], nn.Module], shape: Shape) -> None:
    check_equal(model(), shape)


@pytest.mark.slow
def test_a_layer_at_two_sizes_and_its_inverse() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = SOC(4, 4, bias=False).eval()
            self.inverse = SOCTranspose.inverse_of(self.conv)

        def forward(self, x: Tensor) -> Tensor:
            small = self.conv(x[..., ::2, ::2])
            return self.inverse(self.conv(x)) + nn.functional.interpolate(small, scale_factor=2)

    check_equal(Pyramid(), (4, 12, 12))


@pytest.mark.slow
@pytest.mark.cover(0)
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_a_network(padding_mode: str) -> None:
    conv = partial(GSSOC, groups=(2, 4), padding_mode=padding_mode)
    model = LipConvNet(
        10, depth=3, stages=3, initial_channels=8, conv=conv, activation=MaxMinPermuted, image_size=16, std=0.25
    )
    plain = check_equal(model, (3, 16, 16))
    assert not any("weight" in name for name, _ in plain.named_parameters())


def test_groups_that_see_no_input_are_zeros() -> None:
    exact = SOC(3, 16, groups=4, engine="dense", dtype=torch.float64).eval()
    series = SOC(3, 16, groups=4, engine="series", eval_tolerance=1e-13, dtype=torch.float64).eval()
    series.load_state_dict(exact.state_dict())
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(export(series, (3, 8, 8))(x), exact(x), rtol=0, atol=1e-10)


def test_an_exported_layer_is_orthogonal() -> None:
    plain = export(SOC(3, 12, stride=2, engine="series", dtype=torch.float64).eval(), (3, 8, 8))
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    jacobian: Any = torch.autograd.functional.jacobian(plain, x)
    values = torch.linalg.svdvals(jacobian.reshape(192, 192))
    assert 1 - 2e-4 < values.min() <= values.max() <= 1 + 1e-13


@pytest.mark.slow
@pytest.mark.cover(0)
@pytest.mark.parametrize("inference", [False, True])
def test_gradients_with_respect_to_the_input_flow_and_none_to_the_constants(inference: bool) -> None:
    model = nn.Sequential(SOC(3, 8), MaxMin(), nn.Flatten(), SOCLinear(512, 4)).double().eval()
    with torch.inference_mode(inference):
        plain = export(model, (3, 8, 8))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    expected, received = (torch.autograd.grad(each(x)[:, 0].sum(), x)[0] for each in (model, plain))
    torch.testing.assert_close(received, expected)
    assert not any(parameter.requires_grad for parameter in plain.parameters())


def test_an_export_within_autocast_keeps_the_precision_of_the_model(tmp_path: Path) -> None:
    model = nn.Sequential(AOL(1, 4, 3), nn.Flatten(), NormalizedLinear(4 * 36, 3), nn.Linear(3, 3)).eval()
    x = torch.rand(3, 1, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        plain = export(model, (1, 6, 6))
    torch.testing.assert_close(plain(x), model(x), rtol=1e-6, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        export_program(model, tmp_path / "model.pt2", input_shape=(1, 6, 6))
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(loaded(x), model(x), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_the_model_is_left_as_it_was(tiny_model: nn.Module) -> None:
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    requirements = [parameter.requires_grad for parameter in tiny_model.parameters()]
    x = torch.rand(3, 1, 8, 8)
    expected = tiny_model(x)
    export(tiny_model)
    assert [parameter.requires_grad for parameter in tiny_model.parameters()] == requirements
    assert list(tiny_model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())
    assert torch.equal(tiny_model(x), expected)


def test_a_parametrized_or_structured_layer_becomes_a_constant() -> None:
    orthogonal = nn.utils.parametrizations.orthogonal(nn.Linear(64, 6))
    model = nn.Sequential(nn.Flatten(), OrthogonalMap(gsoft(64, 8)), orthogonal)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if not MERGES_ARE_PROVED:
        assert_refused(model, (4, 4, 4))
        return
    plain = check_equal(model, (4, 4, 4))
    targets = {str(node.target) for node in plain.graph.nodes}  # type: ignore[union-attr]
    assert not any("linalg" in target or "matrix_exp" in target for target in targets)
    assert len(plain.state_dict()) <= 4


@pytest.mark.slow
def test_the_graph_calls_functions_of_torch_alone(tiny_model: nn.Module) -> None:
    plain = export(tiny_model)
    for node in plain.graph.nodes:
        assert node.op in ("placeholder", "get_attr", "call_function", "output")
        if node.op == "call_function":
            known = node.target in (builtins.getattr, operator.getitem, operator.eq, torch._assert)
            assert known or isinstance(node.target, torch._ops.OpOverload), node
        assert "device" not in node.kwargs
    assert all(type(module).__module__.startswith("torch.") for module in list(plain.modules())[1:])


@pytest.mark.slow
def test_it_runs_where_lipnet_cannot_be_imported(tmp_path: Path) -> None:
    model = nn.Sequential(SOC(3, 8), MaxMin(), SOC(8, 8, stride=2, padding_mode="circular"), nn.Flatten())
    model.append(SOCLinear(8 * 64, 5)).eval()
    inputs = [torch.rand(batch, 3, 16, 16) for batch in (1, 4)]
    torch.save(export(model, (3, 16, 16)), tmp_path / "model.pt")
    torch.save(inputs, tmp_path / "inputs.pt")
    subprocess.run([sys.executable, "-c", WITHOUT_LIPNET, str(tmp_path)], check=True, cwd=tmp_path)
    results = torch.load(tmp_path / "results.pt")
    for x, result in zip(inputs, results, strict=True):
        torch.testing.assert_close(result, model(x), rtol=1e-5, atol=1e-5)


def test_inputs_of_another_shape_are_refused() -> None:
    plain = export(SOC(3, 8).eval(), (3, 8, 8))
    with pytest.raises(AssertionError, match=r"inputs of shape \(B, 3, 8, 8\)"):
        plain(torch.rand(2, 3, 8, 9))


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_what_cannot_be_exported_is_named() -> None:
    shape = (3, 8, 8)
    model = nn.Sequential(nn.Identity(), SOC(3, 8)).eval()
    model[1].train()
    with pytest.raises(ValueError, match=r"1 \(SOC\) is in training mode"):
        export(model, shape)
    with pytest.raises(ValueError, match=r"0\.1 \(Branching\) cannot be exported"):
        export(nn.Sequential(nn.Sequential(nn.Identity(), Branching())).eval(), shape)
    with pytest.raises(ValueError, match=r"changes its buffers in evaluation cannot be exported: 1\.calls"):
        export(nn.Sequential(SOC(3, 8), Counting()).eval(), shape)
    with pytest.raises(TypeError, match="one that returns tuple"):
        export(Two().eval(), shape)
    hooked = nn.Sequential(nn.Identity(), SOC(3, 8)).eval()
    hooked[0].register_forward_hook(lambda module, inputs, output: None)
    with pytest.raises(ValueError, match=r"0 \(Identity\) has forward hooks"):
        export(hooked, shape)


def test_the_shape_of_an_input_must_be_known() -> None:
    model = nn.Sequential(Normalize([0.5], 0.25), SOC(1, 8)).eval()
    with pytest.raises(ValueError, match="input_shape is needed"):
        export(model)
    with pytest.raises(ValueError, match=r"positive lengths, got \(1, 0, 8\)"):
        export(model, (1, 0, 8))
    assert declared_input_shape(model) is None
    assert declared_input_shape(nn.Sequential(nn.Identity(), Normalize([0.5, 0.4], 0.25, 9))) == (2, 9, 9)


def test_example_batches_are_the_same_inputs_in_the_unit_interval() -> None:
    model = nn.Linear(6, 2, dtype=torch.float64)
    small, large = example_batch(model, 2, (6,)), example_batch(model, 5, (6,))
    assert large.shape == (5, 6)
    assert large.dtype == torch.float64
    assert torch.equal(large[:2], small)
    assert 0 <= large.min() < 0.1
    assert 0.9 < large.max() < 1
