"""The wheel is complete, and the commands compose their configurations from any folder."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from omegaconf import OmegaConf

from lipnet.commands import certify, export, train
from lipnet.models import PRETRAINED

ROOT = Path(__file__).parents[2]
COMMANDS = {"lipnet-train": train, "lipnet-certify": certify, "lipnet-export": export}


def test_the_wheel_holds_the_package_its_configurations_and_the_commands(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
        lines = archive.read(entry_points).decode().splitlines()

    package = ROOT / "lipnet"
    sources = [path for path in package.rglob("*") if path.suffix in {".css", ".html", ".js", ".py", ".typed", ".yaml"}]
    assert len(list((package / "conf").rglob("*.yaml"))) > 50
    missing = {path.relative_to(ROOT).as_posix() for path in sources} - names
    assert not missing
    weights = [f"lipnet/weights/{name}" for name in PRETRAINED]
    assert {f"{folder}/{file}" for folder in weights for file in ("model.safetensors", "config.json")} <= names
    foreign = {name for name in names if not name.startswith("lipnet")}
    assert not foreign
    assert [line for line in lines if line.startswith("lipnet-")] == [
        "lipnet-certify = lipnet.commands.certify:main",
        "lipnet-export = lipnet.commands.export:main",
        "lipnet-train = lipnet.commands.train:main",
    ]


def test_each_command_is_the_function_that_its_script_calls() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts.keys() == COMMANDS.keys()
    for name, module in COMMANDS.items():
        assert scripts[name] == f"{module.__name__}:main"
        script = name.removeprefix("lipnet-")
        assert f"from lipnet.commands.{script} import main" in (ROOT / f"{script}.py").read_text()
        assert callable(import_module(module.__name__).main)


@pytest.mark.usefixtures("clean_hydra")
def test_a_command_takes_configurations_of_the_user_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "mine" / "experiment" / "short.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\ndefaults: [quickstart]\ntask_name: short\ntrainer:\n  max_epochs: 1\n")
    monkeypatch.chdir(tmp_path)
    arguments = ["--config-dir", "mine", "experiment=short", "--cfg", "job"]
    monkeypatch.setattr(sys, "argv", ["lipnet-train", *arguments])
    train.main()
    config = OmegaConf.create(capsys.readouterr().out)
    assert (config.task_name, config.trainer.max_epochs) == ("short", 1)
    assert config.data._target_ == "lipnet.data.DigitsDataModule"


@pytest.mark.usefixtures("clean_hydra")
@pytest.mark.parametrize("command", [train, certify])
def test_a_file_of_the_user_that_a_packaged_one_hides_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: ModuleType
) -> None:
    own = tmp_path / "mine" / "loss" / "cross_entropy.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("_target_: torch.nn.CrossEntropyLoss\nlabel_smoothing: 0.25\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lipnet", "--config-dir", "mine"])
    with pytest.raises(SystemExit):
        command.main()
    message = f"error: {own} has no effect, because lipnet has a loss/cross_entropy.yaml, too: rename it"
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("clean_hydra")
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_finds_its_configuration(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, "ckpt_path=some.ckpt", "--cfg", "job"])
    COMMANDS[name].main()
    assert OmegaConf.create(capsys.readouterr().out).ckpt_path == "some.ckpt"
