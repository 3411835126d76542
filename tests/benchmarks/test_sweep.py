"""The sweep trains each row once, across interruptions, and writes its table from the files of the rows."""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
import time
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from benchmarks.rows import ROOT, UNFINISHED
from benchmarks.sweep import BASE, LAST, ROWS, Row, Sweep, describe, overrides_of
from benchmarks.sweep_report import draw, page, simplest, table, verdict, write_report
from lipnet.data import DATAMODULES
from lipnet.models import build_model
from lipnet.training import last_checkpoint
from lipnet.workflows import folders
from lipnet.workflows.training import model_config

TINY = (
    "data=digits",
    "model.stages=3",
    "model.depth=3",
    "model.initial_channels=8",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "scheduler=constant",
)


def row_file(folder: Path, name: str, change: list[str], certified: float) -> None:
    """Write the file of a finished row."""
    summary = {
        "dataset": "cifar100",
        "split": "validation",
        "n_samples": 5000,
        "clean_accuracy": 0.4,
        "certified_accuracy": {"36/255": certified, "72/255": 0.1},
        "average_certified_radius": 0.25,
        "parameters": 1000,
        "dtype": "float64",
    }
    machine = {"processor": "P", "cores": 2, "threads": 1}
    run = {
        "epochs": 10,
        "planned_epochs": 10,
        "steps": 3510,
        "seconds": 600.0,
        "starts": [{"hardware": machine, "commit": "0" * 40}],
    }
    content = {"name": name, "group": "loss", "change": change, "overrides": ["data=cifar100", *change]}
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    (folder / "rows" / f"{name}.json").write_text(json.dumps({**content, "summary": summary, "run": run}))


def test_names_are_distinct_and_the_base_comes_first() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert ROWS[0] == Row("base", "base")


def test_copied_constants_equal_those_of_lipnet() -> None:
    assert (LAST.as_posix(), UNFINISHED) == (folders.LAST, last_checkpoint.UNFINISHED)


@pytest.mark.cover(0)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_is_a_training_of_a_small_network_without_the_test_images(row: Row) -> None:
    with initialize_config_dir(str(ROOT / "lipnet" / "conf"), version_base="1.3"):
        config = compose("train", overrides=overrides_of(row))
    assert config.certify.split == "validation"
    assert (config.trainer.max_epochs, config.model.initial_channels) == (10, 16)
    with torch.device("meta"):
        network = build_model(model_config(config, DATAMODULES["cifar100"].spec))
    assert 2e5 < sum(parameter.numel() for parameter in network.parameters()) < 1e7


def test_later_overrides_replace_those_of_the_base() -> None:
    overrides = overrides_of(Row("other", "loss", ("loss=logit_annealing", "seed=1")), ["trainer.max_epochs=1"])
    names = [override.partition("=")[0] for override in overrides]
    assert len(set(names)) == len(names)
    assert {"loss=logit_annealing", "seed=1", "trainer.max_epochs=1"} <= set(overrides)


