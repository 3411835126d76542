"""SVHN, MNIST, Fashion-MNIST and Tiny ImageNet, on small stand-ins in the official layouts."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from lipnet.data import (
    FashionMNISTDataModule,
    ImageDataModule,
    MNISTDataModule,
    SVHNDataModule,
    TinyImageNetDataModule,
    tiny_imagenet,
)
from tests.fake_images import COLOURED, COUNTS, IMAGES, labels_of, write_idx, write_mnist


@pytest.fixture(autouse=True)
def counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of images of the stand-ins, in place of the official ones."""
    monkeypatch.setattr(MNISTDataModule, "counts", COUNTS)
    monkeypatch.setattr(TinyImageNetDataModule, "training_per_class", 3)
    monkeypatch.setattr(TinyImageNetDataModule, "test_per_class", 1)


@pytest.fixture
def svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both files of SVHN with small images, and their checksums as the official ones. Class 0 is written as 10."""
    files = dict(datasets.SVHN.split_list)
    for split in COUNTS:
        labels = labels_of(split)
        path = tmp_path / f"{split}_32x32.mat"
        savemat(path, {"X": COLOURED[split].transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None]})
        files[split] = [files[split][0], path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", files)
    return tmp_path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official layout of Tiny ImageNet, with 200 classes of 3 training images and one for the test."""
    root = tmp_path_factory.mktemp("tiny")
    folder = root / "tiny-imagenet-200"
    wnids = [f"n{number:08}" for number in range(200)]
    (folder / "val" / "images").mkdir(parents=True)
    lines = []
    for label, wnid in enumerate(wnids):
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t9\t9\n")
        for number in range(3):
            Image.new("RGB", (64, 64), (label, number, 0)).save(images / f"{wnid}_{number}.JPEG")
        # The validation images are in another order than the classes, and some are grey.
        Image.new("L" if label % 2 else "RGB", (64, 64)).save(folder / "val" / "images" / f"val_{label}.JPEG")
        lines.append(f"val_{label}.JPEG\t{wnids[(7 * label) % 200]}\t0\t0\t9\t9")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (folder / "wnids.txt").write_text("\n".join(reversed(wnids)) + "\n")
    words = [f"{wnid}\tname {label}, another" for label, wnid in enumerate(wnids[:-1])]
    (folder / "words.txt").write_text("\n".join(words) + "\n")
    return root


