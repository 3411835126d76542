"""Files of torch.export: they run without lipnet, at every batch size, and hold their metadata."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lipnet.certify import certify, export_program, lipschitz_bound
from lipnet.certify.export import METADATA_FILE
from lipnet.functional.pairwise import pairwise_certified_radius
from lipnet.layers import SOC, HouseholderOrder2, MaxMin, NormalizedLinear, SOCLinear

WITHOUT_LIPNET = """
import sys

sys.modules["lipnet"] = None  # importing it fails
import json, torch

torch.set_num_threads(1)
extra = {"lipnet.json": ""}
model = torch.export.load(sys.argv[1] + "/model.pt2", extra_files=extra).module()
inputs = torch.load(sys.argv[1] + "/inputs.pt")
torch.save(([model(x) for x in inputs], json.loads(extra["lipnet.json"])), sys.argv[1] + "/results.pt")
"""


def head(features: int, classes: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), SOCLinear(features, classes))


@pytest.mark.slow
def test_it_runs_where_lipnet_cannot_be_imported(tmp_path: Path) -> None:
    model = nn.Sequential(SOC(3, 8), MaxMin(), SOC(8, 8, stride=2, padding_mode="circular"), head(512)).double().eval()
    metadata = export_program(model, tmp_path / "model.pt2", input_shape=(3, 16, 16), class_names=["a", "b", "c", "d"])
    inputs = [torch.rand(batch, 3, 16, 16, dtype=torch.float64) for batch in (1, 2, 7, 32)]
    torch.save(inputs, tmp_path / "inputs.pt")
    subprocess.run([sys.executable, "-c", WITHOUT_LIPNET, str(tmp_path)], check=True, cwd=tmp_path)
    results, stored = torch.load(tmp_path / "results.pt")
    for x, result in zip(inputs, results, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(result, model(x), rtol=1e-13, atol=1e-13)
    assert stored == metadata
    assert (metadata["dtype"], metadata["num_classes"]) == ("float64", 4)
    assert metadata["lipschitz_bound"] == lipschitz_bound(model)


@pytest.mark.slow
def test_metadata_are_in_an_extra_file(tmp_path: Path, tiny_model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    metadata = export_program(tiny_model, "~/model.pt2", facts={"dataset": "digits"})
    extra = {METADATA_FILE: ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(extra[METADATA_FILE]) == metadata
    assert (metadata["dataset"], metadata["input_shape"], metadata["input_units"]) == (
        "digits",
        [1, 8, 8],
        "pixels in [0, 1]",
    )
    assert "class_names" not in metadata


def test_the_bound_is_that_of_torchs_modules_too(tmp_path: Path) -> None:
    model = nn.Sequential(SOC(3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)).eval()
    metadata = export_program(model, tmp_path / "model.pt2", input_shape=(3, 8, 8))
    assert metadata["lipschitz_bound"] == pytest.approx(torch.linalg.matrix_norm(model[3].weight, ord=2).item(), 1e-6)


@pytest.mark.slow
def test_bounds_of_pairs_are_those_of_the_head(tmp_path: Path) -> None:
    model = nn.Sequential(SOC(3, 4), HouseholderOrder2(4), nn.Flatten(), NormalizedLinear(256, 5)).eval()
    metadata = export_program(model, tmp_path / "model.pt2", input_shape=(3, 8, 8))
    extra = {METADATA_FILE: ""}
    loaded = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    assert json.loads(extra[METADATA_FILE]) == metadata
    images = torch.rand(6, 3, 8, 8)
    certificates = certify(model, images, torch.zeros(6, dtype=torch.long), ignore_rounding=True)
    predictions, radii = pairwise_certified_radius(
        loaded(images), torch.tensor(metadata["pairwise_lipschitz"], dtype=torch.float64)
    )
    assert torch.equal(predictions, certificates.prediction)
    torch.testing.assert_close(radii, certificates.radius, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"class_names": ["a"]}, ValueError, "class_names must have 4 names, one for each logit, got 1"),
        ({"facts": {"model": nn.ReLU()}}, TypeError, "facts must be values that JSON can hold"),
        ({"facts": {"radius": float("nan")}}, TypeError, "facts must be values that JSON can hold"),
        ({"facts": {"lipschitz_bound": 0.1}}, ValueError, "facts must have other names .* got lipschitz_bound"),
        (
            {"facts": {"class_names": ["a"], "pairwise_lipschitz": []}},
            ValueError,
            "got class_names, pairwise_lipschitz",
        ),
        ({"input_shape": None}, ValueError, "input_shape is needed"),
    ],
)
def test_settings_that_do_not_fit(
    tmp_path: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        export_program(head(12).eval(), tmp_path / "model.pt2", **{"input_shape": (3, 2, 2), **settings})
    assert not list(tmp_path.iterdir())


def test_models_that_are_refused(tmp_path: Path) -> None:
    path, shape = tmp_path / "model.pt2", (3, 8, 8)
    with pytest.raises(ValueError, match="training mode"):
        export_program(head(192).train(), path, input_shape=shape)
    with pytest.raises(TypeError, match=r"1 \(Mish\) has no rule"):
        export_program(nn.Sequential(head(192), nn.Mish()).eval(), path, input_shape=shape)
    with pytest.raises(ValueError, match=r"must return logits \(B, classes\), got shape \(2, 8, 8, 8\)"):
        export_program(SOC(3, 8).eval(), path, input_shape=shape)
    with pytest.raises(ValueError, match=r"must be in float32 or float64, got torch\.bfloat16"):
        export_program(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).bfloat16().eval(), path, input_shape=shape)
    broken = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).eval()
    with torch.no_grad():
        broken[1].weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match="weights are not finite"):
        export_program(broken, path, input_shape=shape)
    normalized = nn.Sequential(nn.Flatten(), NormalizedLinear(192, 3)).eval()
    with torch.no_grad():
        normalized[1].weight[2] = 0
    with pytest.raises(ValueError, match="a head has a zero row"):
        export_program(normalized, path, input_shape=shape)
    assert not list(tmp_path.iterdir())
