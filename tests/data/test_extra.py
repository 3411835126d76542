"""Tests of lipnet.data.extra, on small files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lipnet.data import DatasetSpec, FolderImages, NpzImages
from lipnet.data.extra import FIRST_INDEX

SPEC = DatasetSpec("some", num_classes=12, in_channels=3, image_size=8, mean=(0.5, 0.5, 0.5), std=0.25)
GREY = DatasetSpec("grey", num_classes=12, in_channels=1, image_size=8, mean=(0.5,), std=0.25)
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
LABELS = GENERATOR.integers(0, 12, 20)


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **{"image": IMAGES, "label": LABELS, **arrays})
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_an_archive_is_read(tmp_path: Path, save: Callable[..., None], dtype: type[np.generic]) -> None:
    save(tmp_path / "generated.npz", image=IMAGES, label=LABELS.astype(dtype))
    extra = NpzImages(str(tmp_path / "generated.npz"), ratio=0.5).read(SPEC)
    np.testing.assert_array_equal(extra.images.numpy(), IMAGES.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(extra.labels.numpy(), LABELS)
    assert extra.labels.dtype == torch.int64
    assert extra.indices.tolist() == [FIRST_INDEX + i for i in range(20)]
    assert extra.maximum == 255


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": IMAGES.astype(np.float32)}, r"must be uint8 of shape \(N, 8, 8, 3\), N >= 1, got float32"),
        ({"image": IMAGES.transpose(0, 3, 1, 2)}, r"must be uint8 .* got uint8 of shape \(20, 3, 8, 8\)"),
        ({"image": IMAGES[0]}, r"must be uint8 .* got uint8 of shape \(8, 8, 3\)"),
        ({"image": IMAGES[:0], "label": LABELS[:0]}, r"N >= 1, got uint8 of shape \(0, 8, 8, 3\)"),
        ({"label": LABELS[:19]}, r"labels .* integers of shape \(20,\), got int64 of shape \(19,\)"),
        ({"label": LABELS.astype(np.float32)}, r"labels .* integers of shape \(20,\), got float32"),
        ({"label": LABELS + 5}, r"labels of extra images for some must be from 0 to 11, got \d+ to 16"),
        ({"label": LABELS - 1}, r"must be from 0 to 11, got -1 to"),
        ({"label": LABELS.astype(object)}, "cannot be read as an archive of the arrays 'image' and 'label'"),
    ],
)
def test_an_archive_that_does_not_fit_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message) as error:
        NpzImages(path, ratio=0.5).read(SPEC)
    assert str(path) in str(error.value)


def damaged(path: Path, kind: str) -> None:
    content = write(path).read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
    path.write_bytes({"truncated": content[:middle], "empty": b"", "text": b"no archive", "flipped": flipped}[kind])


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "flipped"])
def test_a_damaged_archive_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad.npz"
    damaged(path, kind)
    with pytest.raises(ValueError, match=r"bad\.npz cannot be read as an archive .* damaged\?"):
        NpzImages(path, ratio=0.5).read(SPEC)


def test_an_archive_of_other_arrays_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", images=IMAGES, label=LABELS)
    np.save(tmp_path / "single.npy", IMAGES)
    for name, reason in (("other.npz", "no item named 'image.npy'"), ("single.npy", "not a zip file")):
        with pytest.raises(ValueError, match=rf"{name} cannot be read as an archive .*{reason}"):
            NpzImages(tmp_path / name, ratio=0.5).read(SPEC)


@pytest.mark.parametrize("kind", [NpzImages, FolderImages])
def test_a_missing_path_is_an_error(kind: type[NpzImages], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"looked for in {tmp_path / 'nowhere'}, which does not exist"):
        kind(tmp_path / "nowhere", ratio=0.5).read(SPEC)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, float("nan")])
def test_a_ratio_out_of_range(ratio: float) -> None:
    with pytest.raises(ValueError, match=f"ratio must lie strictly between 0 and 1, got {ratio}"):
        NpzImages("some.npz", ratio)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images in the folders 2 and 10, whose names do not sort as their numbers do."""
    for i, label in enumerate((10, 2, 10)):
        (tmp_path / str(label)).mkdir(exist_ok=True)
        Image.fromarray(IMAGES[i]).save(tmp_path / str(label) / f"{i}.png")
    return tmp_path


def test_a_folder_is_read(folder: Path) -> None:
    extra = FolderImages(folder, ratio=0.5).read(SPEC)
    assert extra.labels.tolist() == [10, 10, 2]
    np.testing.assert_array_equal(extra.images.numpy(), IMAGES[[0, 2, 1]].transpose(0, 3, 1, 2))


def test_the_digest_is_that_of_images_and_labels_wherever_they_are(folder: Path, tmp_path: Path) -> None:
    def digest(extra: NpzImages | FolderImages) -> str | None:
        extra.read(SPEC)
        return extra.sha256

    own, labels = IMAGES[[0, 2, 1]], np.array([10, 10, 2], np.uint8)
    archives = [
        write(tmp_path / f"{number}.npz", image=image, label=label)
        for number, (image, label) in enumerate(
            [(own, labels), (np.asfortranarray(own), labels.astype(">i4")), (own[::-1], labels), (own, labels[::-1])]
        )
    ]
    first, same, *others = [digest(NpzImages(path, ratio=0.5)) for path in archives]
    for path in archives:
        path.unlink()
    assert first is not None
    assert digest(FolderImages(folder, ratio=0.5)) == first == same
    assert len({first, *others}) == 3


