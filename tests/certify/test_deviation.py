"""The measured distance of the deployed model's logits from the certified ones."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import explicit_arithmetic, measured_deviation, rounding_bounds
from lipnet.layers import SOC
from lipnet.models import LipConvNet


def test_distances_are_those_of_the_three_evaluations(trained_model: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    images = digits[0][:50]
    deviation = measured_deviation(trained_model, images)
    with torch.no_grad(), explicit_arithmetic(trained_model):
        certified = trained_model(images)
    with torch.no_grad():
        deployed = trained_model(images)
        single = trained_model.float()(images.float()).double()
    assert deviation.images == 50
    assert deviation.float64 == float((deployed - certified).norm(dim=1).max())
    assert deviation.float32 == float((single - certified).norm(dim=1).max())
    assert deviation.float32_predictions == int((single.argmax(1) != certified.argmax(1)).sum())
    assert 1e-9 < deviation.float32 < 1e-4


def test_the_model_stays_in_float64(trained_model: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    before = {name: value.clone() for name, value in trained_model.state_dict().items()}
    measured_deviation(trained_model, digits[0][:2])
    after = trained_model.state_dict()
    assert all(before[name].equal(after[name]) and after[name].dtype == before[name].dtype for name in before)


def test_a_circular_network_is_certified_as_it_is_deployed() -> None:
    """Certificates replace Fourier transforms by products: the same function, rounded in another way."""
    torch.manual_seed(0)
    conv = partial(SOC, padding_mode="circular", engine="spectral", eval_tolerance=1e-3)
    model = LipConvNet(3, depth=2, stages=1, initial_channels=4, in_channels=1, image_size=8, conv=conv)
    deviation = measured_deviation(model.double().eval(), torch.rand(4, 1, 8, 8))
    assert 0 < deviation.float64 < rounding_bounds(model, (1, 8, 8)).logits < 1e-10


def test_other_dtypes_are_refused(tiny_model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"must be in float64, got torch\.float32"):
        measured_deviation(tiny_model, torch.rand(1, 1, 8, 8))
