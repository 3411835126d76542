"""Run folders: new ones, and the folder of a resumed run."""

from __future__ import annotations

import json
import os
import re
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from filelock import FileLock
from omegaconf import DictConfig, OmegaConf

from lipnet.models.archive import read_archive, write_archive
from lipnet.workflows import RunFolder
from lipnet.workflows.folders import (
    checkpoint_to_resume,
    newest_checkpoint,
    remove_unused,
    resumption,
    run_folder,
    sweep_folder,
)


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
    older = make_run(tmp_path / "digits" / "2026-01-31_23-59-59", "last.ckpt", "best.ckpt")
    os.utime(older / "checkpoints" / "last.ckpt", (1, 1))
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
    """Clock that advances by a minute with each reading."""

    minutes = 0

    @classmethod
    def now(cls, tz: object = None) -> datetime:
        cls.minutes += 1
        return datetime(2026, 1, 1) + timedelta(minutes=cls.minutes)


def test_a_configuration_names_the_same_folder_however_often_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Patch the function's globals: in the package, the function hides the module of the same name.
    monkeypatch.setitem(run_folder.__globals__, "datetime", Clock)
    assert run_folder(str(tmp_path), "digits", None) != run_folder(str(tmp_path), "digits", None)
    settings = {"log_dir": str(tmp_path), "run": "${run_folder:${log_dir},digits,null}", "again": "${resumption:last}"}
    config = OmegaConf.create({**settings, "other": "${run_folder:${log_dir},digits,null}"})
    assert config.run == config.run == config.other
    assert config.again == config.again


def record(run: Path, began: str) -> Path:
    (run / "run.json").write_text(json.dumps({"starts": [{"began": began, "seconds": 1.0}]}))
    return run


def test_last_goes_by_the_recorded_start(tmp_path: Path) -> None:
    """The clock was set back between the starts, so the newer run has the older folder name."""
    newest = record(make_run(tmp_path / "digits" / "2026-10-25_02-10-00", "last.ckpt"), "2026-10-25T01:10:00+00:00")
    record(make_run(tmp_path / "digits" / "2026-10-25_02-50-00", "last.ckpt"), "2026-10-25T00:50:00+00:00")
    assert checkpoint_to_resume(str(tmp_path), "digits", "last") == newest / "checkpoints" / "last.ckpt"


def test_last_sees_the_runs_of_a_sweep(tmp_path: Path) -> None:
    make_run(tmp_path / "digits" / "2026-01-01_00-00-00", "last.ckpt")
    newest = make_run(tmp_path / "digits" / "multirun_2026-01-02_00-00-00" / "3", "last.ckpt")
    record(newest, "2030-01-01T00:00:00+00:00")
    assert checkpoint_to_resume(str(tmp_path), "digits", "last") == newest / "checkpoints" / "last.ckpt"
    assert sweep_folder(str(tmp_path), "digits", "last") == str(newest.parent)
    assert sweep_folder(str(tmp_path), "digits", None) != str(newest.parent)


def test_last_refuses_to_choose_between_a_run_and_its_copy(tmp_path: Path) -> None:
    for folder in ("digits/run", "digits/run_backup", "digits/multirun_a/0", "digits/multirun_b/0"):
        record(make_run(tmp_path / folder, "last.ckpt"), "2026-10-25T01:10:00+00:00")
        if folder == "digits/run":
            (tmp_path / "digits" / "link").symlink_to(tmp_path / "digits" / "run")
            assert run_folder(str(tmp_path), "digits", "last") in map(str, (tmp_path / "digits").iterdir())
    names = r"several that began at 2026-10-25 01:10:00\+00:00: .*"
    with pytest.raises(ValueError, match=names + r"digits/run/checkpoints/last\.ckpt, .*digits/run_backup/checkpoints"):
        checkpoint_to_resume(str(tmp_path), "digits", "last")
    with pytest.raises(ValueError, match=names + "digits/multirun_a, .*digits/multirun_b: name one"):
        sweep_folder(str(tmp_path), "digits", "last")


