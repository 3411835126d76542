"""The rows of the recipe's sweep are trainings of equal cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from benchmarks.cpu_sweep import BASE, EPOCHS, MINUTES, ROWS, describe
from benchmarks.rows import ROOT
from benchmarks.sweep import Row
from benchmarks.timed_sweep import Length, TimedSweep
from lipnet.data import DATAMODULES
from lipnet.models import build_model
from lipnet.workflows.training import model_config
from tests.benchmarks.test_sweep import row_file

IMAGES = 45_000


def sweep_of(seconds: dict[str, float], folder: Path, minutes: float = MINUTES) -> TimedSweep:
    """Return the sweep with these times of a step."""
    return TimedSweep(folder, folder, Length(minutes, seconds, IMAGES, EPOCHS), BASE)


def test_names_are_distinct_and_the_recipe_comes_first() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert ROWS[0] == Row("base", "base")


@pytest.mark.cover(0)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_is_a_training_without_the_test_images(row: Row, tmp_path: Path) -> None:
    with initialize_config_dir(str(ROOT / "lipnet" / "conf"), version_base="1.3"):
        config = compose("train", sweep_of({row.name: 0.25}, tmp_path).overrides_of(row))
    assert config.certify.split == "validation"
    assert config.trainer.max_time is None
    assert config.trainer.max_epochs >= EPOCHS
    assert config.trainer.check_val_every_n_epoch == config.trainer.max_epochs, "the last weights are certified"
    with torch.device("meta"):
        network = build_model(model_config(config, DATAMODULES["cifar100"].spec))
    assert 2e5 < sum(parameter.numel() for parameter in network.parameters()) < 2e7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "minutes"), [("base", 5), ("soc", 5), ("patches", 5), ("patches", 27), ("batch_256", 5)]
)
def test_the_steps_of_a_row_fill_the_time_and_fit_into_its_epochs(name: str, minutes: float, tmp_path: Path) -> None:
    seconds = {"base": 0.25, "soc": 0.5, "patches": 0.1, "batch_256": 0.4}
    sweep = sweep_of(seconds, tmp_path, minutes)
    (row,) = (each for each in ROWS if each.name == name)
    with initialize_config_dir(str(ROOT / "lipnet" / "conf"), version_base="1.3"):
        config = compose("train", sweep.overrides_of(row))
    batches, epochs = config.trainer.limit_train_batches, config.trainer.max_epochs
    assert epochs * batches * seconds[name] == pytest.approx(60 * minutes, rel=0.01)
    assert batches * config.data.batch_size <= IMAGES
    assert epochs == config.trainer.check_val_every_n_epoch, "the last weights are certified"
    assert config.data.batch_size == (256 if name == "batch_256" else 128)


def test_a_time_of_less_than_a_step_is_refused() -> None:
    length = Length(0.001, {"base": 0.1}, IMAGES, EPOCHS)
    with pytest.raises(ValueError, match=r"minutes must be enough for a step of 0.1 s, got 0.001"):
        length.of("base", 128)
    assert Length(0.0055, {"base": 0.1}, IMAGES, EPOCHS).of("base", 128) == (3, 1)


def test_the_report_names_the_simplest_of_the_best(tmp_path: Path) -> None:
    row_file(tmp_path, "base", [], 0.2)
    row_file(tmp_path, "lr_0.2", ["optimizer.lr=0.2"], 0.25)
    rows = [json.loads((tmp_path / "rows" / f"{name}.json").read_text()) for name in ("base", "lr_0.2")]
    assert describe(rows, tmp_path).choice.startswith("`lr_0.2` has the fewest changes")
    longer = describe(rows, Path("results", "longer"), minutes=27)
    assert "as many steps as 27 minutes of two cores allow" in longer.method[0]
    assert longer.module == "benchmarks.cpu_sweep --minutes 27 --output results/longer"
