"""Pretrained networks: the same certificates as the checkpoint, shipped networks, and errors."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import certify, read_certificates, read_summary
from lipnet.models import (
    PRETRAINED,
    CheckpointError,
    build_model,
    load_checkpoint,
    load_pretrained,
    save_checkpoint,
    save_pretrained,
)
from lipnet.models.card import model_card
from lipnet.workflows import certify_checkpoint, export_checkpoint, verify_certificates
from lipnet.workflows.certification import checkpoint_path
from tests.killed import killed_at

ROOT = Path(__file__).parents[2]
FILES = {"README.md", "config.json", "model.safetensors"}


@pytest.fixture
def saved(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A folder of `save_pretrained`."""
    save_pretrained(load_checkpoint(tiny_checkpoint), tmp_path / "tiny")
    return tmp_path / "tiny"


def test_certificates_are_those_of_the_checkpoint_bit_for_bit(
    saved: Path, tiny_checkpoint: Path, digits: tuple[Tensor, Tensor]
) -> None:
    images, labels = digits[0][:50], digits[1][:50]
    ours, theirs = (
        certify(model.double(), images, labels)
        for model in (load_pretrained(saved), load_checkpoint(tiny_checkpoint).model)
    )
    assert torch.equal(ours.radius, theirs.radius)
    assert torch.equal(ours.prediction, theirs.prediction)
    assert {path.name for path in saved.iterdir()} == FILES


def test_a_folder_is_certified_and_verified(tmp_path: Path, saved: Path, tiny_checkpoint: Path) -> None:
    for name, path in (("ours", saved), ("theirs", tiny_checkpoint)):
        certify_checkpoint(path, tmp_path / name, n_samples=30)
    ours, theirs = (read_certificates(tmp_path / name / "certificates.tsv") for name in ("ours", "theirs"))
    assert ours.rows == theirs.rows
    differing = {name for name in ours.facts if ours.facts[name] != theirs.facts[name]}
    assert differing == {"checkpoint_sha256"}
    assert verify_certificates(tmp_path / "ours" / "certificates.tsv").confirmed


@pytest.mark.slow
def test_a_folder_is_exported(tmp_path: Path, saved: Path) -> None:
    assert export_checkpoint(saved, tmp_path / "model.pt2")["dataset"] == "digits"


def shipped_data(name: str) -> Path | None:
    """The folder of a shipped network's images, or None if a package brings them; skip without the images."""
    config = json.loads((PRETRAINED[name] / "config.json").read_text())
    if config["dataset"]["name"] == "digits":
        return None
    if "LIPNET_CIFAR100" not in os.environ:
        pytest.skip("LIPNET_CIFAR100 does not name the folder that contains cifar-100-python")
    return Path(os.environ["LIPNET_CIFAR100"])


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_shipped_network_has_the_certificates_of_its_result(name: str, tmp_path: Path) -> None:
    certify_checkpoint(PRETRAINED[name], tmp_path / "out", data_dir=shipped_data(name), n_samples=50)
    found, stated = (read_certificates(each / "certificates.tsv") for each in (tmp_path / "out", PRETRAINED[name]))
    for fact in ("checkpoint_sha256", "weights_sha256", "dataset", "split", "dtype", "parameters"):
        assert found.facts[fact] == stated.facts[fact]
    # Another version may evaluate other polynomials, equally close to the exponential: logits, and with them radii,
    # then differ by the layers' eval_tolerance (1e-4).
    assert found.facts["lipschitz_bound"] == pytest.approx(stated.facts["lipschitz_bound"], rel=1e-3)
    assert len(found.rows) == 50
    for ours, theirs in zip(found.rows.values(), stated.rows.values(), strict=False):
        assert (ours.idx, ours.label) == (theirs.idx, theirs.label)
        assert float(ours.radius) == pytest.approx(float(theirs.radius), abs=1e-3)
        assert ours.prediction == theirs.prediction or float(ours.radius) < 1e-3


@pytest.mark.parametrize("name", PRETRAINED)
def test_the_result_of_a_shipped_network_has_the_figures_of_its_certificates(name: str) -> None:
    rows = read_certificates(PRETRAINED[name] / "certificates.tsv").rows.values()
    summary = read_summary(PRETRAINED[name] / "summary.json")
    assert len(rows) == summary["n_samples"]
    assert sum(row.correct for row in rows) / len(rows) == summary["clean_accuracy"]
    for radius, share in summary["certified_accuracy"].items():
        assert sum(row.correct and float(row.radius) > float(Fraction(radius)) for row in rows) / len(rows) == share
    assert f"| {100 * summary['clean_accuracy']:.2f} |" in (PRETRAINED[name] / "README.md").read_text()


def test_torch_hub_finds_the_shipped_networks() -> None:
    model = torch.hub.load(str(ROOT), "pretrained", "digits-quickstart", source="local")
    assert isinstance(model, nn.Module)
    assert not model.training


