"""Tests of lipnet.data.cifar, on files of the official layout with random images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets

from lipnet.data import CIFAR10DataModule, CIFAR100DataModule
from lipnet.data import cifar as cifar_file

MODULES = [(CIFAR100DataModule, datasets.CIFAR100), (CIFAR10DataModule, datasets.CIFAR10)]
WriteFakeCIFAR = Callable[[type[datasets.CIFAR10]], Any]


@pytest.mark.parametrize(("module_class", "reader"), MODULES)
def test_each_image_comes_from_its_place_in_the_official_file(
    module_class: type[CIFAR100DataModule], reader: type[datasets.CIFAR10], write_fake_cifar: WriteFakeCIFAR
) -> None:
    files = write_fake_cifar(reader)
    module = module_class(data_dir=files.root, validation_fraction=0.2)
    official = {
        "validation": (files.training_images, files.training_labels),
        "test": (files.test_images, files.test_labels),
    }
    for split, (images, labels) in official.items():
        dataset = module.evaluation_dataset(split)
        indices = module.evaluation_indices(split).tolist()
        assert len(dataset) == len(indices) == 2 * module.spec.num_classes
        for i in range(0, len(indices), 7):
            image, label = dataset[i]
            assert label == labels[indices[i]]
            assert image.dtype == torch.float32
            np.testing.assert_array_equal(image.numpy(), (images[indices[i]] / 255).astype(np.float32))
    assert module.evaluation_indices("test").tolist() == list(range(2 * module.spec.num_classes))


def test_validation_is_stratified_and_apart_from_training(write_fake_cifar: WriteFakeCIFAR) -> None:
    files = write_fake_cifar(datasets.CIFAR100)
    module = CIFAR100DataModule(data_dir=str(files.root))
    training, validation = module.training_dataset().indices, module.evaluation_indices("validation")
    assert torch.cat([training, validation]).sort().values.tolist() == list(range(1000))
    assert np.bincount(files.training_labels[validation.numpy()]).tolist() == [1] * 100


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_training_stages_need_no_test_file(stage: str, write_fake_cifar: WriteFakeCIFAR) -> None:
    files = write_fake_cifar(datasets.CIFAR100)
    (files.folder / "test").unlink()
    module = CIFAR100DataModule(data_dir=files.root)
    module.setup(stage)
    assert len(module.val_dataloader().dataset) == 100
    with pytest.raises(FileNotFoundError, match="lacks test"):
        module.setup("test")


def test_test_stage_needs_no_training_file(write_fake_cifar: WriteFakeCIFAR) -> None:
    files = write_fake_cifar(datasets.CIFAR100)
    (files.folder / "train").unlink()
    module = CIFAR100DataModule(data_dir=files.root)
    module.setup("test")
    assert len(module.test_dataloader().dataset) == 200
    with pytest.raises(FileNotFoundError, match="lacks train"):
        module.setup("fit")


def test_files_are_read_once(write_fake_cifar: WriteFakeCIFAR) -> None:
    files = write_fake_cifar(datasets.CIFAR100)
    module = CIFAR100DataModule(data_dir=files.root)
    module.setup()
    for name in ("train", "test", "meta"):
        (files.folder / name).unlink()
    module.setup()
    training, validation = module.training_dataset(), module.evaluation_dataset("validation")
    assert training.source.images.data_ptr() == validation.source.images.data_ptr()
    assert training.source.images.dtype == torch.uint8


def test_missing_folder_tells_where_it_looked_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = CIFAR100DataModule(data_dir="nowhere")
    with pytest.raises(FileNotFoundError) as error:
        module.setup("fit")
    message = str(error.value)
    assert str(tmp_path / "nowhere" / "cifar-100-python") in message
    for advice in ("train, meta", "Put the official files there", "data.data_dir=", "data.download=true"):
        assert advice in message


@pytest.mark.parametrize(("name", "stage"), [("train", "fit"), ("meta", "fit"), ("test", "test")])
def test_damaged_file_is_named(name: str, stage: str, write_fake_cifar: WriteFakeCIFAR) -> None:
    files = write_fake_cifar(datasets.CIFAR100)
    with (files.folder / name).open("ab") as damaged:
        damaged.write(b"!")
    module = CIFAR100DataModule(data_dir=files.root)
    with pytest.raises(OSError, match=f"damaged cifar100 file: {files.folder / name}. Remove it"):
        module.setup(stage)


def test_one_damaged_batch_of_five_is_named(write_fake_cifar: WriteFakeCIFAR) -> None:
    files = write_fake_cifar(datasets.CIFAR10)
    (files.folder / "data_batch_4").write_bytes(b"")
    module = CIFAR10DataModule(data_dir=files.root)
    with pytest.raises(OSError, match=f"damaged cifar10 file: {files.folder / 'data_batch_4'}. Remove it"):
        module.evaluation_indices("validation")


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """Downloads of files that hold their own names: (url, folder that contains the temporary one)."""
    fetched: list[tuple[str, Path]] = []

    def record(url: str, root: str, filename: str, md5: str) -> None:
        assert url.endswith(filename)
        assert md5 == datasets.CIFAR100.tgz_md5
        fetched.append((url, Path(root).parent))
        folder = Path(root) / datasets.CIFAR100.base_folder
        folder.mkdir(parents=True)
        for name in ("train", "test", "meta"):
            (folder / name).write_text(name)

    monkeypatch.setattr(cifar_file, "download_and_extract_archive", record)
    return fetched


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_download_when_a_file_is_missing(
    name: str, write_fake_cifar: WriteFakeCIFAR, downloads: list[tuple[str, Path]]
) -> None:
    files = write_fake_cifar(datasets.CIFAR100)
    module = CIFAR100DataModule(data_dir=files.root, download=True)
    module.prepare_data()
    assert downloads == []
    (files.folder / name).unlink()
    module.prepare_data()
    assert downloads == [(datasets.CIFAR100.url, files.root)]
    assert sorted(path.name for path in files.root.iterdir()) == ["cifar-100-python"]
    assert sorted(path.read_text() for path in files.folder.iterdir()) == ["meta", "test", "train"]


def test_a_download_shows_no_half_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one process unpacks the archive, others may read the official folder."""
    official = tmp_path / datasets.CIFAR100.base_folder

    def unpack_slowly(url: str, root: str, filename: str, md5: str) -> None:
        folder = Path(root) / datasets.CIFAR100.base_folder
        folder.mkdir(parents=True)
        for name in ("train", "test", "meta"):
            (folder / name).write_text("half")
            assert not (official / name).exists()

    monkeypatch.setattr(cifar_file, "download_and_extract_archive", unpack_slowly)
    cifar_file.fetch_cifar(datasets.CIFAR100, tmp_path)
    assert sorted(path.name for path in official.iterdir()) == ["meta", "test", "train"]


