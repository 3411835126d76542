"""Certification of a checkpoint, and its errors."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from torch import nn

from lipnet.certify import certificates, certify, read_certificates
from lipnet.certify.files import certificate_bytes
from lipnet.commands.arguments import with_checkpoint_key
from lipnet.data import CIFAR10DataModule, DigitsDataModule
from lipnet.models import CheckpointError, save_checkpoint
from lipnet.models.archive import write_archive
from lipnet.workflows import certify_checkpoint, verify_certificates

NAMES = {"certificates.tsv", "summary.json", "curve.png"}


def test_a_checkpoint_is_certified_on_what_it_was_trained_on(
    tmp_path: Path, tiny_checkpoint: Path, tiny_model: nn.Module, digits: tuple[torch.Tensor, torch.Tensor]
) -> None:
    summary = certify_checkpoint(tiny_checkpoint, tmp_path / "out", device="cpu")
    assert {path.name for path in (tmp_path / "out").iterdir()} == NAMES
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    certificates = certify(tiny_model.double(), *digits)
    assert summary["n_samples"] == 359
    assert summary["clean_accuracy"] == certificates.correct.double().mean().item()
    assert (summary["dataset"], summary["split"], summary["dtype"]) == ("digits", "test", "float64")
    assert summary["checkpoint"] == str(tiny_checkpoint)
    assert summary["checkpoint_sha256"] == hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()
    indices = [int(line.split("\t")[0]) for line in lines_of(tmp_path / "out")]
    assert indices == DigitsDataModule().evaluation_indices("test").tolist()


def lines_of(folder: Path) -> list[str]:
    return ["\t".join(map(str, row)) for row in read_certificates(folder / "certificates.tsv").rows.values()]


def test_the_same_figures_twice(tmp_path: Path, tiny_checkpoint: Path) -> None:
    runs = [certify_checkpoint(tiny_checkpoint, tmp_path / name, n_samples=20, device="cpu") for name in "ab"]
    first, second = ((tmp_path / name / "certificates.tsv").read_bytes() for name in "ab")
    assert first == second
    own = ("wall_seconds", "sha256")
    first, second = ({key: value for key, value in run.items() if key not in own} for run in runs)
    assert first == second


def test_the_first_samples_of_the_validation_split_in_float32(tmp_path: Path, tiny_checkpoint: Path) -> None:
    settings = {"split": "validation", "n_samples": 50, "batch_size": 15, "dtype": "float32", "radii": ["0.1"]}
    summary = certify_checkpoint(str(tiny_checkpoint), str(tmp_path / "out"), device="cpu", **settings)
    assert (summary["n_samples"], summary["split"], summary["dtype"]) == (50, "validation", "float32")
    assert list(summary["certified_accuracy"]) == ["0.1"]
    indices = [int(line.split("\t")[0]) for line in lines_of(tmp_path / "out")]
    assert indices == DigitsDataModule().evaluation_indices("validation")[:50].tolist()


@pytest.mark.parametrize(("count", "certified", "measured"), [(50, [15, 15, 15, 5], 15), (1, [1], 1)])
def test_the_model_sees_the_samples_that_were_asked_for_and_no_others(
    tmp_path: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    certified: list[int],
    measured: int,
) -> None:
    sizes, run_model = [], certificates.logits_of

    def remember(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return run_model(model, images)

    monkeypatch.setattr(certificates, "logits_of", remember)
    summary = certify_checkpoint(tiny_checkpoint, tmp_path / "out", n_samples=count, batch_size=15, device="cpu")
    # Then the measurement beside them, on the first batch: certified, deployed, and in float32.
    assert sizes == [*certified, *3 * [measured]]
    assert summary["rounding"]["measured"]["images"] == measured


def test_radii_may_be_numbers(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """The command line passes numbers: radii=[0.01,1]."""
    summary = certify_checkpoint(tiny_checkpoint, tmp_path / "out", radii=[0.01, 1], n_samples=50, device="cpu")
    assert list(summary["certified_accuracy"]) == ["0.01", "1"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary


def test_the_split_is_the_checkpoints(tmp_path: Path, tiny_model: nn.Module, tiny_config: dict[str, Any]) -> None:
    """Another seed holds out other validation images."""
    path, dataset = tmp_path / "other.ckpt", {"name": "digits", "seed": 5, "validation_fraction": 0.2}
    save_checkpoint(path, tiny_model, tiny_config, dataset)
    certify_checkpoint(path, tmp_path / "out", split="validation", device="cpu")
    expected = DigitsDataModule(seed=5, validation_fraction=0.2).evaluation_indices("validation")
    assert [int(line.split("\t")[0]) for line in lines_of(tmp_path / "out")] == expected.tolist()


def test_data_may_be_given(tmp_path: Path, tiny_checkpoint: Path) -> None:
    data = DigitsDataModule(seed=0)
    certify_checkpoint(tiny_checkpoint, tmp_path / "a", data=data, n_samples=5, device="cpu")
    certify_checkpoint(tiny_checkpoint, tmp_path / "b", n_samples=5, device="cpu")
    assert lines_of(tmp_path / "a") == lines_of(tmp_path / "b")


def test_a_folder_for_data_is_ignored_where_none_are_needed(tmp_path: Path, tiny_checkpoint: Path) -> None:
    summary = certify_checkpoint(tiny_checkpoint, tmp_path / "out", data_dir="nowhere", n_samples=5, device="cpu")
    assert summary["n_samples"] == 5


def test_the_table_and_the_folder_are_printed(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = certify_checkpoint(tiny_checkpoint, tmp_path / "out", device="cpu")
    printed = capsys.readouterr().out
    assert f"{100 * summary['clean_accuracy']:.2f}" in printed
    assert str(tmp_path / "out") in printed
    assert "36/255" in printed


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_samples": 0}, r"n_samples must be from 1 to 359 for the test split, got 0"),
        ({"n_samples": -3}, r"n_samples must be from 1 to 359 for the test split, got -3"),
        ({"n_samples": 360}, r"n_samples must be from 1 to 359 for the test split, got 360"),
        ({"n_samples": 144, "split": "validation"}, r"from 1 to 143 for the validation split, got 144"),
        ({"batch_size": 0}, r"batch_size must be at least 1, got 0"),
        ({"batch_size": 2.5}, r"batch_size must be an integer, got 2.5"),
        ({"n_samples": "5"}, r"n_samples must be an integer or null, got '5'"),
        ({"dtype": "float16"}, r"dtype must be one of float32, float64, got 'float16'"),
        ({"split": "train"}, r"split must be one of .*'validation', 'test'.* got 'train'"),
        ({"radii": ["far"]}, r"number such as '36/255' or 0\.5, got 'far'"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(
    tmp_path: Path, tiny_checkpoint: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        certify_checkpoint(tiny_checkpoint, tmp_path / "out", device="cpu", **settings)
    assert not (tmp_path / "out").exists()


def test_data_of_another_name_are_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    data = CIFAR10DataModule(data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"trained on digits, but the data are cifar10: certify it on digits"):
        certify_checkpoint(tiny_checkpoint, tmp_path / "out", data=data, device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("settings", [{"seed": 1}, {"validation_fraction": 0.2}], ids=str)
def test_a_validation_split_that_holds_training_images_is_refused(
    tmp_path: Path, tiny_checkpoint: Path, settings: dict[str, Any]
) -> None:
    data = DigitsDataModule(**settings)
    name, value = next(iter(settings.items()))
    before = {"seed": 0, "validation_fraction": 0.1}[name]
    with pytest.raises(ValueError, match=f"'{name}': {before}}}.*'{name}': {value}}}: images that it was trained on"):
        certify_checkpoint(tiny_checkpoint, tmp_path / "out", data=data, split="validation", device="cpu")
    summary = certify_checkpoint(tiny_checkpoint, tmp_path / "out", data=data, n_samples=5, device="cpu")
    assert summary["split"] == "test", "the test images do not depend on the split"


def test_a_dataset_that_nobody_knows_is_refused(
    tmp_path: Path, tiny_model: nn.Module, tiny_config: dict[str, Any]
) -> None:
    path = tmp_path / "other.ckpt"
    save_checkpoint(path, tiny_model, tiny_config, {"name": "letters"})
    with pytest.raises(ValueError, match=r"dataset 'letters' is none of cifar10, cifar100, .*, digits"):
        certify_checkpoint(path, tmp_path / "out", device="cpu")


@pytest.mark.parametrize("settings", [{"download": True}, {"data_dir": "/elsewhere"}, {"policy": "x"}], ids=str)
def test_a_checkpoint_chooses_nothing_of_the_data_but_the_split(
    tmp_path: Path, tiny_model: nn.Module, tiny_config: dict[str, Any], settings: dict[str, Any]
) -> None:
    path = tmp_path / "other.ckpt"
    save_checkpoint(path, tiny_model, tiny_config, {"name": "cifar10", "seed": 0, **settings})
    with pytest.raises(ValueError, match=rf"may state seed, validation_fraction .* got \['{next(iter(settings))}'\]"):
        certify_checkpoint(path, tmp_path / "out", device="cpu")


@pytest.mark.parametrize("target", ["os.system", "torch.hub.load", "builtins.eval"])
def test_a_configuration_with_another_target_is_refused_before_anything_runs(
    tmp_path: Path, tiny_checkpoint: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both certification and verification refuse it."""
    certify_checkpoint(tiny_checkpoint, tmp_path / "out", n_samples=5, device="cpu")
    content = torch.load(tiny_checkpoint, weights_only=True)
    content["lipnet"]["model"]["activation"] = {"_target_": target}
    path = tmp_path / "forged.ckpt"
    write_archive(path, content)
    called: list[Any] = []
    monkeypatch.setattr(target, called.append)
    with pytest.raises(ValueError, match=f"got _target_ '{target}'"):
        certify_checkpoint(path, tmp_path / "forged", device="cpu")
    certificates = tmp_path / "out" / "certificates.tsv"
    forged = read_certificates(certificates)
    facts = {**forged.facts, "checkpoint_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    certificates.write_bytes(certificate_bytes(facts, list(forged.rows.values())))
    with pytest.raises(ValueError, match=f"got _target_ '{target}'"):
        verify_certificates(certificates, path, device="cpu")
    assert called == []


def test_missing_data_are_named(tmp_path: Path, tiny_model: nn.Module, tiny_config: dict[str, Any]) -> None:
    path = tmp_path / "other.ckpt"
    save_checkpoint(path, tiny_model, tiny_config, {"name": "cifar10", "seed": 0, "validation_fraction": 0.1})
    with pytest.raises(FileNotFoundError, match=r"cifar-10-batches-py.*data\.data_dir"):
        certify_checkpoint(path, tmp_path / "out", data_dir=str(tmp_path / "nowhere"), device="cpu")


def test_a_checkpoint_that_is_missing_or_damaged_is_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint .*missing\.ckpt"):
        certify_checkpoint(tmp_path / "missing.ckpt", tmp_path / "out")
    tiny_checkpoint.write_bytes(tiny_checkpoint.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"tiny\.ckpt \(500 bytes\) cannot be read"):
        certify_checkpoint(tiny_checkpoint, tmp_path / "out")


def test_certificates_are_replaced_only_if_asked(tmp_path: Path, tiny_checkpoint: Path) -> None:
    certify_checkpoint(tiny_checkpoint, tmp_path / "out", n_samples=5, device="cpu")
    with pytest.raises(FileExistsError, match=r"already holds certificates\.tsv.*overwrite=true"):
        certify_checkpoint(tiny_checkpoint, tmp_path / "out", n_samples=6, device="cpu")
    assert len(lines_of(tmp_path / "out")) == 5
    certify_checkpoint(tiny_checkpoint, tmp_path / "out", n_samples=6, overwrite=True, device="cpu")
    assert len(lines_of(tmp_path / "out")) == 6


def test_a_device_that_does_not_exist_is_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"device .*'nowhere'"):
        certify_checkpoint(tiny_checkpoint, tmp_path / "out", device="nowhere")