def test_the_card_states_the_certified_figures(tmp_path: Path, tiny_checkpoint: Path) -> None:
    summary = certify_checkpoint(tiny_checkpoint, tmp_path / "out", n_samples=40)
    save_pretrained(load_checkpoint(tiny_checkpoint), tmp_path / "net", name="owner/net", summary=summary)
    card = (tmp_path / "net" / "README.md").read_text()
    assert 'load_pretrained("owner/net")' in card
    shares = [summary["clean_accuracy"], *summary["certified_accuracy"].values()]
    assert f"| {' | '.join(f'{100 * share:.2f}' for share in shares)} |" in card


def test_a_summary_of_other_weights_is_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    summary = certify_checkpoint(tiny_checkpoint, tmp_path / "out", n_samples=5)
    checkpoint = load_checkpoint(tiny_checkpoint)
    with torch.no_grad():
        next(checkpoint.model.parameters()).add_(1e-6)
    with pytest.raises(ValueError, match="summary must be of this checkpoint: weights_sha256 must be"):
        save_pretrained(checkpoint, tmp_path / "net", summary=summary)
    assert not (tmp_path / "net").exists()


def test_a_summary_of_another_network_with_the_same_weights_is_refused(
    tmp_path: Path,
    tiny_checkpoint: Path,
    tiny_model: nn.Module,
    tiny_config: dict[str, Any],
    digits_dataset: dict[str, Any],
) -> None:
    config = tiny_config | {"std": 2 * tiny_config["std"]}
    other = build_model(config)
    other.load_state_dict(load_checkpoint(tiny_checkpoint).model.state_dict())
    save_checkpoint(tmp_path / "other.ckpt", other, config, digits_dataset)
    summary = certify_checkpoint(tmp_path / "other.ckpt", tmp_path / "out", n_samples=5)
    with pytest.raises(ValueError, match=r"summary must be of this checkpoint: checkpoint_sha256 must be"):
        save_pretrained(load_checkpoint(tiny_checkpoint), tmp_path / "net", summary=summary)
    with pytest.raises(TypeError, match="a summary is of a Checkpoint"):
        save_pretrained(tiny_model, tmp_path / "net", tiny_config, digits_dataset, summary=summary)
    assert not (tmp_path / "net").exists()


def test_text_in_a_card_is_no_markup() -> None:
    description = {"model": {"_target_": "a.B"}, "dataset": {"name": "<img src=x>"}, "version": "0"}
    card = model_card("[x](y)\n# `big`", description, 1, None)
    assert "\\<img" in card
    assert "# \\[x\\](y) \\# big" in card
    assert 'load_pretrained("[x](y) # big")' in card


def test_a_card_names_the_classes_of_a_folder_and_asks_for_the_images() -> None:
    dataset = {"name": "folder", "classes": ["big cat", "<b>", *map(str, range(20))]}
    card = model_card("net", {"model": {"_target_": "a.B"}, "dataset": dataset, "version": "0"}, 1, None)
    assert "trained on a folder of images with 22 classes (big cat, \\<b\\>, 0, 1, 2, 3, 4, 5, 6, 7, ...) with" in card
    assert "lipnet-certify pretrained=net paths.data_dir=DATA\n" in card
    digits = {"model": {"_target_": "a.B"}, "dataset": {"name": "digits"}, "version": "0"}
    assert "lipnet-certify pretrained=net\n" in model_card("net", digits, 1, None)


@pytest.mark.parametrize(
    ("covered", "bound", "statement"),
    [
        (True, 1.26e-9, "float64, and the radii cover rounding (E = 1.3e-09)."),
        (True, None, "float64; no bound on the rounding is known, so all radii are 0."),
        (False, None, "float64, computed as if arithmetic were exact."),
    ],
)
def test_the_card_says_whether_the_radii_cover_rounding(covered: bool, bound: float | None, statement: str) -> None:
    description = {"model": {"_target_": "a.B"}, "dataset": {"name": "digits"}, "version": "0"}
    figures = {"clean_accuracy": 0.5, "certified_accuracy": {}, "average_certified_radius": None, "n_samples": 4}
    bounds = {"lipschitz_bound": 2.0, "rounding_bound": bound, "rounding": {"covered": covered}, "dtype": "float64"}
    assert f"K = 2; {statement}\n" in model_card("net", description, 1, {**figures, **bounds})


def test_a_plain_network_needs_its_configuration(
    tmp_path: Path, tiny_model: nn.Module, tiny_config: dict[str, Any], digits_dataset: dict[str, Any]
) -> None:
    save_pretrained(tiny_model, tmp_path / "net", tiny_config, digits_dataset)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(load_pretrained(tmp_path / "net")(x), tiny_model(x))
    with pytest.raises(TypeError, match="needs a Checkpoint, or a network with its model_config and dataset"):
        save_pretrained(tiny_model, tmp_path / "other")
    with pytest.raises(CheckpointError, match="could not be read again"):
        save_pretrained(tiny_model, tmp_path / "other", tiny_config | {"depth": 6}, digits_dataset)
    assert not (tmp_path / "other").exists()