@pytest.mark.slow
def test_rows_are_trained_once_and_listed_in_a_table(tmp_path: Path) -> None:
    sweep, rows = Sweep(tmp_path / "work", tmp_path / "output", TINY), ROWS[:2]
    assert sweep.perform(rows)
    files = [sweep.file_of(row) for row in rows]
    written = [file.stat().st_mtime_ns for file in files]
    for row, file in zip(rows, files, strict=True):
        content = json.loads(file.read_text())
        assert (content["name"], tuple(content["change"])) == (row.name, row.overrides)
        assert (content["summary"]["split"], content["summary"]["n_samples"]) == ("validation", 143)
        assert (content["run"]["finished"], content["run"]["steps"]) == (True, 2)
        assert str(tmp_path) not in file.read_text(), "paths of the machine are no result"
    assert Sweep(tmp_path / "work", tmp_path / "output", TINY).perform(rows)
    assert [file.stat().st_mtime_ns for file in files] == written
    write_report(tmp_path / "output", [row.name for row in ROWS], describe)
    text = (tmp_path / "output" / "README.md").read_text()
    assert "| `loss_certificate_regularization` | `loss=certificate_regularization` |" in text
    assert (tmp_path / "output" / "accuracy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_stopped_row_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    longer = [*(each for each in TINY if "max_epochs" not in each), "trainer.max_epochs=30"]
    sweep, record = Sweep(tmp_path / "work", tmp_path / "output", longer), tmp_path / "work" / "base" / "run.json"

    def stop_when_it_trains() -> None:
        while not record.is_file():
            time.sleep(0.05)
        sweep.stop()

    stopper = threading.Thread(target=stop_when_it_trains, daemon=True)
    stopper.start()
    assert not sweep.perform(ROWS[:2])
    assert "base: stopped, can be resumed" in capsys.readouterr().out
    assert not (tmp_path / "work" / ROWS[1].name / "output.log").exists()
    assert Sweep(tmp_path / "work", tmp_path / "output", longer).perform(ROWS[:1])
    run = json.loads(sweep.file_of(ROWS[0]).read_text())["run"]
    assert (run["finished"], run["epochs"], run["steps"]) == (True, 30, 60)


@pytest.mark.slow
def test_a_failed_row_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = Sweep(tmp_path / "work", tmp_path / "output", TINY)
    last = tmp_path / "work" / "base" / LAST
    last.parent.mkdir(parents=True)
    last.write_bytes(b"damaged")
    assert not sweep.perform(ROWS[:1])
    assert "base: failed with status 1, see " in capsys.readouterr().out
    assert "cannot be read as a checkpoint" in (tmp_path / "work" / "base" / "output.log").read_text()
    assert not sweep.file_of(ROWS[0]).exists()


def test_a_row_locked_by_another_process_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "work" / "base").mkdir(parents=True)
    with (tmp_path / "work" / "base" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not Sweep(tmp_path / "work", tmp_path / "output").perform(ROWS[:1])
    assert "base: locked by another process" in capsys.readouterr().out
    assert os.listdir(tmp_path / "work" / "base") == ["lock"]


def test_after_a_stop_no_row_is_started(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "work", tmp_path / "output")
    sweep.stop()
    assert not sweep.perform(ROWS[:2])
    assert not (tmp_path / "work" / "base" / "output.log").exists()


def test_the_table_compares_each_row_with_the_first(tmp_path: Path) -> None:
    row_file(tmp_path, "base", [], 0.2)
    row_file(tmp_path, "head_lln", ["head=lln"], 0.235)
    rows = [json.loads((tmp_path / "rows" / f"{name}.json").read_text()) for name in ("base", "head_lln")]
    first, second = table(rows)[2:]
    assert first == "| `base` | - | 1,000 | 40.00 | 20.00 | 10.00 | - | 0.250 | 3,510 | 10 |"
    assert second == "| `head_lln` | `head=lln` | 1,000 | 40.00 | 23.50 | 10.00 | +3.50 | 0.250 | 3,510 | 10 |"
    assert len(draw(rows).axes[0].get_yticks()) == 2


def test_the_page_lists_missing_rows_and_the_standard_error(tmp_path: Path) -> None:
    row_file(tmp_path, "base", [], 0.2)
    rows = [json.loads((tmp_path / "rows" / "base.json").read_text())]
    text = page(rows, ["soc"], describe(rows))
    assert "Not run yet: `soc`." in text
    limit = re.search(r"are ([\d.]+) points", text)
    assert limit is not None
    assert float(limit.group(1)) == pytest.approx(100 * 2 * (2 * 0.2 * 0.8 / 5000) ** 0.5, abs=0.005)


def test_only_differences_beyond_two_standard_errors_are_named(tmp_path: Path) -> None:
    figures = {"base": 0.2, "soc": 0.21, "head_lln": 0.22, "optimizer_adamw": 0.15}
    for name, certified in figures.items():
        row_file(tmp_path, name, [], certified)
    rows = [json.loads((tmp_path / "rows" / f"{name}.json").read_text()) for name in figures]
    better, worse = verdict(rows).splitlines()[-2:]
    assert better.startswith("- Better")
    assert better.endswith(": `head_lln`.")
    assert worse.startswith("- Worse")
    assert worse.endswith(": `optimizer_adamw`.")


def test_among_equally_good_rows_the_simplest_is_chosen(tmp_path: Path) -> None:
    rows = {"base": ([], 0.16), "head_lln": (["head=lln"], 0.21), "loss": (["loss=x"], 0.205)}
    rows["both"] = (["head=lln", "loss=x"], 0.215)
    for name, (change, certified) in rows.items():
        row_file(tmp_path, name, change, certified)
    read = [json.loads((tmp_path / "rows" / f"{name}.json").read_text()) for name in rows]
    assert simplest(read)["name"] == "head_lln"
    row_file(tmp_path, "both", ["head=lln", "loss=x"], 0.25)
    read[-1] = json.loads((tmp_path / "rows" / "both.json").read_text())
    assert simplest(read)["name"] == "both"


def test_the_defaults_follow_from_the_rows_that_were_run() -> None:
    rows = [json.loads(path.read_text()) for path in sorted((ROOT / "results" / "sweep" / "rows").glob("*.json"))]
    with initialize_config_dir(str(ROOT / "lipnet" / "conf"), version_base="1.3"):
        config = compose("train", return_hydra_config=True)
    choices = config.hydra.runtime.choices
    chosen = dict(each.split("=", 1) for each in (*BASE, *simplest(rows)["change"]))
    # Settings absent from the base keep their defaults.
    compared = {each.partition("=")[0] for row in rows for each in row["change"]} & set(choices) & set(chosen)
    assert compared
    assert {key: choices[key] for key in compared} == {key: chosen[key] for key in compared}


def test_nothing_is_written_without_rows(tmp_path: Path) -> None:
    write_report(tmp_path, ["base"], describe)
    assert not list(tmp_path.iterdir())


def test_a_selection_begins_with_its_first_row_and_names_no_other(tmp_path: Path) -> None:
    row_file(tmp_path, "soc", ["conv=soc"], 0.2)
    row_file(tmp_path, "aol", ["conv=aol"], 0.3)
    write_report(tmp_path, ["base", "soc", "aol"], describe)
    assert "Not run yet: `base`." in (tmp_path / "README.md").read_text()
    write_report(tmp_path, ["base", "soc", "aol"], lambda rows: describe(rows)._replace(selected=True))
    text = (tmp_path / "README.md").read_text()
    assert "Not run yet" not in text
    assert "- Better than the first row by more than two standard errors: `aol`." in text