def test_the_folder_of_a_run_stands_for_its_best_checkpoint(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths may begin with ~ and contain brackets, which are not markup."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run[1]" / "checkpoints").mkdir(parents=True)
    shutil.move(tiny_checkpoint, tmp_path / "run[1]" / "checkpoints" / "best.ckpt")
    summary = certify_checkpoint("~/run[1]", "~/out[/b]", n_samples=5, device="cpu")
    assert summary["checkpoint"] == str(tmp_path / "run[1]" / "checkpoints" / "best.ckpt")
    assert verify_certificates("~/out[/b]/certificates.tsv", "~/run[1]", device="cpu").confirmed
    with pytest.raises(FileNotFoundError, match=r"is a folder without checkpoints/best\.ckpt"):
        certify_checkpoint(tmp_path, tmp_path / "other", device="cpu")


@pytest.mark.parametrize("name", ["run", "a=b", "it's, {odd} [1]", "back\\slash"])
def test_the_first_argument_may_be_a_path(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    given = with_checkpoint_key([str(tmp_path / name), "n_samples=5"])
    assert given[1:] == ["n_samples=5"]
    (override,) = OverridesParser.create().parse_overrides(given[:1])
    assert (override.key_or_group, override.value()) == ("ckpt_path", str(tmp_path / name))


@pytest.mark.parametrize("arguments", [[], ["ckpt_path=x"], ["--help"], ["-m", "x=1"]])
def test_other_arguments_are_left_alone(arguments: list[str]) -> None:
    assert with_checkpoint_key(arguments) == arguments
