"""Users' errors become one message; defects keep their traceback."""

from __future__ import annotations

import pytest
import torch
from hydra.errors import ConfigCompositionException, InstantiationException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue

from lipnet.certify import CertificateViolationError, UnsoundCertificatesError
from lipnet.models import CheckpointError
from lipnet.workflows import folders
from lipnet.workflows.errors import UnconfirmedCertificatesError, clear_errors


@pytest.fixture(autouse=True)
def _no_full_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)


def wrapped(outer: Exception, cause: Exception) -> Exception:
    outer.__cause__ = cause
    return outer


def failing(error: BaseException) -> None:
    @clear_errors
    def main() -> None:
        raise error

    main()


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the batch size must be at least 1"),
        TypeError("the batch size must be at least 1"),
        CheckpointError("the batch size must be at least 1"),
        FileNotFoundError("the batch size must be at least 1"),
        FileExistsError("the batch size must be at least 1"),
        PermissionError("the batch size must be at least 1"),
        MissingConfigException("the batch size must be at least 1"),
        ConfigCompositionException("the batch size must be at least 1"),
        wrapped(InstantiationException("Error in call to target"), ValueError("the batch size must be at least 1")),
        wrapped(
            InstantiationException("Error in call to target"),
            wrapped(InstantiationException("Error in call to target"), TypeError("the batch size must be at least 1")),
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_persons_error_is_one_message_and_exit_code_1(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        failing(error)
    assert end.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: the batch size must be at least 1\n")
    assert "HYDRA_FULL_ERROR=1" in printed.err
    assert "Error in call" not in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("full", ["0", "1"])
@pytest.mark.parametrize(
    "error",
    [
        UnsoundCertificatesError("out of order"),
        CertificateViolationError(3, torch.zeros(1, 2, 2), torch.ones(1, 2, 2), 0.1, 0.2, 4, 5),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_wrong_certificate_is_exit_code_2(
    error: Exception, full: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", full)
    with pytest.raises(SystemExit) as end:
        failing(error)
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.endswith(f"unsound: {error}\n")
    assert ("Traceback" in printed.err) == (full == "1")


def test_certificates_that_are_not_confirmed_are_exit_code_2_without_another_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        failing(UnconfirmedCertificatesError("a.tsv is not confirmed"))
    assert end.value.code == 2
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "error", [ValueError("wrong"), UnsoundCertificatesError("wrong"), UnconfirmedCertificatesError("wrong")]
)
def test_a_job_of_a_multirun_does_not_end_the_others(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "is_multirun", lambda: True)
    with pytest.raises(type(error)) as raised:
        failing(error)
    assert raised.value is error


def test_a_missing_setting_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    @clear_errors
    def main() -> str:
        return OmegaConf.create({"ckpt_path": "???"}).ckpt_path

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert "ckpt_path" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("wrong"), MissingMandatoryValue("wrong")])
def test_the_traceback_is_shown_on_demand(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(type(error), match="wrong") as raised:
        failing(error)
    assert raised.value is error
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "error", [RuntimeError("defect"), AssertionError("defect"), ZeroDivisionError("defect"), KeyboardInterrupt()]
)
def test_everything_else_passes_through(error: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(type(error)) as raised:
        failing(error)
    assert raised.value is error
    assert capsys.readouterr().err == ""


def test_what_goes_well_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    @clear_errors
    def main(first: int, *, second: int) -> int:
        """Add two numbers."""
        return first + second

    assert main(2, second=3) == 5
    assert (main.__name__, main.__doc__) == ("main", "Add two numbers.")
    assert capsys.readouterr().err == ""