def test_a_folder_that_cannot_be_chosen_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hydra would only warn of the exception, and train on."""
    for name in ("run", "copy"):
        record(make_run(tmp_path / "t" / name, "last.ckpt"), "2026-10-25T01:10:00+00:00")
    with pytest.raises(SystemExit):
        claim(configuration(tmp_path / "t", "last", dir=f"${{run_folder:{tmp_path},t,last}}"))
    assert "ckpt_path=last must have one newest run, got several" in capsys.readouterr().err


def test_the_newest_sweep_is_that_with_the_newest_run(tmp_path: Path) -> None:
    """A note in the older folder changes its time, but not its runs. A folder without any run counts by its time."""
    older, newer, empty = (tmp_path / "digits" / f"multirun_{name}" for name in ("a", "b", "c"))
    for sweep, years in ((older, ("2027", "2028")), (newer, ("2026", "2029"))):
        for job, year in enumerate(years):
            record(make_run(sweep / str(job), "last.ckpt"), f"{year}-01-01T00:00:00+00:00")
    (older / "notes.txt").write_text("a note")
    os.utime(newer, (0, 0))
    empty.mkdir()
    os.utime(empty, (1, 1))
    assert sweep_folder(str(tmp_path), "digits", "last") == str(newer)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "digits" / "run", "last.ckpt")
    for content in ("{", "[]", '{"starts": [{}]}'):
        (run / "run.json").write_text(content)
        with pytest.raises(ValueError, match=r"run\.json is damaged"):
            checkpoint_to_resume(str(tmp_path), "digits", "last")


def test_the_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Path(run_folder("~/logs", "digits", None)).parent == tmp_path / "logs" / "digits"
    assert checkpoint_to_resume("~/logs", "digits", "~/a.ckpt") == tmp_path / "a.ckpt"


def configuration(folder: Path, ckpt_path: str | None = None, **run: str) -> DictConfig:
    settings = {"paths": {"log_dir": str(folder.parent)}, "task_name": "t", "ckpt_path": ckpt_path}
    return OmegaConf.create({**settings, "hydra": {"run": {"dir": str(folder), **run}}})


def claim(config: DictConfig) -> RunFolder:
    callback = RunFolder()
    callback.on_run_start(config)
    return callback


def test_a_running_training_keeps_others_out_of_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = claim(configuration(tmp_path / "run"))
    with pytest.raises(SystemExit) as end:
        claim(configuration(tmp_path / "run"))
    assert end.value.code == 1
    assert "another training is running in" in capsys.readouterr().err
    first._lock.release()
    claim(configuration(tmp_path / "run"))


def test_two_starts_of_the_same_second_have_two_folders(tmp_path: Path) -> None:
    name = str(tmp_path / "t" / "2026-01-01_00-00-00")
    OmegaConf.register_new_resolver("run_folder", lambda *_: name, replace=True)
    try:
        configs = [configuration(tmp_path / "t" / "x", dir="${run_folder:a,b,null}") for _ in range(2)]
        kept = [claim(config) for config in configs]
        assert [config.hydra.run.dir for config in configs] == [name, f"{name}_2"]
        assert len(kept) == 2
    finally:
        OmegaConf.register_new_resolver("run_folder", run_folder, replace=True, use_cache=True)


def test_a_new_training_does_not_overwrite_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", "last.ckpt")
    with pytest.raises(SystemExit):
        claim(configuration(run))
    assert re.search(r"run holds a run already: resume it with ckpt_path=.*last\.ckpt", capsys.readouterr().err)
    other = make_run(tmp_path / "other", "last.ckpt")
    with pytest.raises(SystemExit):
        claim(configuration(run, str(other / "checkpoints" / "last.ckpt")))
    RunFolder.on_run_end(claim(configuration(run, str(run / "checkpoints" / "last.ckpt"))), OmegaConf.create())


def test_a_checkpoint_of_a_requeue_alone_makes_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    (run / "hpc_ckpt_1.ckpt").touch()
    with pytest.raises(SystemExit):
        claim(configuration(run))
    assert re.search(r"holds a run already: resume it with ckpt_path=.*run/hpc_ckpt_1\.ckpt", capsys.readouterr().err)


def start_multirun(folder: Path, ckpt_path: str | None = None) -> None:
    config = configuration(folder, ckpt_path)
    config.hydra.sweep = {"dir": str(folder)}
    RunFolder().on_multirun_start(config)


@pytest.mark.parametrize("file", ["0/checkpoints/best.ckpt", "0/hpc_ckpt_1.ckpt", "lr=1/seed=0/summary.json"])
def test_a_new_multirun_does_not_overwrite_runs(
    tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep" / file).parent.mkdir(parents=True)
    (tmp_path / "sweep" / file).touch()
    for ckpt_path in (None, "network.ckpt"):
        with pytest.raises(SystemExit, match=r"^1$"):
            start_multirun(tmp_path / "sweep", ckpt_path)
        message = rf"holds runs already, got .*{file}: resume them with ckpt_path=last, or set another hydra\.sweep"
        assert re.search(message, capsys.readouterr().err)
    start_multirun(tmp_path / "sweep", "last")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    start_multirun(tmp_path / "sweep")


@pytest.mark.parametrize(
    ("steps", "newest"),
    [
        ({}, None),
        ({"last": 3}, "last"),
        ({"hpc_ckpt_1": 3}, "hpc_ckpt_1"),
        ({"last": 63, "hpc_ckpt_1": 25}, "last"),
        ({"last": 21, "hpc_ckpt_1": 25}, "hpc_ckpt_1"),
        ({"last": 25, "hpc_ckpt_1": 25}, "last"),
        ({"last": 21, "hpc_ckpt_9": 25, "hpc_ckpt_10": 30}, "hpc_ckpt_10"),
    ],
    ids=str,
)
def test_the_newest_checkpoint_has_the_most_steps(
    tmp_path: Path, tiny_checkpoint: Path, steps: dict[str, int], newest: str | None
) -> None:
    run = make_run(tmp_path / "run")
    paths = {name: (run / "checkpoints" if name == "last" else run) / f"{name}.ckpt" for name in steps}
    content, _ = read_archive(tiny_checkpoint)
    for name, path in paths.items():
        write_archive(path, {**content, "global_step": steps[name]})
    assert newest_checkpoint(run, run) == (None if newest is None else paths[newest])


def test_a_requeued_job_waits_for_the_loaders_of_the_killed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", "last.ckpt")
    lock = FileLock(run / ".lock", thread_local=False)
    lock.acquire()
    release = threading.Timer(0.3, lock.release)
    release.start()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    claim(configuration(run))
    release.join()


@pytest.mark.parametrize("trained", [False, True])
def test_a_failed_start_leaves_no_empty_folder(tmp_path: Path, trained: bool) -> None:
    callback = claim(configuration(tmp_path / "run"))
    (tmp_path / "run" / ".hydra").mkdir()
    if trained:
        (tmp_path / "run" / "run.json").write_text("{}")
    callback._remove_empty()
    assert (tmp_path / "run").exists() == trained


def test_a_folder_that_was_there_before_stays(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    claim(configuration(tmp_path / "run"))._remove_empty()
    assert (tmp_path / "run").exists()


def test_an_unused_folder_is_removed_and_a_used_one_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("unused", "used", "current"):
        (tmp_path / name / ".hydra").mkdir(parents=True)
    (tmp_path / "used" / "certificates.partial").mkdir()
    monkeypatch.chdir(tmp_path / "current")
    for name in ("unused", "used", "current", "missing"):
        remove_unused(tmp_path / name)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["current", "used"]