def assert_split(data: ImageDataModule, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    dataset = data.evaluation_dataset(split)
    chosen = dataset.indices.numpy()
    np.testing.assert_array_equal(dataset.source.images[dataset.positions].numpy(), images[chosen])
    np.testing.assert_array_equal(dataset.source.labels[dataset.positions].numpy(), labels[chosen])


@pytest.mark.parametrize(("cls", "name"), [(MNISTDataModule, "MNIST"), (FashionMNISTDataModule, "FashionMNIST")])
def test_mnist_is_read_from_its_files(cls: type[MNISTDataModule], name: str, tmp_path: Path) -> None:
    write_mnist(tmp_path, name)
    data = cls(data_dir=tmp_path, validation_fraction=0.25)
    assert_split(data, "test", IMAGES["test"][:, None], labels_of("test"))
    assert_split(data, "validation", IMAGES["train"][:, None], labels_of("train"))
    assert data.evaluation_indices("test").tolist() == list(range(20))
    assert next(iter(data.train_dataloader()))[0].shape == (30, 1, 28, 28)


def test_svhn_is_read_from_its_files(svhn: Path) -> None:
    data = SVHNDataModule(data_dir=svhn, validation_fraction=0.25)
    assert_split(data, "test", COLOURED["test"], labels_of("test"))
    assert_split(data, "validation", COLOURED["train"], labels_of("train"))


@pytest.mark.parametrize("loader", ["memory", "workers"])
def test_tiny_imagenet_is_read_from_its_folders(tiny: Path, loader: str) -> None:
    data = TinyImageNetDataModule(data_dir=tiny, validation_fraction=0.34, loader=loader, augment=False)
    test, training = data.evaluation_dataset("test"), data.training_dataset()
    assert test.source.labels.tolist() == [(7 * line) % 200 for line in range(200)]
    assert len(training) == 400
    for position in (0, 150, 399):
        image, label = training[position]
        assert image.shape == (3, 64, 64)
        assert float(image[0].mean()) * 255 == pytest.approx(label, abs=3)
    names = data.facts()["classes"]
    assert names[:2] == ["name 0", "name 1"]
    assert names[199] == "n00000199", "a class without a name keeps its identifier"


MISSING: dict[str, tuple[type[Any], str]] = {
    "svhn": (SVHNDataModule, r"lacks train_32x32\.mat"),
    "mnist": (MNISTDataModule, r"MNIST/raw, which lacks train-images-idx3-ubyte, train-labels-idx1-ubyte"),
    "fashion_mnist": (FashionMNISTDataModule, "FashionMNIST/raw, which lacks train-images"),
    "tiny_imagenet": (TinyImageNetDataModule, r"lacks wnids\.txt, words\.txt, val/val_annotations\.txt"),
}


@pytest.mark.parametrize("name", MISSING)
def test_missing_files_are_named_with_the_ways_to_provide_them(name: str, tmp_path: Path) -> None:
    cls, message = MISSING[name]
    with pytest.raises(FileNotFoundError, match=rf"{name} was looked for in .*{message}.*data\.download=true"):
        cls(data_dir=tmp_path).setup("fit")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def other_magic(path: Path) -> None:
    path.write_bytes(b"\1" + path.read_bytes()[1:])


def fewer(path: Path) -> None:
    write_idx(path, labels_of("train")[:-1])


def unknown_class(path: Path) -> None:
    write_idx(path, labels_of("train") + 1)


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("images-idx3", cut),
        ("images-idx3", other_magic),
        ("labels-idx1", cut),
        ("labels-idx1", fewer),
        ("labels-idx1", unknown_class),
        ("images-idx3", lambda path: path.write_bytes(b"")),
    ],
)
def test_damaged_files_of_mnist_are_named(part: str, damage: Callable[[Path], object], tmp_path: Path) -> None:
    path = write_mnist(tmp_path) / f"train-{part}-ubyte"
    damage(path)
    data = MNISTDataModule(data_dir=tmp_path, validation_fraction=0.25)
    with pytest.raises(OSError, match=r"damaged mnist file: .*train-"):
        data.setup("fit")
    data.setup("test")


@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist_has_the_official_number_of_images(split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path)
    monkeypatch.setattr(MNISTDataModule, "counts", COUNTS | {split: 60000})
    with pytest.raises(OSError, match=r"damaged mnist file: .*-images-idx3-ubyte"):
        MNISTDataModule(data_dir=tmp_path, validation_fraction=0.25).setup()


def test_a_damaged_file_of_svhn_is_named(svhn: Path) -> None:
    cut(svhn / "test_32x32.mat")
    data = SVHNDataModule(data_dir=svhn, validation_fraction=0.25)
    data.setup("fit")
    with pytest.raises(OSError, match=r"damaged svhn file: .*test_32x32\.mat"):
        data.setup("test")


