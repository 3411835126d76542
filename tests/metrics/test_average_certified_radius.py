"""AverageCertifiedRadius and its functional twin against math.fsum."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lipnet.metrics import AverageCertifiedRadius
from lipnet.metrics.functional import average_certified_radius


def samples(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    radius = torch.rand(count, generator=generator, dtype=torch.float64)
    return radius, torch.rand(count, generator=generator) < 0.4


def mean_of_correct(radius: Tensor, correct: Tensor) -> float:
    chosen = [r for r, c in zip(radius.tolist(), correct.tolist(), strict=True) if c]
    return math.fsum(chosen) / len(chosen)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_is_the_mean_over_correct_samples_whatever_the_batches(dtype: torch.dtype) -> None:
    radius, correct = samples(1001)
    radius = radius.to(dtype)
    metric = AverageCertifiedRadius()
    for part, right in zip(radius.split(130), correct.split(130), strict=True):
        metric.update(part, right)
    expected = mean_of_correct(radius, correct)
    assert metric.compute().item() == pytest.approx(expected, rel=1e-14)
    assert metric.compute().dtype == torch.float64
    assert average_certified_radius(radius, correct).item() == pytest.approx(expected, rel=1e-14)


def test_forward_gives_the_batch_and_reset_forgets() -> None:
    radius, correct = samples(40)
    metric = AverageCertifiedRadius()
    for batch in (slice(0, 30), slice(30, 40)):
        value = metric(radius[batch], correct[batch])
        assert value.item() == pytest.approx(mean_of_correct(radius[batch], correct[batch]))
    assert metric.compute().item() == pytest.approx(mean_of_correct(radius, correct))
    metric.reset()
    metric.update(torch.tensor([0.25]), torch.tensor([True]))
    assert metric.compute() == 0.25


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -0.5])
def test_radii_that_are_not_finite_or_negative_count_as_zero(bad: float) -> None:
    radius = torch.tensor([bad, 0.5, bad])
    assert average_certified_radius(radius, torch.tensor([True, True, False])).item() == 0.25


def test_no_correct_sample_gives_nan() -> None:
    assert average_certified_radius(torch.tensor([0.5]), torch.tensor([False])).isnan()
    metric = AverageCertifiedRadius()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert metric.compute().isnan()
    metric.update(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    assert metric.compute().isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_sum_keeps_its_precision_when_the_module_around_it_is_converted(dtype: torch.dtype) -> None:
    radius, correct = samples(1001)
    metric = AverageCertifiedRadius()
    module = torch.nn.ModuleList([metric, torch.nn.Linear(1, 1)])
    metric.update(radius[:500], correct[:500])
    module.to(dtype)
    metric.update(radius[500:], correct[500:])
    assert metric.compute().item() == pytest.approx(mean_of_correct(radius, correct), rel=1e-14)
    metric.reset()
    assert metric.radius_sum.dtype == torch.float64


def test_the_states_follow_a_move_to_another_device() -> None:
    metric = AverageCertifiedRadius().to("meta")
    assert metric.radius_sum.device.type == metric.correct_total.device.type == metric.device.type == "meta"


@pytest.mark.parametrize(
    ("radius", "correct", "message"),
    [
        (torch.zeros(()), torch.ones((), dtype=torch.bool), r"radius .* got shape \(\)"),
        (torch.zeros(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool), "radius .* dtype torch.bool"),
        (torch.zeros(3), torch.ones(3, 1, dtype=torch.bool), r"correct .* \(3,\), got shape \(3, 1\)"),
        (torch.zeros(3), torch.ones(3, dtype=torch.int64), "correct .* dtype torch.int64"),
    ],
)
def test_samples_of_a_wrong_kind_raise(radius: Tensor, correct: Tensor, message: str) -> None:
    metric = AverageCertifiedRadius()
    with pytest.raises(ValueError, match=message):
        metric.update(radius, correct)
    with pytest.raises(ValueError, match=message):
        average_certified_radius(radius, correct)


def test_plot_draws_one_evaluation_or_several() -> None:
    metric = AverageCertifiedRadius()
    metric.update(torch.tensor([0.28199]), torch.tensor([True]))
    _, axes = metric.plot()
    assert axes.lines[0].get_ydata().tolist() == pytest.approx([0.28199])
    assert [text.get_text() for text in axes.texts] == ["0.281"]
    figure, axes = metric.plot([torch.tensor(math.nan), torch.tensor(0.25), torch.tensor(0.5)], ax=axes)
    assert axes.lines[1].get_ydata()[1:].tolist() == [0.25, 0.5]
    assert axes.figure is figure


def test_plot_of_an_undefined_result_leaves_an_empty_picture() -> None:
    figure, axes = AverageCertifiedRadius().plot(torch.tensor(math.nan))
    figure.canvas.draw()
    assert len(axes.texts) == 0


def test_plot_of_wrong_results_raises() -> None:
    metric = AverageCertifiedRadius()
    with pytest.raises(ValueError, match=r"single number, got shape \(3,\)"):
        metric.plot(torch.zeros(3))
    with pytest.raises(ValueError, match="at least one result"):
        metric.plot([])
