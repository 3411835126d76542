"""Certify, verify, resume and attack on one's own images and on torchvision's sets, from the checkpoint alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lipnet.certify import PGD, Certificates
from lipnet.certify.evidence import Evidence
from lipnet.data import DATAMODULES, FolderDataModule, ImageDataModule, MNISTDataModule
from lipnet.models import build_model, load_checkpoint, save_checkpoint
from lipnet.workflows import certification, certify_checkpoint
from lipnet.workflows.attacking import CertificateAttack
from lipnet.workflows.verification import verify_certificates
from tests.fake_images import CLASSES, COUNTS, picture, write_class, write_mnist

ATTACK = CertificateAttack(PGD(steps=3, restarts=1), n_samples=4)


def two_trees(root: Path) -> ImageDataModule:
    for part, count in (("train", 20), ("test", 3)):
        for seed, name in enumerate(CLASSES):
            write_class(root / part / name, count, 10 * count + seed)
    return FolderDataModule(data_dir=root, image_size=8)


def one_tree(root: Path) -> ImageDataModule:
    for seed, name in enumerate(CLASSES):
        write_class(root / name, 20, seed)
    return FolderDataModule(data_dir=root, image_size=8, in_channels=1, loader="memory")


def mnist(root: Path) -> ImageDataModule:
    write_mnist(root)
    return DATAMODULES["mnist"](data_dir=root, validation_fraction=0.25)


DATA: dict[str, Callable[[Path], ImageDataModule]] = {"two trees": two_trees, "one tree": one_tree, "mnist": mnist}


@pytest.fixture(autouse=True)
def counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of images of the stand-in, in place of the official ones."""
    monkeypatch.setattr(MNISTDataModule, "counts", COUNTS)


def config_for(data: ImageDataModule) -> dict[str, Any]:
    spec = data.spec
    return {
        "_target_": "lipnet.models.LipConvNet",
        "depth": 2,
        "stages": 2,
        "initial_channels": 4,
        **{name: getattr(spec, name) for name in ("num_classes", "in_channels", "image_size", "std")},
        "mean": list(spec.mean),
    }


def checkpoint_of(data: ImageDataModule, path: Path, *left_out: str) -> Path:
    """Write a checkpoint; the description of its data leaves out some entries."""
    config = config_for(data)
    description = {key: value for key, value in data.description().items() if key not in left_out}
    torch.manual_seed(0)
    save_checkpoint(path, build_model(config), config, description)
    return path