def test_damaged_lists_of_tiny_imagenet_are_named(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotations = tiny / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    good = annotations.read_text()
    half, twice = "".join(good.splitlines(keepends=True)[:100]), good.replace("val_1.JPEG", "val_0.JPEG")
    for text in ("val_0.JPEG\tunknown\n", "../../etc\tn00000001\n", "one column\n", "", half, twice):
        annotations.write_text(text)
        with pytest.raises(OSError, match=r"damaged tiny_imagenet file: .*val_annotations"):
            TinyImageNetDataModule(data_dir=tiny).evaluation_dataset("test")
    annotations.write_text(good)
    extra = tiny / "tiny-imagenet-200" / "train" / "n99999999"
    extra.mkdir()
    Image.new("RGB", (64, 64)).save(extra / "0.JPEG")
    with pytest.raises(OSError, match="does not have the official classes: n99999999 differ"):
        TinyImageNetDataModule(data_dir=tiny).training_dataset()
    (extra / "0.JPEG").unlink()
    extra.rmdir()


def test_half_a_copy_of_tiny_imagenet_is_refused(tiny: Path) -> None:
    image = tiny / "tiny-imagenet-200" / "train" / "n00000007" / "images" / "n00000007_1.JPEG"
    content = image.read_bytes()
    image.unlink()
    with pytest.raises(OSError, match=r"classes in .*train must have 3 images each, got n00000007 \(2\): copy tiny-im"):
        TinyImageNetDataModule(data_dir=tiny, validation_fraction=0.34).training_dataset()
    image.write_bytes(content)


def test_tiny_imagenet_states_its_training_files_and_compares_them_for_the_validation(tiny: Path) -> None:
    settings: dict[str, Any] = {"data_dir": tiny, "validation_fraction": 0.34}
    data = TinyImageNetDataModule(**settings)
    assert data.description().keys() == {"name", "seed", "validation_fraction", "contents_sha256"}
    assert data.settings_behind("validation") == ("seed", "validation_fraction", "contents_sha256")
    assert data.settings_behind("test") == ()
    folder = tiny / "tiny-imagenet-200" / "train" / "n00000007" / "images"
    (folder / "n00000007_1.JPEG").rename(folder / "n00000007_9.JPEG")
    assert not TinyImageNetDataModule(**settings).unseen_by(data.description())
    (folder / "n00000007_9.JPEG").rename(folder / "n00000007_1.JPEG")
    assert TinyImageNetDataModule(**settings).unseen_by(data.description())
    older = {"name": "tiny_imagenet", "seed": 0, "validation_fraction": 0.34}
    with pytest.warns(UserWarning, match="earlier version, which stated neither the names of its files nor their"):
        assert TinyImageNetDataModule(**settings).unseen_by(older)


def test_the_description_of_tiny_imagenet_fetches_its_files(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes fetch at once: the other one is first."""

    def unpack(url: str, root: str, md5: str) -> None:
        shutil.copytree(tiny / "tiny-imagenet-200", Path(root) / "tiny-imagenet-200")
        shutil.copytree(tiny / "tiny-imagenet-200", tmp_path / "tiny-imagenet-200")

    monkeypatch.setattr(tiny_imagenet, "download_and_extract_archive", unpack)
    fetched = TinyImageNetDataModule(data_dir=tmp_path, download=True, validation_fraction=0.34)
    given = TinyImageNetDataModule(data_dir=tiny, validation_fraction=0.34)
    assert fetched.description() == given.description()


def test_a_download_puts_whole_files_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the network writes the files where torchvision unpacks them."""
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: write_mnist(Path(self.root)))
    data = MNISTDataModule(data_dir=tmp_path, download=True, validation_fraction=0.25)
    data.setup("fit")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MNIST"]
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: pytest.fail("all files are there"))
    MNISTDataModule(data_dir=tmp_path, download=True, validation_fraction=0.25).setup("test")


def test_svhn_is_fetched_file_by_file(svhn: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> None:
    target = tmp_path_factory.mktemp("target")

    def fetch(self: datasets.SVHN) -> None:
        Path(self.root, self.filename).write_bytes((svhn / self.filename).read_bytes())

    monkeypatch.setattr(datasets.SVHN, "download", fetch)
    SVHNDataModule(data_dir=target, download=True, validation_fraction=0.25).setup()
    assert sorted(path.name for path in target.iterdir()) == ["test_32x32.mat", "train_32x32.mat"]


def test_tiny_imagenet_is_fetched_as_a_whole(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(url: str, root: str, md5: str) -> None:
        assert (url, md5) == (tiny_imagenet.URL, tiny_imagenet.MD5)
        (Path(root) / "tiny-imagenet-200").symlink_to(tiny / "tiny-imagenet-200")

    monkeypatch.setattr(tiny_imagenet, "download_and_extract_archive", unpack)
    data = TinyImageNetDataModule(data_dir=tmp_path / "new", download=True, validation_fraction=0.34)
    assert len(data.evaluation_dataset("test")) == 200


def test_an_incomplete_folder_of_tiny_imagenet_is_not_downloaded_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive could not take the place of a folder with files."""
    monkeypatch.setattr(tiny_imagenet, "download_and_extract_archive", lambda *_, **__: pytest.fail("download"))
    folder = tmp_path / "tiny-imagenet-200"
    folder.mkdir()
    (folder / "wnids.txt").write_text("n00000001\n")
    data = TinyImageNetDataModule(data_dir=tmp_path, download=True)
    with pytest.raises(FileNotFoundError, match=r"lacks words\.txt, val/val_annotations\.txt: remove the folder"):
        data.prepare_data()


def test_nothing_is_fetched_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: pytest.fail("download"))
    with pytest.raises(FileNotFoundError):
        MNISTDataModule(data_dir=tmp_path).setup("fit")
