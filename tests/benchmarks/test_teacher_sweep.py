"""Teachers and their students share the time of the recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from benchmarks import teacher_sweep
from benchmarks.cpu_sweep import EPOCHS
from benchmarks.rows import ROOT
from benchmarks.sweep import Row, Sweep
from benchmarks.teacher_sweep import (
    BASE,
    MINUTES,
    ROWS,
    TEACHER_ROWS,
    TEACHERS,
    TeacherSweep,
    describe,
    length_of_rows,
    taught,
    teacher_of,
)
from benchmarks.timed_sweep import Length
from lipnet.data import DATAMODULES
from lipnet.models import ResNet9, build_model
from lipnet.training import Distillation
from lipnet.workflows.training import model_config
from tests.benchmarks.test_sweep import row_file

IMAGES = 45_000


def sweep_in(folder: Path) -> TeacherSweep:
    """Return the sweep with steps of half a second."""
    seconds = dict.fromkeys([row.name for row in (*ROWS, *TEACHER_ROWS)], 0.5)
    return TeacherSweep(folder, folder, Length(MINUTES, seconds, IMAGES, EPOCHS), BASE)


def minutes_of(row: Row, sweep: TeacherSweep) -> float:
    """Return the minutes of the steps of a row's training."""
    settings = dict(each.split("=", 1) for each in sweep.overrides_of(row))
    return prod(int(settings[f"trainer.{name}"]) for name in ("max_epochs", "limit_train_batches")) * 0.5 / 60


def test_the_first_row_has_no_teacher_and_every_teacher_has_a_student() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert ROWS[0] == Row("alone", "base")
    assert {teacher_of(row) for row in ROWS[1:]} == set(TEACHERS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_student_and_teacher_together_take_the_time_of_the_recipe(row: Row, tmp_path: Path) -> None:
    sweep = sweep_in(tmp_path)
    teachers = [each for each in TEACHER_ROWS if each.name == teacher_of(row)]
    assert sum(minutes_of(each, sweep) for each in (row, *teachers)) == pytest.approx(MINUTES, rel=0.01)
    if teachers:
        assert minutes_of(teachers[0], sweep) == pytest.approx(TEACHERS[teachers[0].name], rel=0.01)


@pytest.mark.parametrize("row", [*ROWS, TEACHER_ROWS[0]], ids=lambda row: row.name)
def test_a_row_is_a_training_without_the_test_images(row: Row, tmp_path: Path) -> None:
    with initialize_config_dir(str(ROOT / "lipnet" / "conf"), version_base="1.3"):
        config = compose("train", sweep_in(tmp_path).overrides_of(row))
    assert config.certify.split == "validation"
    assert config.trainer.check_val_every_n_epoch == config.trainer.max_epochs, "the last weights are certified"
    with torch.device("meta"):
        network = build_model(model_config(config, DATAMODULES["cifar100"].spec))
    assert isinstance(network, ResNet9) == (row in TEACHER_ROWS)
    assert config.get("distillation", {}).get("teacher") == teacher_of(row)


def test_the_command_of_a_student_has_the_path_of_its_teacher(tmp_path: Path) -> None:
    sweep, taught = sweep_in(tmp_path), ROWS[1]
    command = sweep.command_of(taught, tmp_path / taught.name)
    assert f"distillation.teacher={tmp_path / 'teacher_7'}" in command
    assert "distillation.teacher=teacher_7" in sweep.overrides_of(taught)
    assert not any(each.startswith("distillation") for each in sweep.command_of(ROWS[0], tmp_path / "alone"))


def test_teachers_are_finished_before_their_students(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    performed = []

    def perform(self: Sweep, rows: Sequence[Row], jobs: int) -> bool:
        performed.append([row.name for row in rows])
        return True

    monkeypatch.setattr(Sweep, "perform", perform)
    assert sweep_in(tmp_path).perform([ROWS[0], ROWS[2]], jobs=2)
    assert performed == [["teacher_7"], ["alone", "taught_7_weight_0.9"]]


def test_the_step_of_a_student_is_timed_with_its_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = ("model.stages=3", "model.depth=3", "model.initial_channels=8", "head=lln")
    small = Row("teacher_7", "teacher", ("model=resnet9", "model.channels=4", "model.stride=1"))
    monkeypatch.setattr(teacher_sweep, "BASE", ("data=digits", "data.batch_size=8", "loss=offset_cross_entropy"))
    monkeypatch.setattr(teacher_sweep, "TEACHERS", {"teacher_7": 7.0})
    monkeypatch.setattr(teacher_sweep, "TEACHER_ROWS", (small,))
    monkeypatch.setattr(teacher_sweep, "ROWS", (taught("taught_7", "minutes", "teacher_7", *network),))
    taught_by: list[int] = []
    soften = Distillation.soften

    def counted(self: Distillation, images: Tensor, labels: Tensor, classes: int) -> Tensor:
        taught_by.append(classes)
        return soften(self, images, labels, classes)

    monkeypatch.setattr(Distillation, "soften", counted)
    length = length_of_rows([], tmp_path / "step_times.json")
    assert (set(length.seconds), length.images) == ({"taught_7", "teacher_7"}, 1_295)
    assert set(taught_by) == {10}


def test_the_page_states_the_accuracy_of_the_teachers(tmp_path: Path) -> None:
    row_file(tmp_path, "alone", [], 0.2)
    row_file(tmp_path, "taught_7", ["distillation=default"], 0.3)
    row_file(tmp_path, "teacher_7", ["model=resnet9"], 0.0)
    rows = [json.loads((tmp_path / "rows" / f"{name}.json").read_text()) for name in ("alone", "taught_7")]
    description = describe(rows, tmp_path)
    assert "as many steps as 27 minutes of two cores allow" in description.method[0]
    assert description.method[1].startswith("Clean accuracy of the teachers on these images: `teacher_7` ")
    assert description.choice.startswith("`taught_7` has the fewest changes")