def test_download_happens_only_when_asked_for(tmp_path: Path, downloads: list[tuple[str, Path]]) -> None:
    CIFAR100DataModule(data_dir=tmp_path).prepare_data()
    assert downloads == []
    asked = CIFAR100DataModule(data_dir=tmp_path, download=True)
    with pytest.raises(OSError, match="damaged cifar100 file"):
        asked.evaluation_dataset("test")
    assert len(downloads) == 1


def test_setup_leaves_the_download_to_the_trainer(tmp_path: Path, downloads: list[tuple[str, Path]]) -> None:
    module = CIFAR100DataModule(data_dir=tmp_path, download=True)
    module.trainer = SimpleNamespace(world_size=2, global_rank=1)  # type: ignore[assignment]
    with pytest.raises(FileNotFoundError):
        module.setup("fit")
    assert downloads == []


def test_augmentation_crops_after_padding_by_four_and_flips(write_fake_cifar: WriteFakeCIFAR) -> None:
    files = write_fake_cifar(datasets.CIFAR100)
    augmented = CIFAR100DataModule(data_dir=files.root).training_dataset()
    rows, columns, flips = set(), set(), set()
    for i in range(80):
        image = augmented[3, i][0]
        original = torch.from_numpy(files.training_images[augmented.indices[i]]).float() / 255
        padded = torch.nn.functional.pad(original, (4, 4, 4, 4))
        found = [
            (row, column, flipped)
            for row in range(9)
            for column in range(9)
            for flipped in (False, True)
            if torch.equal(padded[:, row : row + 32, column : column + 32], image.flip(-1) if flipped else image)
        ]
        assert len(found) == 1
        rows.add(found[0][0])
        columns.add(found[0][1])
        flips.add(found[0][2])
    # A value of nine is missed by 80 draws with probability 1e-4.
    assert rows == columns == set(range(9))
    assert flips == {False, True}
