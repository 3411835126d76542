"""The table that a multirun ends with."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf

from lipnet.certify import UnsoundCertificatesError
from lipnet.certify.files import read_summary, sealed, summary_bytes
from lipnet.workflows import SweepTable
from lipnet.workflows.errors import UnconfirmedCertificatesError
from lipnet.workflows.multirun import distinct_names

CONFIG = OmegaConf.create({})
PLUGINS = "hydra._internal.core_plugins"
HYDRAS_OWN = {
    "sweeper": {"_target_": f"{PLUGINS}.basic_sweeper.BasicSweeper"},
    "launcher": {"_target_": f"{PLUGINS}.basic_launcher.BasicLauncher"},
}


def finish(folder: Path, overrides: list[str], accuracy: float | None) -> JobReturn:
    """A run that has ended; without an accuracy it has not certified anything."""
    folder.mkdir()
    if accuracy is not None:
        summary: dict[str, Any] = {
            "parameters": 18106,
            "clean_accuracy": accuracy,
            "certified_accuracy": {"36/255": accuracy / 2},
            "average_certified_radius": 0.25,
        }
        (folder / "summary.json").write_bytes(summary_bytes(sealed(summary)))
    settings = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(folder)}, "mode": RunMode.MULTIRUN}})
    return JobReturn(overrides=overrides, cfg=CONFIG, hydra_cfg=settings, working_dir=str(folder))


def test_each_certified_run_has_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = SweepTable()
    runs = {"optimizer.lr=0.1": 0.5, "optimizer.lr=0.2": None, "optimizer.lr=0.4": 0.75}
    for number, (override, accuracy) in enumerate(runs.items()):
        job = finish(tmp_path / str(number), ["experiment=quickstart", override], accuracy)
        table.on_job_end(config=CONFIG, job_return=job)
    table.on_multirun_end(config=CONFIG)
    lines = capsys.readouterr().out.splitlines()
    (first,) = (line for line in lines if "lr=0.1" in line)
    (last,) = (line for line in lines if "lr=0.4" in line)
    assert "50.00" in first
    assert "25.00" in first
    assert "75.00" in last
    assert "37.50" in last
    assert not any("lr=0.2" in line or "quickstart" in line for line in lines)


@pytest.mark.parametrize("name", ["out[seed]", "q[/b]", ":smile:"])
def test_a_name_with_markup_is_printed_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    table = SweepTable()
    good, bad = (finish(tmp_path / str(number), [f"{name}{number}"], 0.5) for number in range(2))
    bad.status, bad.return_value = JobStatus.FAILED, ValueError(name)
    bad.hydra_cfg.hydra.sweeper = {"_target_": "another.Sweeper"}
    for job in (good, bad):
        table.on_job_end(config=CONFIG, job_return=job)
    with pytest.raises(SystemExit):
        table.on_multirun_end(config=CONFIG)
    printed = capsys.readouterr()
    assert f"{name}0" in printed.out
    assert f"failed: {name}1: ValueError: {name}\n" in printed.err


def test_a_closed_output_does_not_fail_a_finished_multirun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = SweepTable()
    table.on_job_end(config=CONFIG, job_return=finish(tmp_path / "0", ["seed=0"], 0.5))
    output = io.StringIO()
    output.close()
    monkeypatch.setattr(sys, "stdout", output)
    table.on_multirun_end(config=CONFIG)


def test_a_multirun_without_certificates_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = SweepTable()
    table.on_job_end(config=CONFIG, job_return=finish(tmp_path / "0", ["seed=0"], None))
    table.on_job_end(config=CONFIG, job_return=JobReturn(overrides=["seed=1"]))
    table.on_multirun_end(config=CONFIG)
    assert capsys.readouterr().out == ""


def test_a_single_job_keeps_its_error(tmp_path: Path) -> None:
    """Otherwise a training that ends with an error that nobody expected would have exit status 0."""
    job = finish(tmp_path / "0", ["seed=0"], None)
    OmegaConf.update(job.hydra_cfg, "hydra", {"mode": RunMode.RUN, **HYDRAS_OWN})  # type: ignore[arg-type]
    job.status, job.return_value = JobStatus.FAILED, ZeroDivisionError("of the training")
    SweepTable().on_job_end(config=CONFIG, job_return=job)
    with pytest.raises(ZeroDivisionError):
        _ = job.return_value


def test_runs_with_other_radii_and_damaged_files_do_not_hide_a_failed_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = SweepTable()
    jobs = [finish(tmp_path / str(number), [f"seed={number}"], 0.5) for number in range(4)]
    other = read_summary(tmp_path / "1" / "summary.json")
    del other["sha256"]
    other["certified_accuracy"] = {"1/2": 0.125}
    (tmp_path / "1" / "summary.json").write_bytes(summary_bytes(sealed(other)))
    (tmp_path / "2" / "summary.json").write_bytes(b"{}")
    jobs[3].status, jobs[3].return_value = JobStatus.FAILED, ValueError("of the job")
    OmegaConf.update(jobs[3].hydra_cfg, "hydra.sweeper", {"_target_": "another.Sweeper"})  # type: ignore[arg-type]
    for job in jobs:
        table.on_job_end(config=CONFIG, job_return=job)
    with pytest.raises(SystemExit):
        table.on_multirun_end(config=CONFIG)
    printed = capsys.readouterr()
    assert "1/2" in printed.out
    assert "12.50" in printed.out
    assert "failed: seed=2: CertificateFileError" in printed.err
    assert "failed: seed=3: ValueError: of the job" in printed.err
    assert "2 of 4 runs failed" in printed.err


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        ([ValueError("wrong"), UnconfirmedCertificatesError("a.tsv is not confirmed")], 2),
        ([UnsoundCertificatesError("out of order"), ValueError("wrong")], 2),
        ([ValueError("wrong"), ZeroDivisionError("defect")], 1),
    ],
)
def test_a_wrong_certificate_decides_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], errors: list[Exception], status: int
) -> None:
    table = SweepTable(advice=None)
    for number, error in enumerate(errors):
        job = finish(tmp_path / str(number), [f"verify={number}"], None)
        OmegaConf.update(job.hydra_cfg, "hydra", HYDRAS_OWN)  # type: ignore[arg-type]
        job.status, job.return_value = JobStatus.FAILED, error
        table.on_job_end(config=CONFIG, job_return=job)
    with pytest.raises(SystemExit) as end:
        table.on_multirun_end(config=CONFIG)
    assert end.value.code == status
    lines = [f"failed: verify={number}: {type(each).__name__}: {each}" for number, each in enumerate(errors)]
    assert capsys.readouterr().err.splitlines()[-3:] == [*lines, "2 of 2 runs failed"]


@pytest.mark.parametrize(
    ("error", "full", "shown"),
    [
        (ZeroDivisionError("defect"), "0", True),
        (ValueError("wrong"), "0", False),
        (ValueError("wrong"), "1", True),
        (UnconfirmedCertificatesError("a.tsv is not confirmed"), "1", False),
    ],
)
def test_a_defect_keeps_its_traceback(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    full: str,
    shown: bool,
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", full)
    job = finish(tmp_path / "0", ["seed=0"], None)
    OmegaConf.update(job.hydra_cfg, "hydra", HYDRAS_OWN)  # type: ignore[arg-type]
    job.status, job.return_value = JobStatus.FAILED, error
    SweepTable().on_job_end(config=CONFIG, job_return=job)
    assert (f"{type(error).__name__}: {error}" in capsys.readouterr().err) == shown


def test_a_job_of_another_launcher_keeps_its_error(tmp_path: Path) -> None:
    """Its process does not see the end of the multirun, which would report the error."""
    job = finish(tmp_path / "0", ["seed=0"], None)
    settings = {**HYDRAS_OWN, "launcher": {"_target_": "another.Launcher"}}
    OmegaConf.update(job.hydra_cfg, "hydra", settings)  # type: ignore[arg-type]
    job.status, job.return_value = JobStatus.FAILED, ValueError("of the job")
    SweepTable().on_job_end(config=CONFIG, job_return=job)
    with pytest.raises(ValueError, match="of the job"):
        _ = job.return_value


def test_names_are_what_sets_runs_apart() -> None:
    runs = [("experiment=a", "seed=0", "conv.groups=[4,4]"), ("experiment=a", "seed=1", "conv.groups=[4,4]")]
    assert distinct_names(runs) == ["seed=0", "seed=1"]


def test_the_run_without_overrides_of_its_own_has_its_number() -> None:
    assert distinct_names([("seed=0",), ("seed=0", "activation=maxmin")]) == ["run 0", "activation=maxmin"]
    assert distinct_names([("seed=0",)]) == ["run 0"]


def test_runs_that_short_names_would_confuse_keep_their_full_ones() -> None:
    runs = [("experiment=x", "data.seed=1"), ("experiment=x", "sampler.seed=1")]
    assert distinct_names(runs) == ["data.seed=1", "sampler.seed=1"]


def test_a_failed_run_is_reported_and_the_others_keep_their_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = SweepTable()
    good = finish(tmp_path / "0", ["optimizer.lr=0.1"], 0.5)
    bad = finish(tmp_path / "1", ["optimizer.lr=9"], None)
    bad.status, bad.return_value = JobStatus.FAILED, ValueError("the loss became nan")
    OmegaConf.update(bad.hydra_cfg, "hydra", HYDRAS_OWN)  # type: ignore[arg-type]
    for job in (good, bad):
        table.on_job_end(config=CONFIG, job_return=job)
    assert bad.return_value is None, "Hydra would raise here, and skip what follows"
    with pytest.raises(SystemExit) as end:
        table.on_multirun_end(config=CONFIG)
    assert end.value.code == 1
    printed = capsys.readouterr()
    assert "50.00" in printed.out
    assert "failed: lr=9: ValueError: the loss became nan" in printed.err
    assert "1 of 2 runs failed" in printed.err