def test_a_checkpoint_brings_its_configuration(tmp_path: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(TypeError, match="model_config and dataset must be None for a Checkpoint"):
        save_pretrained(load_checkpoint(tiny_checkpoint), tmp_path / "net", {"_target_": "lipnet.models.LipConvNet"})


def test_a_folder_is_replaced_only_on_request(saved: Path, tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    with pytest.raises(FileExistsError, match=r"already holds model.safetensors, config.json, README.md"):
        save_pretrained(checkpoint, saved)
    before = (saved / "model.safetensors").read_bytes()
    save_pretrained(checkpoint, saved, overwrite=True)
    assert (saved / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors"])
def test_a_folder_in_place_of_a_file_is_refused(saved: Path, tiny_checkpoint: Path, name: str) -> None:
    (saved / name).unlink()
    (saved / name).mkdir()
    before = {path.name: path.read_bytes() for path in saved.iterdir() if path.is_file()}
    with pytest.raises(IsADirectoryError, match=f"{name} must be a file or not exist, got a folder"):
        save_pretrained(load_checkpoint(tiny_checkpoint), saved, overwrite=True)
    assert {path.name: path.read_bytes() for path in saved.iterdir() if path.is_file()} == before
    assert {path.name for path in saved.iterdir()} == FILES


@pytest.mark.slow
def test_a_network_that_is_killed_at_any_step_of_saving_is_the_old_or_the_new_one(
    saved: Path, tmp_path: Path, tiny_config: dict[str, Any], digits_dataset: dict[str, Any]
) -> None:
    other = build_model(tiny_config | {"std": 2 * tiny_config["std"]})
    settings = (tiny_config | {"std": 2 * tiny_config["std"]}, digits_dataset)
    save_pretrained(other, tmp_path / "new", *settings, name="tiny")
    old, new = ({name: (folder / name).read_bytes() for name in FILES} for folder in (saved, tmp_path / "new"))
    found = []
    for step in range(100):
        folder = tmp_path / str(step)
        shutil.copytree(saved, folder)
        killed = killed_at(step, partial(save_pretrained, other, folder, *settings, name="tiny", overwrite=True))
        load_pretrained(folder)
        found.append({name: (folder / name).read_bytes() for name in FILES})
        if not killed:
            break
    moment = found.index(new)
    assert found == [old] * moment + [new] * (len(found) - moment)
    assert 5 <= moment <= len(found) - 5


@pytest.mark.parametrize("reader", [load_pretrained, checkpoint_path])
def test_a_replacement_that_a_kill_interrupted_is_completed(
    saved: Path, tmp_path: Path, tiny_checkpoint: Path, reader: Callable[[Path], object]
) -> None:
    """The new configuration is beside the old weights."""
    saved.joinpath("model.safetensors").unlink()
    save_pretrained(load_checkpoint(tiny_checkpoint), tmp_path / "new")
    (saved / "model.safetensors.replacement").mkdir()
    (tmp_path / "new" / "model.safetensors").rename(saved / "model.safetensors.replacement" / "model.safetensors")
    reader(saved)
    assert {path.name for path in saved.iterdir()} == FILES


def test_an_edited_summary_is_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    summary = certify_checkpoint(tiny_checkpoint, tmp_path / "out", n_samples=5)
    checkpoint, edited = load_checkpoint(tiny_checkpoint), {**summary, "clean_accuracy": 1.0}
    with pytest.raises(ValueError, match=rf"its sha256 must be \w+, got {summary['sha256']}; read summary\.json again"):
        save_pretrained(checkpoint, tmp_path / "net", summary=edited)
    assert not (tmp_path / "net").exists()
    save_pretrained(checkpoint, tmp_path / "net", summary=read_summary(tmp_path / "out" / "summary.json"))
    unsealed = {name: value for name, value in summary.items() if name != "sha256"}
    with pytest.raises(ValueError, match=r"its sha256 must be \w+, got None"):
        save_pretrained(checkpoint, tmp_path / "unsealed", summary=unsealed)


def test_an_edited_configuration_is_refused(saved: Path, tmp_path: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["model"]["depth"] = 6
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config.json differs from the configuration in model.safetensors"):
        load_pretrained(saved)
    with pytest.raises(CheckpointError, match=r"config.json differs from the configuration"):
        certify_checkpoint(saved, tmp_path / "out")
    (saved / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json is damaged"):
        load_pretrained(saved)
    (saved / "config.json").unlink()
    assert isinstance(load_pretrained(saved), nn.Module)


def test_a_missing_network_is_named_with_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no pretrained network 'digitz'.*digits-quickstart"):
        load_pretrained("digitz")
    with pytest.raises(FileNotFoundError, match=r"not a folder with model\.safetensors"):
        load_pretrained(tmp_path)
    with pytest.raises(ValueError, match="revision is only for repositories on the hub, got 'main'"):
        load_pretrained("digits-quickstart", revision="main")


def test_nothing_in_a_folder_is_unpickled(tmp_path: Path, tiny_model: nn.Module, tiny_config: dict[str, Any]) -> None:
    folder = tmp_path / "net"
    save_checkpoint(tmp_path / "net.ckpt", tiny_model, tiny_config, {"name": "digits"})
    folder.mkdir()
    (tmp_path / "net.ckpt").rename(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_pretrained(folder)
