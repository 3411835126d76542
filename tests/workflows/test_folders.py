"""A run's folder: a new one, or that of the run which is resumed."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lipnet.workflows import run_folder
from lipnet.workflows.folders import checkpoint_to_resume, resumption


def make_run(folder: Path, *names: str) -> Path:
    """The folder of a run with these checkpoints."""
    (folder / "checkpoints").mkdir(parents=True)
    for name in names:
        (folder / "checkpoints" / name).touch()
    return folder


def test_a_new_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    before = datetime.now().replace(microsecond=0)
    folder = Path(run_folder(str(tmp_path), "digits", None))
    assert folder.parent == tmp_path / "digits"
    assert before <= datetime.strptime(folder.name, "%Y-%m-%d_%H-%M-%S") <= datetime.now()
    assert not folder.exists()


def test_last_is_the_newest_run_that_has_a_last_checkpoint(tmp_path: Path) -> None:
    make_run(tmp_path / "digits" / "2026-01-31_23-59-59", "last.ckpt", "best.ckpt")
    newest = make_run(tmp_path / "digits" / "2026-02-01_00-00-00", "last.ckpt")
    make_run(tmp_path / "digits" / "2026-02-02_00-00-00", "best.ckpt")
    make_run(tmp_path / "another" / "2026-03-01_00-00-00", "last.ckpt")
    assert checkpoint_to_resume(str(tmp_path), "digits", "last") == newest / "checkpoints" / "last.ckpt"
    assert run_folder(str(tmp_path), "digits", "last") == str(newest)


def test_last_without_a_run_is_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint_to_resume(str(tmp_path), "digits", "last") is None
    assert Path(run_folder(str(tmp_path), "digits", "last")).parent == tmp_path / "digits"


def test_a_checkpoint_of_a_run_goes_on_in_the_runs_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path / "elsewhere", "best.ckpt")
    path = str(run / "checkpoints" / "best.ckpt")
    assert checkpoint_to_resume("unused", "digits", path) == Path(path)
    assert run_folder("unused", "digits", path) == str(run)


def test_a_checkpoint_outside_of_a_run_goes_on_in_a_new_folder(tmp_path: Path) -> None:
    folder = Path(run_folder(str(tmp_path), "digits", "/downloads/some.ckpt"))
    assert folder.parent == tmp_path / "digits"


def test_a_missing_checkpoint_is_still_the_one_that_was_meant(tmp_path: Path) -> None:
    missing = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert checkpoint_to_resume(str(tmp_path), "digits", str(missing)) == missing


def test_each_resumption_has_a_subfolder() -> None:
    assert resumption(None) == ""
    name = resumption("last")
    assert name.startswith("resumed_")
    datetime.strptime(name, "resumed_%Y-%m-%d_%H-%M-%S")


@pytest.mark.parametrize(("restarts", "resumed"), [("0", False), ("1", True), ("12", True)])
def test_a_requeued_job_is_a_resumption(monkeypatch: pytest.MonkeyPatch, restarts: str, resumed: bool) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    assert resumption(None).startswith("resumed_") == resumed


class Clock(datetime):
    """Goes on by a minute whenever it is looked at."""

    minutes = 0

    @classmethod
    def now(cls, tz: object = None) -> datetime:
        cls.minutes += 1
        return datetime(2026, 1, 1) + timedelta(minutes=cls.minutes)


def test_a_configuration_names_the_same_folder_however_often_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By its globals: the package's function hides its module, which has the same name.
    monkeypatch.setitem(run_folder.__globals__, "datetime", Clock)
    assert run_folder(str(tmp_path), "digits", None) != run_folder(str(tmp_path), "digits", None)
    settings = {"log_dir": str(tmp_path), "run": "${run_folder:${log_dir},digits,null}", "again": "${resumption:last}"}
    config = OmegaConf.create({**settings, "other": "${run_folder:${log_dir},digits,null}"})
    assert config.run == config.run == config.other
    assert config.again == config.again
