"""CertifiedAccuracy and its functional twin against counting by hand in exact arithmetic."""

from __future__ import annotations

import math
import pickle
from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from lipnet.functional.margins import STANDARD_RADII
from lipnet.metrics import CertifiedAccuracy
from lipnet.metrics.functional import certified_accuracy


def samples(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    radius = torch.rand(count, generator=generator, dtype=torch.float64) * 1.5
    return radius.to(dtype), torch.rand(count, generator=generator) < 0.6


def counted(radius: Tensor, correct: Tensor, names: tuple[str, ...]) -> list[Fraction]:
    pairs = list(zip(radius.tolist(), correct.tolist(), strict=True))
    return [Fraction(sum(c and Fraction(r) > Fraction(name) for r, c in pairs), len(pairs)) for name in names]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_matches_counting_over_unequal_batches(dtype: torch.dtype) -> None:
    radius, correct = samples(101, dtype=dtype)
    metric = CertifiedAccuracy()
    for part, right in zip(radius.split(17), correct.split(17), strict=True):
        metric.update(part, right)
    expected = [float(fraction) for fraction in counted(radius, correct, STANDARD_RADII)]
    assert metric.compute().tolist() == expected
    assert metric.compute().dtype == torch.float64
    assert certified_accuracy(radius, correct).tolist() == expected
    assert metric.named() == dict(zip(STANDARD_RADII, expected, strict=True))


def test_the_ball_is_open() -> None:
    edge = 36 / 255
    radius = torch.tensor([math.nextafter(edge, 0), edge, math.nextafter(edge, 1)], dtype=torch.float64)
    assert certified_accuracy(radius, torch.ones(3, dtype=torch.bool), ["36/255"]).tolist() == [1 / 3]
    assert certified_accuracy(torch.tensor([0.0, 0.1]), torch.tensor([True, True]), [0]).tolist() == [0.5]


def test_comparison_is_made_in_float64() -> None:
    """0.1 rounded to float32 lies above 0.1: certified; a comparison in float32 would call them equal."""
    assert certified_accuracy(torch.tensor([0.1]), torch.tensor([True]), ["0.1"]).item() == 1.0


def test_radii_that_are_not_finite_or_not_of_the_label_are_never_certified() -> None:
    radius = torch.tensor([math.nan, math.inf, -math.inf, -1.0, 9.0, 9.0])
    correct = torch.tensor([True, True, True, True, False, True])
    assert certified_accuracy(radius, correct, ["0", "1"]).tolist() == [1 / 6, 1 / 6]


def test_states_are_integer_counts_and_stay_so() -> None:
    metric = CertifiedAccuracy()
    metric.update(*samples(1000))
    exact = metric.compute()
    for converted in (metric.half(), metric.to(torch.bfloat16)):
        assert converted.certified.dtype == converted.total.dtype == torch.int64
        assert converted.total == 1000
    restored = pickle.loads(pickle.dumps(metric))
    restored.update(*samples(0))
    assert restored.compute().equal(exact)


def test_forward_gives_the_batch_and_keeps_the_total() -> None:
    radius, correct = samples(30)
    metric = CertifiedAccuracy(["72/255", 0.5])
    assert metric.radii == ("72/255", "0.5")
    first = metric(radius[:20], correct[:20])
    assert first.equal(certified_accuracy(radius[:20], correct[:20], ["72/255", 0.5]))
    metric(radius[20:], correct[20:])
    assert metric.compute().equal(certified_accuracy(radius, correct, ["72/255", 0.5]))
    metric.reset()
    metric.update(radius[:20], correct[:20])
    assert metric.compute().equal(first)


def test_one_radius_has_a_name_too() -> None:
    metric = CertifiedAccuracy(["36/255"])
    metric.update(torch.tensor([0.5, 0.1]), torch.tensor([True, True]))
    assert metric.named() == {"36/255": 0.5}


def test_no_samples_give_nan_and_torchmetrics_warning() -> None:
    metric = CertifiedAccuracy()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        values = metric.compute()
    assert values.shape == (4,)
    assert values.isnan().all()


@pytest.mark.parametrize(
    ("radius", "correct", "message"),
    [
        (torch.zeros(3, 1), torch.ones(3, 1, dtype=torch.bool), r"radius .* got shape \(3, 1\)"),
        (torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.bool), "radius .* dtype torch.int64"),
        (torch.zeros(3), torch.ones(2, dtype=torch.bool), r"correct .* \(3,\), got shape \(2,\)"),
        (torch.zeros(3), torch.ones(3), "correct .* dtype torch.float32"),
    ],
)
def test_samples_of_a_wrong_kind_raise(radius: Tensor, correct: Tensor, message: str) -> None:
    metric = CertifiedAccuracy()
    with pytest.raises(ValueError, match=message):
        metric.update(radius, correct)
    with pytest.raises(ValueError, match=message):
        certified_accuracy(radius, correct)


