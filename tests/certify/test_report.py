"""The report of the layers: a row for each module with its share of K and E."""

from __future__ import annotations

import io
from collections.abc import Callable
from math import prod

import pytest
import torch
from rich.console import Console
from torch import nn

from lipnet.certify import Layer, layer_report, layer_table, lipschitz_bound, rounding_bounds
from lipnet.functional import polynomial_gain
from lipnet.layers import GSSOC, SOC, MaxMin, SOC1d, SOCTranspose
from tests.oracles import convolution_matrix, spectral_norm


def test_a_row_for_each_module_in_order(tiny_model: nn.Module) -> None:
    layers = layer_report(tiny_model.double(), (1, 8, 8))
    assert [layer.path for layer in layers[:4]] == [
        "normalize",
        "stage1.0.shuffle",
        "stage1.0.spatial",
        "stage1.0.second_shuffle",
    ]
    assert layers[-1].path == "head"
    assert [layer.input_shape for layer in layers if layer.kind == "SOC"] == [(1, 8, 8), (16, 4, 4), (32, 2, 2)]
    assert prod(layer.constant for layer in layers) == pytest.approx(lipschitz_bound(tiny_model), rel=1e-12)
    bounds = rounding_bounds(tiny_model, (1, 8, 8))
    assert sum(layer.rounding for layer in layers) == pytest.approx(bounds.logits, rel=3e-6)
    assert layer_report(tiny_model, (1, 8, 8), bounds) == layers


@pytest.mark.slow
def test_the_norm_of_each_convolution_is_bounded_and_the_constant_is_up_to_it() -> None:
    """Five Taylor terms have a gain above 1."""
    layer = SOC(4, 4, engine="series", series="taylor", eval_terms=5, scaling="reshaped", dtype=torch.float64).eval()
    (row,) = layer_report(layer, (4, 6, 6))
    true = spectral_norm(convolution_matrix(layer.filter(), 24, 24))
    assert row.norm_bound is not None
    assert true <= row.norm_bound <= 1.06 * true
    taylor = (1.0, 1.0, 1 / 2, 1 / 6, 1 / 24, 1 / 120)
    assert row.constant == pytest.approx(max(1.0, polynomial_gain(taylor, row.norm_bound)), rel=1e-6)
    assert row.degree == 5
    assert row.path == ""


def test_the_norm_is_that_of_the_present_filter() -> None:
    layer = SOC(4, 4, 1, dtype=torch.float64).eval()
    before = layer_report(layer, (4, 2, 2))
    with torch.no_grad():
        layer.weight.copy_(torch.randn_like(layer.weight))
    (row,), matrix = layer_report(layer, (4, 2, 2)), layer.filter()[:, :, 0, 0].detach().numpy()
    assert before[0].norm_bound != row.norm_bound
    assert 1 <= row.norm_bound / spectral_norm(matrix) < 1.001


@pytest.mark.parametrize(
    ("make", "shape", "engine"),
    [
        (lambda: SOC(4, 4), (4, 4, 4), "dense"),
        (lambda: SOC(4, 4, padding_mode="circular", engine="spectral"), (4, 4, 4), "spectral"),
        (lambda: SOC(4, 4), (4, 32, 32), "series"),
        (lambda: SOC(4, 8, stride=2), (4, 8, 8), "dense"),
        (lambda: SOC1d(4, 4, stride=2), (4, 1000), "series"),
        (lambda: SOCTranspose(8, 2, stride=2), (8, 16, 16), "series"),
        (lambda: GSSOC(8, 8, groups=(2, 2)), (8, 32, 32), "series"),
    ],
)
def test_the_engine_is_the_one_that_certificates_take(
    make: Callable[[], nn.Module], shape: tuple[int, ...], engine: str
) -> None:
    layers = layer_report(make().double().eval(), shape)
    row = next(layer for layer in layers if layer.engine is not None)
    assert row.engine == engine
    assert (row.degree is None) == (row.interval is None) == (row.engine != "series")


def test_in_float32_there_is_no_rounding() -> None:
    layers = layer_report(nn.Sequential(SOC(3, 4), MaxMin()).eval(), (3, 8, 8))
    assert [layer.rounding for layer in layers] == [None, None]
    assert layers[0].norm_bound is not None


def test_the_table_leaves_out_what_says_nothing() -> None:
    layers = layer_report(
        nn.Sequential(SOC(3, 4), MaxMin(), nn.LeakyReLU(3.0), nn.Identity()).double().eval(), (3, 8, 8)
    )
    console = Console(file=io.StringIO(), width=80)
    console.print(layer_table(layers))
    text = console.file.getvalue()
    assert "SOC" in text
    assert "LeakyReLU" in text
    assert "MaxMin" not in text
    assert "Identity" not in text
    assert f"{layers[0].norm_bound:.4g}" in text
    assert f"{layers[0].rounding:.1e}" in text


def test_a_row_can_be_made_of_what_json_holds() -> None:
    (layer,) = layer_report(nn.Flatten().eval(), (1, 2, 2))
    assert layer == Layer("", "Flatten", (1, 2, 2), 1.0, None, None, None, None, 0.0)
