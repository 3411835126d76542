"""The bounds behind a model's certificates, and their entries in a summary."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import (
    Evidence,
    certify,
    layer_report,
    lipschitz_bound,
    measured_deviation,
    rounding_bounds,
    rounding_sentence,
)
from lipnet.certify.run import PARTIAL, Certification, run_certification
from lipnet.layers import LipschitzModule, Normalize, NormalizedLinear

SHAPE = (1, 8, 8)


def test_certificates_are_those_of_certify(trained_model: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits[0][:20], digits[1][:20]
    evidence, expected = Evidence(trained_model, SHAPE).certify(images, labels), certify(trained_model, images, labels)
    assert evidence.radius.equal(expected.radius)
    assert evidence.correct.equal(expected.correct)


def test_the_summary_says_the_bounds_and_what_was_measured(
    trained_model: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    evidence, images = Evidence(trained_model, SHAPE), digits[0][:10]
    bound, rounding = lipschitz_bound(trained_model), rounding_bounds(trained_model, SHAPE).logits
    assert evidence.facts() == {"lipschitz_bound": bound, "rounding_bound": rounding}
    summary = evidence.summary(images)
    assert summary["rounding"] == {
        "covered": True,
        "logits": rounding,
        "radius": 2 * rounding / bound,
        "measured": asdict(measured_deviation(trained_model, images)),
    }
    rows = [{**asdict(layer), "input_shape": list(layer.input_shape)} for layer in layer_report(trained_model, SHAPE)]
    assert json.loads(json.dumps(summary["layers"])) == rows
    sentence = rounding_sentence(summary)
    assert f"within {rounding:.1e} of exact ones" in sentence
    assert "Measured on 10 images, not proved" in sentence


def test_the_radius_is_shorter_by_what_the_summary_says(
    trained_model: nn.Module, digits: tuple[Tensor, Tensor]
) -> None:
    images, labels = digits[0][:20], digits[1][:20]
    evidence = Evidence(trained_model, SHAPE)
    with torch.no_grad():
        naive = evidence.bounds.certified_radius(trained_model(images))[1]
    shorter = naive - evidence.certify(images, labels).radius
    assert (shorter > 0).all()
    assert shorter.max().item() == pytest.approx(evidence.summary(images)["rounding"]["radius"], rel=1e-3)


def test_a_head_with_bounds_for_pairs_says_the_largest_share() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), NormalizedLinear(4, 3)).double().eval()
    images, labels = torch.rand(20, 1, 2, 2, dtype=torch.float64), torch.zeros(20, dtype=torch.int64)
    evidence = Evidence(model, (1, 2, 2))
    with torch.no_grad():
        naive = evidence.bounds.certified_radius(model(images))[1]
    shorter = naive - evidence.certify(images, labels).radius
    assert 0 < shorter.max() <= evidence.summary(images)["rounding"]["radius"] * (1 + 1e-3) + 1e-16 < 1e-14


def test_in_float32_the_summary_says_that_rounding_is_not_covered(tiny_model: nn.Module) -> None:
    images, labels = torch.rand(3, *SHAPE), torch.zeros(3, dtype=torch.int64)
    evidence = Evidence(tiny_model, SHAPE)
    assert evidence.facts()["rounding_bound"] is None
    expected = certify(tiny_model, images, labels, ignore_rounding=True)
    assert evidence.certify(images, labels).radius.equal(expected.radius)
    summary = evidence.summary(images)
    assert summary["rounding"] == {"covered": False}
    assert {layer["rounding"] for layer in summary["layers"]} == {None}
    sentence = rounding_sentence({**summary, "dtype": "float32"})
    assert sentence == "Rounding in float32 is not covered: the radii are those of exact arithmetic."


def test_a_summary_is_json_whatever_the_bounds() -> None:
    model = nn.Sequential(nn.Flatten(), NormalizedLinear(4, 3)).double().eval()
    with torch.no_grad():
        model[1].weight[1] = 0
    summary = Evidence(model, (1, 2, 2)).summary(torch.rand(2, 1, 2, 2))
    json.dumps(summary, allow_nan=False)
    assert summary["rounding"]["radius"] is None
    assert "an unknown distance" in rounding_sentence(summary)


def test_an_infinite_bound_on_the_rounding_is_null_and_leaves_no_radius() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double().eval()
    with torch.no_grad():
        model[1].weight.mul_(1e155)
    evidence, images = Evidence(model, (1, 2, 2)), torch.rand(2, 1, 2, 2, dtype=torch.float64)
    assert evidence.facts() == {"lipschitz_bound": lipschitz_bound(model), "rounding_bound": None}
    assert "covered: no bound on it is known, so all radii are 0." in rounding_sentence(evidence.summary(images))
    assert not bool(evidence.certify(images, torch.zeros(2, dtype=torch.int64)).radius.any())


CHANGES: dict[str, Callable[[Any], object]] = {
    "weight": lambda model: nn.init.constant_(model[1].weight, 100.0),
    "data": lambda model: model[1].weight.data.mul_(10),
    "state": lambda model: model.load_state_dict({key: 10 * value for key, value in model.state_dict().items()}),
    "swap": lambda model: torch.utils.swap_tensors(model[1].weight, nn.Parameter(10 * model[1].weight.detach())),
    "setting": lambda model: setattr(model[0], "std", 0.025),
    "module": lambda model: model.append(nn.LeakyReLU(10.0).eval()),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("midway", [False, True], ids=["before", "midway"])
def test_a_model_that_changes_after_its_bounds_is_not_certified_by_them(
    tmp_path: Path, change: str, midway: bool
) -> None:
    model = nn.Sequential(Normalize([0.5], 0.25), nn.Conv2d(1, 2, 2), nn.Flatten()).double().eval()
    images = torch.rand(4, 1, 2, 2, dtype=torch.float64).split(2)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        yield images[0], torch.zeros(2, dtype=torch.int64)
        if midway:
            CHANGES[change](model)
        yield images[1], torch.zeros(2, dtype=torch.int64)

    certification = Certification(model, batches(), torch.arange(4), {})
    if not midway:
        CHANGES[change](model)
    with pytest.raises(RuntimeError, match="the model was changed after its bounds were computed"):
        run_certification(certification, tmp_path)
    # Nobody knows which batches were certified before a change that only the comparison of all weights finds.
    kept = [PARTIAL] if midway and change != "data" else []
    assert [path.name for path in tmp_path.iterdir()] == kept


def test_settings_of_a_user_s_own_module_may_count_calls() -> None:
    class Counting(LipschitzModule):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x

        def lipschitz_bound(self) -> float:
            return 1.0

    model = nn.Sequential(Counting(), nn.Flatten(), nn.Linear(4, 3)).eval()
    evidence = Evidence(model, (1, 2, 2))
    assert len(evidence.certify(torch.rand(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64)).radius) == 2


@pytest.mark.parametrize("kind", ["sparse", "nested", "meta"])
def test_buffers_that_are_no_plain_tensors_are_named(trained_model: nn.Module, kind: str) -> None:
    eye = torch.eye(2)
    buffer = {"sparse": eye.to_sparse(), "nested": torch.nested.nested_tensor([eye, eye]), "meta": eye.to("meta")}[kind]
    trained_model.register_buffer("table", buffer)
    with pytest.raises(ValueError, match=r"has table (of type Tensor|on the meta device)"):
        Evidence(trained_model, SHAPE)
    with pytest.raises(ValueError, match=r"has table (of type Tensor|on the meta device)"):
        certify(trained_model, torch.zeros(1, *SHAPE).double(), torch.zeros(1).long())
