"""A run becomes a result whole or not at all, without the paths of its machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.tools.results.conftest import Make
from tools.results.folders import add_result, read_result

BASE = {"transfer": True, "ckpt_path": "/home/somebody/logs/base/checkpoints/best.ckpt"}
TAUGHT = {"distillation": {"teacher": "/home/somebody/logs/teacher", "weight": 0.5}}


def test_a_result_holds_what_its_figures_rest_on(tmp_path: Path, make_run: Make) -> None:
    result = add_result(make_run(), "table3/gs_soc_4_seed0", tmp_path / "results")
    folder = tmp_path / "results" / "table3" / "gs_soc_4_seed0"
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "curve.png", "run.json", "summary.json"]
    assert result == read_result(folder, "table3/gs_soc_4_seed0")
    assert result.name == "table3/gs_soc_4_seed0"
    assert result.run["starts"][0]["commit"] == "0" * 40
    assert result.summary["clean_accuracy"] == 0.4401
    assert (folder / "curve.png").read_bytes() == b"picture"


@pytest.mark.parametrize("config", [{}, BASE, TAUGHT], ids=["training", "transfer", "taught"])
def test_the_configuration_is_resolved_and_knows_no_machine(
    tmp_path: Path, make_run: Make, config: dict[str, Any]
) -> None:
    add_result(make_run(config=config), "one", tmp_path / "results")
    text = (tmp_path / "results" / "one" / "config.yaml").read_text()
    assert "${" not in text
    files = (tmp_path / "results" / "one").glob("*.*")
    assert not any(b"somebody" in file.read_bytes() for file in files)
    stored = OmegaConf.create(text)
    assert stored.model.conv.groups == [4, None]
    assert (stored.data.data_dir, stored.data.seed) == ("data", 0)


@pytest.mark.parametrize(
    "missing", ["run.json", "summary.json", "curve.png", ".hydra/config.yaml", "checkpoints/best.ckpt"]
)
def test_a_run_that_lacks_a_file_is_refused(tmp_path: Path, make_run: Make, missing: str) -> None:
    run = make_run()
    (run / missing).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"cannot become a result, it lacks {missing}: .*certify\.py ckpt_path="
    ):
        add_result(run, "one", tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", ["", "Upper", "../out", "/abs", "a//b", "a/", "a b", ".hidden", "a/.b"])
def test_a_name_that_is_no_folder_below_the_results_is_refused(tmp_path: Path, make_run: Make, name: str) -> None:
    with pytest.raises(ValueError, match="the name of a result must consist of lower-case letters"):
        add_result(make_run(), name, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_result_is_never_replaced(tmp_path: Path, make_run: Make) -> None:
    add_result(make_run(), "one", tmp_path / "results")
    with pytest.raises(FileExistsError, match="one exists already"):
        add_result(make_run("other", summary={"clean_accuracy": 0.9}), "one", tmp_path / "results")
    assert read_result(tmp_path / "results" / "one").summary["clean_accuracy"] == 0.4401


def test_figures_of_another_checkpoint_are_refused(tmp_path: Path, make_run: Make) -> None:
    run = make_run()
    (run / "checkpoints" / "best.ckpt").write_bytes(b"later weights")
    with pytest.raises(ValueError, match=r"is about another checkpoint than checkpoints/best\.ckpt is now"):
        add_result(run, "one", tmp_path / "results")


def test_figures_of_validation_images_are_refused_and_leave_nothing(tmp_path: Path, make_run: Make) -> None:
    with pytest.raises(ValueError, match="must be about the test images, got the validation images"):
        add_result(make_run(summary={"split": "validation"}), "one", tmp_path / "results")
    assert not list((tmp_path / "results").iterdir())


def test_a_run_of_unknown_length_is_refused(tmp_path: Path, make_run: Make) -> None:
    run = make_run(record={"starts": [{"first_step": 352}]})
    with pytest.raises(ValueError, match="continues a run in another folder: its total training time is unknown"):
        add_result(run, "one", tmp_path / "results")
