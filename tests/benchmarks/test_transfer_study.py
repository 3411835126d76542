"""The transfer study gives every training its steps, chooses by validation, and makes its page from the rows' files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from benchmarks import transfer_plan, transfer_rows
from benchmarks.rows import ROOT
from benchmarks.step_times import composed
from benchmarks.sweep import LAST
from benchmarks.transfer_report import LARGEST, draw, table, verdict, write_report
from benchmarks.transfer_rows import BASE, METHODS, TASKS, Row, Training, bases, methods_of, overrides_of, rows, trials
from benchmarks.transfer_study import TEST, Study
from benchmarks.transfer_trainings import BEST, Trainings

DIGITS = ("data=digits", "loss.temperature=1")
TINY = ("model.patch_rotation=null", "model.stages=3", "model.depth=3", "model.initial_channels=8")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One task, and two methods that fit a tiny network."""
    monkeypatch.delitem(TASKS, "coarse_to_fine")
    for name in [name for name in METHODS if name not in ("gsoft", "everything")]:
        monkeypatch.delitem(METHODS, name)
    overrides = ("adapter=gsoft", "adapter.block_size=4")
    monkeypatch.setitem(METHODS, "gsoft", transfer_rows.Method("GSOFT maps", overrides))


@pytest.fixture
def trainings(tmp_path: Path, few: None) -> Trainings:
    """Trainings of four steps of three seconds, counted and timed beforehand."""
    trainings = Trainings(tmp_path / "work", tmp_path / "output", DIGITS, TINY, minutes=0.1)
    kinds = [f"halves-{name}" for name in ("base", "gsoft", "everything")]
    trainings.seconds = dict.fromkeys(kinds, 3.0)
    trainings.trained = dict(zip(kinds, (4000, 300, 4000), strict=True))
    return trainings


def summary(certified: float, split: str = "test") -> dict[str, Any]:
    return {
        "split": split,
        "clean_accuracy": 0.5,
        "certified_accuracy": {"36/255": certified, "72/255": 0.1},
        "lipschitz_bound": 3.75,
        "checkpoint": "/home/somebody",
        "sha256": "0",
    }


def finish(trainings: Trainings, training: Training, certified: float) -> None:
    """Write the files of a training, and of the certificates of its test images, as the commands leave them."""
    folder = trainings.folder_of(training)
    for place, split in ((folder, "validation"), (folder / TEST, "test")):
        place.mkdir(parents=True)
        (place / "summary.json").write_text(json.dumps(summary(certified, split)))
    (folder / "run.json").write_text(json.dumps({"steps": 4}))
    write(trainings.file_of(training), trainings.content_of(training, folder))


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def row_of(method: str, seed: int, certified: float, trained: int) -> dict[str, Any]:
    """Return the content of a finished row."""
    about = {"method": method, "label": METHODS[method].label, "seed": seed, "rate": 0.01}
    return {**about, "trained_parameters": trained, "summary": summary(certified)}


def test_names_are_distinct() -> None:
    trained = [*bases(), *trials()]
    assert len({each.name for each in trained}) == len(trained) == 2 + 2 * (8 + 7)
    assert len({row.name for row in rows()}) == len(rows()) == 3 * (8 + 7)
    assert set(methods_of("coarse_to_fine")) == set(METHODS) - {"gsoft"}


@pytest.mark.slow
def test_small_transfers_of_the_recipe_train_at_most_a_quarter_of_the_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(TASKS, "coarse_to_fine")
    counts = Trainings(tmp_path, tmp_path).trained
    assert counts["halves-everything"] == counts["halves-base"]
    small = {kind: count for kind, count in counts.items() if kind not in ("halves-everything", "halves-base")}
    assert all(count <= LARGEST * counts["halves-everything"] for count in small.values())
    assert small["halves-gsoft"] == small["halves-oft"] == small["halves-boft"]
    head_weight = small["halves-head"] - 50
    assert small["halves-maps_and_head"] == small["halves-gsoft"] + head_weight


