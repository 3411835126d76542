"""Starting from a certified network: the configuration, the weights, the folder, and a run of train.py."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lipnet.data import CIFAR100DataModule, DigitsDataModule
from lipnet.models import CheckpointError, build_model, load_checkpoint, save_checkpoint
from lipnet.models.archive import write_archive
from lipnet.workflows.folders import resumption, run_folder
from lipnet.workflows.training import make_data, make_module, resume_path
from lipnet.workflows.transfer import starts_from, transferred_config

ROOT = Path(__file__).parents[2]
GSOFT = {"structure": "GSOFT", "block_size": 4}


def configuration(ckpt_path: Path | str | None, **model: Any) -> DictConfig:
    return OmegaConf.create(
        {
            "data": {"_target_": "lipnet.data.DigitsDataModule"},
            "model": {"adapter": GSOFT, "frozen": True, "frozen_head": True, **model},
            "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
            "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-3},
            "scheduler": None,
            "trainer": {"accelerator": "cpu"},
            "radii": ["36/255"],
            "task_name": "transfer/digits",
            "ckpt_path": None if ckpt_path is None else str(ckpt_path),
            "paths": {"log_dir": "nowhere"},
            "transfer": True,
        }
    )


@pytest.fixture
def adapted_checkpoint(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A checkpoint of a transfer from the tiny network."""
    config = configuration(tiny_checkpoint)
    module = make_module(config, make_data(config))
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    save_checkpoint(path, module.model, module.description["model"], module.description["dataset"])
    return path


def test_the_network_is_that_of_the_checkpoint_with_its_weights(tiny_checkpoint: Path, tiny_model: nn.Module) -> None:
    config = configuration(tiny_checkpoint)
    torch.manual_seed(1)  # not the seed of the tiny network
    module = make_module(config, make_data(config))
    weights = tiny_model.state_dict()
    assert torch.equal(module.model.get_parameter("stage1.0.layer.spatial.weight"), weights["stage1.0.spatial.weight"])
    assert torch.equal(module.model.get_parameter("head.layer.weight"), weights["head.weight"])
    assert not torch.equal(module.model.get_parameter("head.layer.bias"), weights["head.bias"])
    trained = [name for name, parameter in module.model.named_parameters() if parameter.requires_grad]
    assert all(".generators" in name or name == "head.layer.bias" for name in trained)
    assert resume_path(config, module) is None


def test_maps_and_head_are_trained_together(tiny_checkpoint: Path) -> None:
    config = configuration(tiny_checkpoint, frozen_head=False)
    parameters = make_module(config, make_data(config)).model.named_parameters()
    trained = {name for name, parameter in parameters if parameter.requires_grad and ".generators" not in name}
    assert trained == {"head.layer.weight", "head.layer.bias"}


def test_the_checkpoint_of_a_transfer_describes_itself_and_is_resumed(adapted_checkpoint: Path) -> None:
    model = load_checkpoint(adapted_checkpoint).model
    assert model.lipschitz_bound() == pytest.approx(1 / 0.3759, rel=1e-5)
    config = configuration(adapted_checkpoint)
    assert resume_path(config, make_module(config, make_data(config))) == adapted_checkpoint
    other = configuration(adapted_checkpoint, adapter={"structure": "OFT", "block_size": 4})
    with pytest.raises(ValueError, match=r"cannot be resumed: its model differs .*'GSOFT'.*'OFT'"):
        resume_path(other, make_module(other, make_data(other)))


@pytest.mark.parametrize("frozen_head", [True, False])
@pytest.mark.parametrize("classes", [4, 10])
def test_a_resumed_transfer_trains_what_it_trained_before(
    tmp_path: Path, tiny_config: dict[str, Any], digits_dataset: dict[str, Any], classes: int, frozen_head: bool
) -> None:
    """The head's weight has one row per class: the base's does not fit if the number of classes differs."""
    head = {"_target_": "lipnet.layers.NormalizedLinear", "_partial_": True}
    network = {**tiny_config, "num_classes": classes, "head": head}
    config = configuration(tmp_path / "base.ckpt", frozen_head=frozen_head)
    save_checkpoint(config.ckpt_path, build_model(network), network, digits_dataset)
    first = make_module(config, make_data(config))
    assert first.description is not None
    config.ckpt_path = str(tmp_path / "last.ckpt")
    save_checkpoint(config.ckpt_path, first.model, first.description["model"], first.description["dataset"])
    resumed = make_module(config, make_data(config))
    assert resume_path(config, resumed) == tmp_path / "last.ckpt"
    assert resumed.model.get_parameter("head.layer.weight").requires_grad == (classes != 10 or not frozen_head)
    for (name, one), (_, other) in zip(first.named_parameters(), resumed.named_parameters(), strict=True):
        assert one.requires_grad == other.requires_grad, name


def test_a_transfer_that_does_not_state_the_classes_of_its_base_is_resumed(adapted_checkpoint: Path) -> None:
    """Checkpoints of earlier versions do not state them."""
    content = torch.load(adapted_checkpoint, weights_only=True)
    assert content["lipnet"]["model"]["head"].pop("base_out_features") == 10
    write_archive(adapted_checkpoint, content)
    config = configuration(adapted_checkpoint)
    assert resume_path(config, make_module(config, make_data(config))) == adapted_checkpoint


def test_a_base_of_another_class_is_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    content = torch.load(tiny_checkpoint, weights_only=True)
    content["lipnet"]["model"]["_target_"] = "lipnet.models.LiResNet"
    write_archive(tmp_path / "base.ckpt", content)
    config = configuration(tmp_path / "base.ckpt")
    with pytest.raises(ValueError, match=r"a lipnet\.models\.LipConvNet, got lipnet\.models\.LiResNet in "):
        make_module(config, make_data(config))