def test_a_folder_of_grey_images_is_read(tmp_path: Path) -> None:
    (tmp_path / "3").mkdir()
    Image.fromarray(IMAGES[0, :, :, 0]).save(tmp_path / "3" / "0.png")
    extra = FolderImages(tmp_path, ratio=0.5).read(GREY)
    np.testing.assert_array_equal(extra.images[0, 0].numpy(), IMAGES[0, :, :, 0])


def test_a_folder_that_does_not_fit_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"10/0\.png must have 4 x 4 pixels, got 8 x 8"):
        FolderImages(folder, ratio=0.5).read(DatasetSpec("s", 12, 3, 4, (0.5, 0.5, 0.5), 0.25))
    with pytest.raises(ValueError, match="must be from 0 to 4, got 2 to 10"):
        FolderImages(folder, ratio=0.5).read(DatasetSpec("s", 5, 3, 8, (0.5, 0.5, 0.5), 0.25))
    (folder / "2" / "broken.png").write_bytes((folder / "2" / "1.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"2/broken\.png cannot be read as an image .*: damaged\?"):
        FolderImages(folder, ratio=0.5).read(SPEC)
    (folder / "cat").mkdir()
    (folder / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"must be named by class numbers, got \['cat'\]"):
        FolderImages(folder, ratio=0.5).read(SPEC)


def test_no_image_of_a_folder_is_left_out(folder: Path) -> None:
    deeper = folder / "2" / "more" / "9.png"
    deeper.parent.mkdir()
    Image.fromarray(IMAGES[0]).save(deeper)
    (folder / "2" / ".DS_Store").touch()
    extra = FolderImages(folder, ratio=0.5).read(SPEC)
    assert extra.labels.tolist() == [10, 10, 2, 2]
    np.testing.assert_array_equal(extra.images.numpy(), IMAGES[[0, 2, 1, 0]].transpose(0, 3, 1, 2))
    Image.fromarray(IMAGES[0]).save(folder / "loose.png")
    with pytest.raises(ValueError, match=r"images must be in the folder of a class, got loose\.png"):
        FolderImages(folder, ratio=0.5).read(SPEC)
    (folder / "loose.png").unlink()
    (folder / "3").mkdir()
    with pytest.raises(ValueError, match=r"classes without images in .*: 3; add images"):
        FolderImages(folder, ratio=0.5).read(SPEC)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no folders: it must have a folder of images for each class"):
        FolderImages(tmp_path, ratio=0.5).read(SPEC)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file must be a folder with a folder for each class number, got a file"):
        FolderImages(tmp_path / "file", ratio=0.5).read(SPEC)


def save_grey(folder: Path, values: np.ndarray[Any, Any], name: str = "0.png") -> FolderImages:
    (folder / "3").mkdir(exist_ok=True)
    Image.fromarray(values).save(folder / "3" / name)
    return FolderImages(folder, ratio=0.5)


@pytest.mark.parametrize("spec", [GREY, SPEC], ids=["grey", "colour"])
@pytest.mark.parametrize("name", ["0.png", "0.pgm"])
def test_sixteen_bit_greys_are_scaled(tmp_path: Path, spec: DatasetSpec, name: str) -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    values[0, 1] = 300
    images = save_grey(tmp_path, values, name).read(spec).images
    for channel in images[0]:
        np.testing.assert_array_equal(channel.numpy(), np.round(values / 257))


def test_an_image_of_another_size_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = save_grey(tmp_path, np.zeros((16, 8), np.uint8))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"must have 8 x 8 pixels, got 8 x 16"):
        extra.read(GREY)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = save_grey(tmp_path, np.zeros((64, 64), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"0\.png cannot be read as an image .*decompression bomb"):
        extra.read(GREY)


@pytest.mark.parametrize("kind", ["EPS", "GIF", "TIFF", "ICO", "PDF"])
def test_other_formats_are_not_opened(tmp_path: Path, kind: str) -> None:
    (tmp_path / "3").mkdir()
    Image.fromarray(IMAGES[0]).save(tmp_path / "3" / "0.png", format=kind)
    with pytest.raises(ValueError, match=r"0\.png cannot be read as an image \(PNG, JPEG, BMP, WEBP, PPM\)"):
        FolderImages(tmp_path, ratio=0.5).read(SPEC)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "0.pfm").write_bytes(b"Pf\n8 8\n-1.0\n" + bytes(256))
    with pytest.raises(ValueError, match="pixels are floating-point numbers"):
        FolderImages(tmp_path, ratio=0.5).read(GREY)


def test_an_archive_that_inflates_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", image=np.zeros((30_000, 8, 8, 3), np.uint8), label=np.zeros(30_000, int))
    monkeypatch.setattr(np, "load", lambda *arguments, **settings: pytest.fail("read"))
    with pytest.raises(ValueError, match=r"bomb\.npz cannot be read .*inflates to \d+ bytes, more than 100 times"):
        NpzImages(tmp_path / "bomb.npz", ratio=0.5).read(SPEC)


def test_an_archive_is_read_only_if_its_headers_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "large.npz", image=np.random.default_rng(0).random((20, 8, 8, 3)))
    monkeypatch.setattr(np, "load", lambda *arguments, **settings: pytest.fail("read"))
    with pytest.raises(ValueError, match="must be uint8"):
        NpzImages(path, ratio=0.5).read(SPEC)


def test_a_header_that_claims_more_than_there_is_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 8, 8, 3)})
    with zipfile.ZipFile(tmp_path / "claim.npz", "w") as archive:
        archive.writestr("image.npy", header.getvalue())
        archive.writestr("label.npy", header.getvalue())
    with pytest.raises(ValueError, match=r"less data than its shape \(1000000000000, 8, 8, 3\) needs"):
        NpzImages(tmp_path / "claim.npz", ratio=0.5).read(SPEC)