@pytest.mark.slow
def test_a_transfer_takes_loss_batch_and_crops_from_the_recipe(trainings: Trainings) -> None:
    recipe = transfer_rows.recipe()
    config, _, module = composed(trainings.untrained["halves-gsoft"])
    generators = sum(2 * features * 4 for features in (16, 32, 64, 64))
    assert sum(each.numel() for each in module.parameters() if each.requires_grad) == generators + 10
    assert config.loss == {**recipe.loss, "temperature": 1}
    assert config.data.batch_size == recipe.data.batch_size
    assert f"data.crop_padding={recipe.data.crop_padding}" in overrides_of(Training("halves", "gsoft", 0.01), "")
    assert overrides_of(Training("halves", BASE), "")[:2] == [
        "experiment=cpu/cifar100_narrow",
        "data=cifar100_first_half",
    ]


@pytest.mark.parametrize("seed", [0, 2])
def test_all_trainings_of_a_task_have_one_split(seed: int) -> None:
    for training in (Training("coarse_to_fine", BASE), Training("coarse_to_fine", "oft", 0.01, seed)):
        stated = overrides_of(training, "base.ckpt")
        with initialize_config_dir(str(ROOT / "lipnet" / "conf"), version_base="1.3"):
            config = compose("train", stated)
        assert (config.seed, config.data.seed) == (training.seed, 0)


def test_steps_follow_from_the_kept_time_of_a_step(trainings: Trainings) -> None:
    training = Training("halves", "gsoft", 0.01, seed=2)
    assert trainings.steps_of(training) == 60 * 2 * 0.1 / 3
    stated = trainings.overrides_of(training)
    assert {"trainer.max_epochs=1", "trainer.limit_train_batches=4", "optimizer.lr=0.01", "seed=2"} <= set(stated)
    trainings.minutes = None
    assert trainings.length_of(training) == (3, 67), "an epoch has 87 full batches"
    trainings.seconds["halves-gsoft"] = 600 / 263
    assert trainings.length_of(training) == (3, 87), "263 steps in three epochs would need 88 batches"
    assert trainings.steps_of(bases()[0]) == pytest.approx(transfer_rows.recipe_minutes() * 40, rel=0.01)


def test_a_transfer_starts_from_the_base_and_resumes_from_its_own_checkpoint(trainings: Trainings) -> None:
    training = Training("halves", "gsoft", 0.01)
    folder = trainings.folder_of(training)
    base = f"ckpt_path={trainings.work / 'halves-base' / BEST}"
    assert [each for each in trainings.command_of(training, folder) if each.startswith("ckpt_path=")] == [base]
    (folder / LAST).parent.mkdir(parents=True)
    (folder / LAST).touch()
    paths = [each for each in trainings.command_of(training, folder) if each.startswith("ckpt_path=")]
    assert paths == [base, f"ckpt_path={folder / LAST}"]


def test_the_learning_rate_is_chosen_by_the_trials(trainings: Trainings, tmp_path: Path) -> None:
    study, row = Study(trainings), Row("halves", "gsoft", 0)
    with pytest.raises(ValueError, match="halves-gsoft-seed0 needs a learning rate: run the trials of gsoft first"):
        study.training_of(row)
    for rate, certified in zip(METHODS["gsoft"].rates, (0.3, 0.2), strict=True):
        finish(trainings, Training("halves", "gsoft", rate), certified)
    best = Training("halves", "gsoft", METHODS["gsoft"].rates[0])
    assert study.training_of(row) == best
    assert study.training_of(Row("halves", "gsoft", 2)) == Training("halves", "gsoft", best.rate, 2)
    assert study.command_of(row, tmp_path)[1:3] == ["certify.py", str(trainings.folder_of(best))]
    content = study.content_of(row, tmp_path)
    assert content["validated"] == dict(zip(METHODS["gsoft"].rates, (0.3, 0.2), strict=True))
    assert (content["summary"]["split"], content["trained_parameters"]) == ("test", 300)
    written = json.dumps(content) + trainings.file_of(best).read_text()
    assert "/home/somebody" not in written
    assert str(tmp_path) not in written, "paths of the machine are no result"