def test_a_base_is_started_from_in_a_new_folder(
    tmp_path: Path, tiny_checkpoint: Path, adapted_checkpoint: Path
) -> None:
    run = tmp_path / "base" / "checkpoints"
    run.mkdir(parents=True)
    base = run / "best.ckpt"
    base.write_bytes(tiny_checkpoint.read_bytes())
    assert Path(run_folder(str(tmp_path), "transfer/t", str(base), True)).parent == tmp_path / "transfer" / "t"
    assert resumption(str(base), True) == ""
    assert run_folder(str(tmp_path), "digits", str(base)) == str(tmp_path / "base")
    assert run_folder(str(tmp_path), "transfer/t", str(adapted_checkpoint), True) == str(tmp_path / "run")
    assert resumption(str(adapted_checkpoint), True).startswith("resumed_")


def test_what_is_no_base(tmp_path: Path, tiny_checkpoint: Path, adapted_checkpoint: Path) -> None:
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(b"nothing")
    assert starts_from(tiny_checkpoint, transfer=True)
    for path in (None, tmp_path / "missing.ckpt", damaged, adapted_checkpoint):
        assert not starts_from(path, transfer=True)
    assert not starts_from(tiny_checkpoint, transfer=False)


def test_a_transfer_needs_a_network_for_such_images(tmp_path: Path, tiny_checkpoint: Path) -> None:
    spec = DigitsDataModule.spec
    with pytest.raises(ValueError, match="a transfer starts from a trained network: ckpt_path="):
        transferred_config(configuration(None), None, spec)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        transferred_config(configuration(None), tmp_path / "missing.ckpt", spec)
    with pytest.raises(ValueError, match=r"for images of \{'in_channels': 1, 'image_size': 8\}, the data are of .*32"):
        transferred_config(configuration(None), tiny_checkpoint, CIFAR100DataModule.spec)
    with pytest.raises(ValueError, match=r"needs model=transferred, got .*'depth': 5"):
        transferred_config(configuration(None, depth=5), tiny_checkpoint, spec)
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        make_module(configuration(damaged), DigitsDataModule())


def test_an_adapter_that_keeps_no_certificate_is_refused(tiny_checkpoint: Path) -> None:
    config = configuration(tiny_checkpoint, adapter={"structure": "LoRA", "rank": 2})
    with pytest.raises(ValueError, match=r"'LoRA'.* may change the norms of features; a certified network takes"):
        make_module(config, make_data(config))


@pytest.mark.slow
def test_from_the_command_line(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Train one epoch on the digits; resume the run for another epoch, and certify again."""
    common = [
        "experiment=transfer/halves",
        "data=digits",
        "trainer=cpu",
        "adapter.block_size=4",
        "trainer.enable_progress_bar=false",
        "callbacks.progress_bar=null",
        "callbacks.model_summary=null",
        "scheduler=constant",
        "logger=[csv]",
        f"paths.log_dir={tmp_path / 'logs'}",
    ]

    def train(*overrides: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "train.py"), *common, *overrides]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    first = train(f"ckpt_path={tiny_checkpoint}", "trainer.max_epochs=1")
    assert first.returncode == 0, first.stderr
    (run,) = (tmp_path / "logs" / "transfer" / "halves").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["n_samples"] == 359
    assert summary["lipschitz_bound"] == pytest.approx(1 / 0.3759, rel=1e-5)
    second = train("ckpt_path=last", "trainer.max_epochs=2")
    assert second.returncode == 0, second.stderr
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    assert [path.name for path in (run / "csv").glob("*.csv")] == ["metrics.csv"]
    with (run / "csv" / "metrics.csv").open(newline="") as file:
        assert {row["epoch"] for row in csv.DictReader(file) if row["val/loss"]} == {"0", "1"}
    refused = train(f"ckpt_path={tiny_checkpoint}", "adapter.structure=LoRA")
    assert refused.returncode == 1
    assert "error: " in refused.stderr


@pytest.mark.parametrize("target", ["os.system", "torch.hub.load", "builtins.eval"])
@pytest.mark.parametrize("where", ["checkpoint", "override"])
def test_no_other_target_runs_where_a_checkpoint_supplies_the_configuration(
    tmp_path: Path, tiny_checkpoint: Path, target: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the file nor the overrides may name another target."""
    called: list[Any] = []
    overrides: dict[str, Any] = {}
    if where == "checkpoint":
        content = torch.load(tiny_checkpoint, weights_only=True)
        content["lipnet"]["model"]["activation"] = {"_target_": target}
        write_archive(tiny_checkpoint, content)
    else:
        overrides["adapter"] = {"_target_": target}
    config = configuration(tiny_checkpoint, **overrides)
    monkeypatch.setattr(target, called.append)
    with pytest.raises(ValueError, match=f"got _target_ '{target}'"):
        make_module(config, make_data(config))
    assert called == []


@pytest.mark.parametrize("settings", [{"seed": 1}, {"validation_fraction": 0.2}])
def test_a_base_that_may_have_seen_the_validation_images_is_refused(
    tiny_checkpoint: Path, settings: dict[str, Any]
) -> None:
    config = configuration(tiny_checkpoint)
    config.data.update(settings)
    with pytest.raises(ValueError, match=r"trained on .*'seed': 0.*and may have seen validation or test images of"):
        make_module(config, make_data(config))
