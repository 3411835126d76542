"""The transfer study reads the folders of runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.transfer_study import draw, facts_of, report, training_of
from lipnet.models import build_model
from lipnet.models.checkpoint import describe
from tests.models.test_adapted import GSOFT, adapted_config


@pytest.fixture
def run(tmp_path: Path, tiny_config: dict[str, object]) -> Path:
    """The folder of a transfer's run, as train.py leaves it."""
    config = adapted_config(tiny_config, GSOFT)
    model = build_model(config)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    content = {
        "state_dict": state,
        "lipnet": describe(config, {"name": "digits", "seed": 0, "validation_fraction": 0.1}),
        "global_step": 23,
    }
    for folder in ("checkpoints", ".hydra"):
        (tmp_path / folder).mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("seed: 0\n")
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- paths.log_dir=/home/somebody\n- ckpt_path=/a\n- seed=0\n")
    for name in ("best", "last"):
        torch.save(content, tmp_path / "checkpoints" / f"{name}.ckpt")
    summary = {
        "split": "test",
        "n_samples": 359,
        "clean_accuracy": 0.5,
        "certified_accuracy": {"36/255": 0.4, "1": 0.1},
        "average_certified_radius": 0.2,
        "lipschitz_bound": 2.5,
        "versions": {},
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    return tmp_path


def test_facts_are_those_of_the_run(run: Path, tiny_model: nn.Module) -> None:
    facts = facts_of(run)
    own = sum(parameter.numel() for parameter in tiny_model.parameters())
    generators = sum(2 * features * 4 for features in (16, 32, 64, 64))
    assert facts["trained_parameters"] == generators + 10
    assert facts["parameters"] == own + generators
    assert (facts["steps"], facts["n_samples"], facts["clean_accuracy"]) == (23, 359, 0.5)
    assert facts["seconds"] >= 0
    assert facts["settings"] == ["seed=0"]
    assert training_of(run)["dataset"]["name"] == "digits"


def test_table_and_plot(run: Path) -> None:
    facts = facts_of(run)
    table = report({"maps": facts, "all": facts})
    assert [column.header for column in table.columns] == ["", "trained", "share", "clean", "36/255", "1", "seconds"]
    assert table.row_count == 2
    assert len(draw({"maps": facts, "all": facts}).axes) == 1


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        facts_of(tmp_path)