def test_the_plan_lists_what_is_not_finished(trainings: Trainings, capsys: pytest.CaptureFixture[str]) -> None:
    finish(trainings, Training("halves", "gsoft", METHODS["gsoft"].rates[0]), 0.3)
    chosen = [Row("halves", "gsoft", seed) for seed in (0, 1)]
    transfer_plan.show(Study(trainings), chosen)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    certification = transfer_plan.CERTIFICATION * 5_000 / transfer_rows.recipe().data.batch_size * 3 / 120
    assert lines[1][0] == "halves-base"
    assert lines[2] == ["halves-gsoft-rate0.01-seed0", "300", "4", "0.1"]
    assert lines[3] == ["halves-gsoft-seed0", "300", "0", f"{certification:.1f}"]
    assert lines[4] == ["halves-gsoft-seed1", "300", "4", f"{certification + 0.1:.1f}"]
    assert "hours of 2 cores, one thread each" in " ".join(lines[5])


def test_the_page_compares_with_fine_tuning_everything(tmp_path: Path) -> None:
    methods = {
        "maps_and_head": [row_of("maps_and_head", seed, 0.18 + 0.01 * seed, 200) for seed in range(3)],
        "everything": [row_of("everything", seed, 0.20, 1000) for seed in range(3)],
    }
    lines = table(methods)
    assert lines[0].startswith("| trained | parameters | share | learning rate | clean | 36/255 | 72/255 | K |")
    assert "| GSOFT maps, b = 16, and head | 200 | 20.0 % | 0.01 | 50.00 ± 0.00 | 19.00 ± 1.00 |" in lines[2]
    assert lines[2].endswith("| 3.7500 | 3 | 95 % |")
    assert verdict(methods).endswith(
        "certifies the most at 36/255: 95 % of what fine-tuning everything does. That reaches the goal of 90 %."
    )
    assert "are not run yet" in verdict({"maps_and_head": methods["maps_and_head"]})
    too_large = {**methods, "maps_and_head": [row_of("maps_and_head", 0, 0.19, 300)]}
    assert "are not run yet" in verdict(too_large)
    assert len(draw({"halves": methods}).axes[0].get_legend_handles_labels()[1]) == 2


def test_render_needs_the_files_of_rows_alone(tmp_path: Path) -> None:
    write_report(tmp_path)
    assert not list(tmp_path.iterdir())
    write(tmp_path / "trainings" / "halves-base.json", {"summary": summary(0.3, "validation")})
    for method in ("head", "everything"):
        write(tmp_path / "rows" / f"halves-{method}-seed0.json", row_of(method, 0, 0.2, 10))
    write_report(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "## From the classes 0 to 49 to the classes 50 to 99" in page
    assert "the base reaches 50.00 clean, and 30.00 certified at 36/255" in page
    assert "20 coarse classes to the 100" not in page
    assert "Not run yet: `halves-gsoft-seed0`" in page
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_rows_from_the_base_to_the_certificates(
    trainings: Trainings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "gsoft", replace(METHODS["gsoft"], rates=(0.01,)))
    study, row = Study(trainings), Row("halves", "gsoft", 0)
    assert study.run([row]), capsys.readouterr().out
    content = json.loads(study.file_of(row).read_text())
    assert (content["summary"]["split"], content["summary"]["n_samples"]) == ("test", 359)
    assert content["run"]["steps"] == 4
    training = study.training_of(row)
    trainings.file_of(training).unlink()
    (trainings.folder_of(training) / "summary.json").unlink()
    assert trainings.perform([training]), "a transfer resumes from its own checkpoint"
    assert json.loads(trainings.file_of(training).read_text())["run"]["steps"] == 4
