"""The arguments of lipnet-export."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lipnet.commands import export

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