@pytest.mark.parametrize(
    ("radii", "message"),
    [
        ([], r"at least one radius, got \[\]"),
        ("36/255", "sequence of at least one radius, got '36/255'"),
        (["1", "0.5", "1"], "name each radius once, got"),
        (["36/0"], "got '36/0'"),
        ([-1.0], "at least 0,.* got -1.0"),
    ],
)
def test_radii_that_make_no_sense_raise(radii: list[str] | str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CertifiedAccuracy(radii)


def test_plot_draws_the_results_at_the_radii() -> None:
    metric = CertifiedAccuracy(["1", "36/255"])
    metric.update(*samples(50))
    _, axes = metric.plot()
    largest, smallest = metric.compute().tolist()
    assert axes.lines[0].get_xydata().tolist() == [[36 / 255, 100 * smallest], [1.0, 100 * largest]]
    labels = [f"1\n{100 * largest:.1f} %", f"36/255\n{100 * smallest:.1f} %"]
    assert [text.get_text() for text in axes.texts] == labels
    assert axes.get_legend() is None


def test_plot_draws_a_line_for_each_evaluation_on_given_axes() -> None:
    metric = CertifiedAccuracy()
    results = [metric(*samples(50, seed=seed)) for seed in range(3)]
    figure, axes = metric.plot(results[0])
    again, same = metric.plot(results, ax=axes)
    assert again is figure
    assert same is axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["evaluation 0", "evaluation 2"]


def test_plot_of_wrong_results_raises() -> None:
    metric = CertifiedAccuracy()
    with pytest.raises(ValueError, match=r"each of the 4 radii .* got shape \(3,\)"):
        metric.plot(torch.zeros(3))
    with pytest.raises(ValueError, match="at least one result"):
        metric.plot([])


OTHER_RADII = [(["36/255", "1"], ["72/255", "1"]), (["0.5"], ["0.500001"]), (["0.5", "1"], ["1", "0.5"])]


@pytest.mark.parametrize(("first", "second"), OTHER_RADII)
def test_metrics_with_other_radii_share_no_compute_group(first: list[str], second: list[str]) -> None:
    """torchmetrics groups metrics whose states agree after the first batch."""
    collection = MetricCollection({"a": CertifiedAccuracy(first), "b": CertifiedAccuracy(second)})
    collection.update(torch.tensor([5.0, 0.01]), torch.tensor([True, True]))
    radius, correct = torch.tensor([0.2, 0.2, 0.5000005, 0.8]), torch.ones(4, dtype=torch.bool)
    collection.update(radius, correct)
    assert len(collection.compute_groups) == 2
    together = torch.cat([torch.tensor([5.0, 0.01]), radius]), torch.ones(6, dtype=torch.bool)
    for name, radii in (("a", first), ("b", second)):
        expected = certified_accuracy(*together, radii)
        assert collection.compute()[name].reshape(-1).equal(expected)


def test_metrics_with_the_same_radii_share_a_compute_group() -> None:
    collection = MetricCollection({"a": CertifiedAccuracy(["1"]), "b": CertifiedAccuracy([1])})
    collection.update(torch.tensor([5.0, 0.01]), torch.tensor([True, True]))
    assert len(collection.compute_groups) == 1


@pytest.mark.parametrize(("first", "second"), OTHER_RADII)
def test_counts_of_other_radii_are_not_merged(first: list[str], second: list[str]) -> None:
    metric, other = CertifiedAccuracy(first), CertifiedAccuracy(second)
    for each in (metric, other):
        each.update(*samples(10))
    before = metric.compute()
    for state in (other, other.metric_state):
        with pytest.raises(ValueError, match=f"needs the counts at {' '.join(first)}, got those at {' '.join(second)}"):
            metric.merge_state(state)
    assert metric.compute().equal(before)
    with pytest.raises(ValueError, match="got those at unknown radii"):
        metric.merge_state({"certified": metric.certified, "total": metric.total})


def test_counts_of_the_same_radii_are_merged() -> None:
    radius, correct = samples(30)
    metric, other = CertifiedAccuracy(), CertifiedAccuracy()
    metric.update(radius[:10], correct[:10])
    other.update(radius[10:], correct[10:])
    metric.merge_state(other)
    assert metric.compute().equal(certified_accuracy(radius, correct))
    metric.to(torch.bfloat16).merge_state(other.metric_state)
    assert metric.total == 50


def test_counts_at_other_radii_are_not_shown_as_those_at_one_s_own() -> None:
    metric, other = CertifiedAccuracy(["0.5"]), CertifiedAccuracy(["0.9"])
    metric.update(torch.tensor([0.7]), torch.tensor([True]))
    for each in (metric, other):
        each.persistent(True)
    other.load_state_dict(metric.state_dict())
    with pytest.raises(ValueError, match=r"needs the counts at 0\.9, got those at 0\.5"):
        other.named()
