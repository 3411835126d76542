"""The approximation study, the pinwheel and the interpolation measure what they say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import interpolation, pinwheel, structured_approximation
from lipnet.structured import LowDisplacementRank, Toeplitz

ROOT = Path(__file__).parent.parent.parent


def test_closed_forms_reach_matrices_of_the_structure_and_descent_approaches_them() -> None:
    torch.manual_seed(0)
    toeplitz = Toeplitz(8, 8).double()
    torch.nn.init.normal_(toeplitz.diagonals)
    matrices = toeplitz.to_dense().detach()[None]
    errors = {name: found for name, _, found in structured_approximation.closed_forms(matrices)}
    assert errors["Toeplitz"] == pytest.approx([0], abs=1e-12)
    assert errors["circulant"][0] > 0.1
    assert errors["low rank"] == pytest.approx([0], abs=1e-12)  # the last rank is full
    planted = LowDisplacementRank(8, 8)
    torch.nn.init.normal_(planted.circulant)
    (error,) = structured_approximation.descend(planted.to_dense().detach().double()[None], rank=2, steps=400)
    assert error < 0.05


def test_low_rank_errors_are_those_of_the_singular_values() -> None:
    matrices = structured_approximation.targets(16, 2)["random"]
    found = {count: errors for name, count, errors in structured_approximation.closed_forms(matrices) if name[0] == "l"}
    for matrix, error in zip(matrices, found[2 * 16 * 4], strict=True):
        s = np.linalg.svd(matrix.numpy(), compute_uv=False)
        assert error == pytest.approx(np.sqrt((s[4:] ** 2).sum() / (s**2).sum()))


def test_the_rows_of_a_small_measurement_are_drawn() -> None:
    rows = structured_approximation.measure(size=16, repeats=2, steps=3)
    assert {row["matrix"] for row in rows} == {"random", "near low rank", "positive semidefinite"}
    assert {row["structure"] for row in rows} == set(structured_approximation.COLOURS)
    assert all(len(row["errors"]) == 2 for row in rows)
    assert len(structured_approximation.plot(rows).axes) == 3


@pytest.mark.slow
def test_the_pinwheel_trains_the_layer_and_the_head_alone() -> None:
    for name in pinwheel.STRUCTURES:
        start, _ = pinwheel.trained(name, 0, steps=0)
        network, accuracy = pinwheel.trained(name, 0, steps=60)
        assert torch.equal(start.embedding.weight, network.embedding.weight)
        assert not torch.equal(next(start.layer.parameters()), next(network.layer.parameters()))
        assert accuracy > 0.5


@pytest.mark.slow
def test_the_ends_of_the_interpolation_are_the_base_and_the_adapter() -> None:
    rows = interpolation.measure(steps=20)
    accuracies = {(row["adapter"], row["strength"]): (row["upright"], row["turned"]) for row in rows}
    for name in interpolation.ADAPTERS:
        assert accuracies[name, 0.0] == accuracies["base", 0.0]
        assert accuracies[name, 1.0] == accuracies[f"{name}, trained", 1.0]
    assert len(interpolation.plot(rows).axes) == 2


@pytest.mark.slow
def test_the_commands_write_a_picture_and_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["study", "--output", str(tmp_path), "--picture", str(tmp_path)])
    rows = interpolation.measure(steps=2)
    monkeypatch.setattr(interpolation, "measure", lambda: rows)
    interpolation.main()
    few = pinwheel.measure(seeds=1, steps=2)
    monkeypatch.setattr(pinwheel, "measure", lambda: few)
    pinwheel.main()
    small = structured_approximation.measure(size=16, repeats=2, steps=2)
    monkeypatch.setattr(structured_approximation, "measure", lambda: small)
    structured_approximation.main()
    written = {path.name for path in tmp_path.iterdir()}
    assert {path.stem for path in tmp_path.glob("*.json")} == {"approximation", "pinwheel", "interpolation"}
    assert {"structured_approximation.png", "pinwheel.png", "adapter_strength.png"} <= written


def test_kept_figures_are_in_the_documentation() -> None:
    """The documentation quotes these means."""
    rows = json.loads((ROOT / "results/structured/pinwheel.json").read_text())["rows"]
    document = (ROOT / "docs/structured.md").read_text()
    for row in rows:
        share = 100 * sum(row["accuracies"]) / len(row["accuracies"])
        assert f"| {row['structure']} | {row['parameters']} | {share:.1f} % |" in document