@pytest.mark.cover(0)
@pytest.mark.parametrize("name", DATA)
def test_certificates_are_written_verified_resumed_and_attacked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    data = DATA[name](root)
    checkpoint = checkpoint_of(data, tmp_path / "model.ckpt")
    settings: dict[str, Any] = {"data_dir": str(root), "device": "cpu", "batch_size": 4}
    summary = certify_checkpoint(checkpoint, tmp_path / "whole", attack=ATTACK, **settings)
    assert summary["dataset"] == data.dataset_name
    assert summary.get("classes") == list("0123456789" if name == "mnist" else CLASSES)
    assert "violation" not in summary["attack"]
    whole = tmp_path / "whole" / "certificates.tsv"
    assert verify_certificates(whole, checkpoint, data_dir=str(root), device="cpu").confirmed

    certified = Evidence.certify

    def interrupted(self: Evidence, images: torch.Tensor, labels: torch.Tensor) -> Certificates:
        monkeypatch.setattr(Evidence, "certify", stop)
        return certified(self, images, labels)

    def stop(*arguments: Any) -> Certificates:
        raise KeyboardInterrupt

    monkeypatch.setattr(Evidence, "certify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        certify_checkpoint(checkpoint, tmp_path / "resumed", **settings)
    monkeypatch.setattr(Evidence, "certify", certified)
    certify_checkpoint(checkpoint, tmp_path / "resumed", resume=True, **settings)
    assert (tmp_path / "resumed" / "certificates.tsv").read_bytes() == whole.read_bytes()


def test_the_checkpoint_keeps_classes_sizes_mean_and_std(tmp_path: Path) -> None:
    data = two_trees(tmp_path / "data")
    checkpoint = load_checkpoint(checkpoint_of(data, tmp_path / "model.ckpt"))
    assert checkpoint.dataset["classes"] == list(CLASSES)
    assert checkpoint.dataset["image_size"] == 8
    assert checkpoint.model_config["mean"] == list(data.spec.mean)
    assert checkpoint.model_config["std"] == data.spec.std


def test_images_that_the_training_may_have_seen_are_not_certified(tmp_path: Path) -> None:
    root = tmp_path / "data"
    checkpoint = checkpoint_of(one_tree(root), tmp_path / "model.ckpt")
    write_class(root / "ant" / "more", 5, 9)
    with pytest.raises(ValueError, match=r"trained with a test split of {'files_sha256'.*it was trained on would be"):
        certify_checkpoint(checkpoint, tmp_path / "out", data_dir=str(root), device="cpu")


def numbered_anew(root: Path) -> Path:
    """Write a tree of bitmaps, all of one size, and return it; `number_anew` exchanges an image of each class."""
    for seed, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for number in range(20):
            picture(100 * seed + number).save(root / name / f"{number:03}.bmp")
    return root


def number_anew(root: Path) -> None:
    """Delete the first image of each class, number the others from 0 on, and add a new one."""
    for seed, name in enumerate(CLASSES):
        for number in range(1, 20):
            (root / name / f"{number:03}.bmp").replace(root / name / f"{number - 1:03}.bmp")
        picture(1000 + seed).save(root / name / "019.bmp")


@pytest.mark.parametrize("split", ["test", "validation"])
def test_images_with_the_names_and_sizes_of_others_are_not_certified(split: str, tmp_path: Path) -> None:
    root = numbered_anew(tmp_path / "data")
    before = FolderDataModule(data_dir=root, image_size=8)
    checkpoint = checkpoint_of(before, tmp_path / "model.ckpt")
    settings: dict[str, Any] = {"data_dir": str(root), "device": "cpu", "split": split}
    assert certify_checkpoint(checkpoint, tmp_path / "out", n_samples=1, **settings)["n_samples"] == 1
    number_anew(root)
    after = FolderDataModule(data_dir=root, image_size=8)
    assert after.files_sha256 == before.files_sha256
    with pytest.raises(
        ValueError, match=rf"a {split} split of {{'contents_sha256'.*take the files and settings of its"
    ):
        certify_checkpoint(checkpoint, tmp_path / "again", **settings)


def test_a_checkpoint_of_an_earlier_version_is_compared_by_names_with_a_warning(tmp_path: Path) -> None:
    root = tmp_path / "data"
    checkpoint = checkpoint_of(one_tree(root), tmp_path / "model.ckpt", "contents_sha256")
    settings: dict[str, Any] = {"data_dir": str(root), "device": "cpu", "n_samples": 1}
    with pytest.warns(
        UserWarning, match="earlier version, which stated the names of its files, but not their contents"
    ):
        certify_checkpoint(checkpoint, tmp_path / "out", **settings)
    picture(0).save(root / "ant" / "new.png")
    with (
        pytest.warns(UserWarning, match="earlier version"),
        pytest.raises(ValueError, match=r"a test split of {'files_sha256': '\w+'}, but the data have"),
    ):
        certify_checkpoint(checkpoint, tmp_path / "again", **settings)


def test_the_training_images_of_a_folder_with_test_images_are_no_test_images(tmp_path: Path) -> None:
    root = tmp_path / "data"
    settings: dict[str, Any] = {"output_dir": tmp_path / "out", "device": "cpu"}
    checkpoint = checkpoint_of(two_trees(root), tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"{'test_folder': True}, but the data have {'test_folder': False}: images"):
        certify_checkpoint(checkpoint, data_dir=str(root / "train"), **settings)
    checkpoint = checkpoint_of(one_tree(tmp_path / "one" / "test"), tmp_path / "one.ckpt")
    one_tree(tmp_path / "one" / "train")
    with pytest.raises(ValueError, match=r"'test_folder': False}, but the data have {.*'test_folder': True}: images"):
        certify_checkpoint(checkpoint, data_dir=str(tmp_path / "one"), **settings)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_new_training_images_beside_a_folder_of_test_images_only_change_the_validation(
    split: str, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    checkpoint = checkpoint_of(two_trees(root), tmp_path / "model.ckpt")
    write_class(root / "train" / "ant" / "more", 5, 9)
    settings: dict[str, Any] = {"data_dir": str(root), "device": "cpu", "split": split}
    if split == "test":
        assert certify_checkpoint(checkpoint, tmp_path / "out", **settings)["n_samples"] == 9
    else:
        with pytest.raises(ValueError, match=r"with a validation split of {'files_sha256'"):
            certify_checkpoint(checkpoint, tmp_path / "out", **settings)


def test_other_classes_or_sizes_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "data"
    checkpoint = checkpoint_of(two_trees(root), tmp_path / "model.ckpt")
    other = FolderDataModule(data_dir=root, image_size=16)
    with pytest.raises(ValueError, match=r"{'image_size': 8}, but the data have {'image_size': 16}"):
        certify_checkpoint(checkpoint, tmp_path / "out", data=other, device="cpu")
    for part in ("train", "test"):
        (root / part / "cat").rename(root / part / "cow")
    with pytest.raises(ValueError, match=r"\['ant', 'bee', 'cat'\].*\['ant', 'bee', 'cow'\]"):
        certify_checkpoint(checkpoint, tmp_path / "out", data_dir=str(root), device="cpu")


def test_a_checkpoint_chooses_neither_folders_nor_loaders(tmp_path: Path) -> None:
    data = two_trees(tmp_path / "data")
    config = config_for(data)
    for stated in ({"data_dir": "/etc"}, {"loader": "workers"}, {"download": True}):
        save_checkpoint(tmp_path / "model.ckpt", build_model(config), config, data.description() | stated)
        with pytest.raises(ValueError, match=r"a checkpoint may state seed, .* of its dataset, got"):
            certify_checkpoint(tmp_path / "model.ckpt", tmp_path / "out", data_dir=str(tmp_path / "data"), device="cpu")


def test_a_damaged_test_image_ends_the_certification_and_is_named(tmp_path: Path) -> None:
    root = tmp_path / "data"
    checkpoint = checkpoint_of(two_trees(root), tmp_path / "model.ckpt")
    (root / "test" / "bee" / "001.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"bee/001\.png cannot be read"):
        certify_checkpoint(checkpoint, tmp_path / "out", data_dir=str(root), device="cpu")
    Image.fromarray(np.zeros((9, 9), dtype=np.uint8)).save(root / "test" / "bee" / "001.png")
    assert certify_checkpoint(checkpoint, tmp_path / "out", data_dir=str(root), device="cpu")["n_samples"] == 9


@pytest.mark.parametrize("attack", [None, ATTACK], ids=["certified", "attacked"])
def test_images_that_change_meanwhile_are_not_certified(
    attack: CertificateAttack | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file states the SHA-256 of the images as they were at the beginning."""
    root = tmp_path / "data"
    checkpoint = checkpoint_of(two_trees(root), tmp_path / "model.ckpt")
    image = root / "test" / "cat" / "001.png"
    original = image.read_bytes()

    def change(*arguments: Any, **settings: Any) -> Any:
        Image.fromarray(np.full((8, 8, 3), 77, dtype=np.uint8)).save(image)
        return begin(*arguments, **settings)

    settings: dict[str, Any] = {"data_dir": str(root), "device": "cpu", "batch_size": 4}
    moment = "run_certification" if attack is None else "attack_certificates"
    begin = getattr(certification, moment)
    monkeypatch.setattr(certification, moment, change)
    with pytest.raises(ValueError, match=r"batch 1 has other images or labels than at the beginning"):
        certify_checkpoint(checkpoint, tmp_path / "out", attack=attack, **settings)
    monkeypatch.undo()
    image.write_bytes(original)
    resume = attack is None
    certify_checkpoint(checkpoint, tmp_path / "out", resume=resume, overwrite=not resume, **settings)
    path = tmp_path / "out" / "certificates.tsv"
    assert verify_certificates(path, checkpoint, data_dir=str(root), device="cpu").confirmed
