"""The arguments of lipnet-export and lipnet-certify."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from omegaconf import OmegaConf

from lipnet.commands import certify, export

pytestmark = pytest.mark.usefixtures("clean_hydra")


def test_the_first_argument_may_be_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lipnet-export", str(tmp_path), "output=model.onnx", "--cfg", "job"])
    export.main()
    assert OmegaConf.create(capsys.readouterr().out).ckpt_path == str(tmp_path)


@pytest.mark.parametrize(("arguments", "missing"), [([], "ckpt_path"), (["ckpt_path=some.ckpt"], "output")])
def test_what_is_missing_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    missing: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lipnet-export", *arguments])
    with pytest.raises(SystemExit):
        export.main()
    assert f"error: {missing} must name a " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (export, ["ckpt_path=some.ckpt", "output=model.pt2", "overwrite=no"]),
        (certify, ["pretrained=digits-quickstart", "overwrite=no"]),
        (certify, ["pretrained=digits-quickstart", "resume='false'"]),
        (certify, ["pretrained=digits-quickstart", "layers=1"]),
        (certify, ["compare=a,b", "overwrite=off"]),
    ],
)
def test_words_that_only_yaml_takes_for_false_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: ModuleType,
    arguments: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lipnet", *arguments])
    with pytest.raises(SystemExit):
        command.main()
    name, _, value = arguments[-1].partition("=")
    stated = value if value.isdigit() else repr(value.strip("'"))
    assert f"error: {name} must be true or false, got {stated}" in capsys.readouterr().err


@pytest.mark.parametrize("command", [certify, export])
def test_a_checkpoint_that_is_named_twice_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: ModuleType
) -> None:
    monkeypatch.setattr(sys, "argv", ["lipnet", str(tmp_path), "ckpt_path=other.ckpt"])
    with pytest.raises(SystemExit, match=f"must be named once, got {tmp_path} and ckpt_path="):
        command.main()
