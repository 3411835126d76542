"""Images of one's own: trees of image files of every kind, in memory and streamed."""

from __future__ import annotations

import itertools
import os
import shutil
import struct
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.types import EVAL_DATALOADERS
from PIL import Image, ImageFile, PngImagePlugin

from lipnet.data import FolderDataModule, NpzImages, read_image
from lipnet.data.decoding import decode_exact, decode_fitted
from lipnet.data.trees import StreamedImages, measure, scan_tree
from lipnet.models import LipConvNet
from tests.fake_images import CLASSES, picture, write_class

COUNTS = {"train": 20, "test": 4}


@pytest.fixture
def trees(tmp_path: Path) -> Path:
    """The folders train and test, with 20 and 4 images of 12 x 12 for each of three classes."""
    for seed, (part, name) in enumerate(itertools.product(COUNTS, CLASSES)):
        write_class(tmp_path / part / name, COUNTS[part], seed)
    return tmp_path


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """One tree with 20 images for each of three classes."""
    for seed, name in enumerate(CLASSES):
        write_class(tmp_path / name, 20, seed)
    return tmp_path


def module(folder: Path, **settings: Any) -> FolderDataModule:
    return FolderDataModule(data_dir=folder, **{"image_size": 12, "augment": False, **settings})


def batches(loader: EVAL_DATALOADERS) -> list[Any]:
    return list(loader)


@pytest.mark.parametrize("loader", ["memory", "workers"])
def test_pixels_labels_and_classes_are_those_of_the_files(trees: Path, loader: str) -> None:
    data = module(trees, loader=loader)
    assert data.classes == list(CLASSES)
    assert data.num_classes == 3
    test = data.evaluation_dataset("test")
    assert test.indices.tolist() == list(range(12))
    for position, (seed, number) in enumerate(itertools.product((3, 4, 5), range(4))):
        image, label = test[position]
        expected = np.asarray(picture(100 * seed + number)).transpose(2, 0, 1)
        np.testing.assert_array_equal(image.mul(255).round().byte().numpy(), expected)
        assert label == seed - 3


def test_both_loaders_build_the_same_batches(trees: Path) -> None:
    streamed, held = (module(trees, loader=name, augment=True, batch_size=7) for name in ("workers", "memory"))
    for one, other in zip(batches(streamed.train_dataloader()), batches(held.train_dataloader()), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    hashes = {each.evaluation_dataset(split).digests(10, 4)[0] for each in (streamed, held) for split in ("test",)}
    assert len(hashes) == 1


def test_worker_processes_decode_the_same_batches(trees: Path) -> None:
    one, two = (module(trees, loader="workers", num_workers=workers, batch_size=16) for workers in (0, 2))
    for first, second in zip(batches(one.test_dataloader()), batches(two.test_dataloader()), strict=True):
        assert torch.equal(first[0], second[0])


def test_streamed_images_are_not_kept(trees: Path) -> None:
    data = module(trees, loader="workers")
    assert isinstance(data.evaluation_dataset("test").source.images, StreamedImages)
    assert isinstance(module(trees).evaluation_dataset("test").source.images, StreamedImages)
    assert isinstance(module(trees, loader="memory").evaluation_dataset("test").source.images, torch.Tensor)


def test_the_test_part_of_one_tree_is_stratified_and_does_not_depend_on_the_run_s_seed(single: Path) -> None:
    data, other = module(single, seed=0), module(single, seed=1)
    test = data.evaluation_indices("test")
    assert test.equal(other.evaluation_indices("test"))
    assert not test.equal(module(single, test_seed=1).evaluation_indices("test"))
    assert data.evaluation_dataset("test").source.labels.bincount().tolist() == [4, 4, 4]
    parts = [data.training_dataset().indices, data.evaluation_indices("validation"), test]
    assert sorted(torch.cat(parts).tolist()) == list(range(60))


def test_mean_and_std_are_those_of_all_pixels_of_the_training_images(trees: Path) -> None:
    for loader in ("workers", "memory"):
        data = module(trees, loader=loader)
        pixels = torch.stack(
            [image for image, _ in data.training_dataset()] + [i for i, _ in data.evaluation_dataset("validation")]
        )
        mean = pixels.double().mean(dim=(0, 2, 3))
        std = (pixels - mean.view(1, 3, 1, 1)).square().mean().sqrt()
        assert data.spec.mean == pytest.approx(mean.tolist(), abs=1e-6)
        assert data.spec.std == pytest.approx(float(std), abs=1e-6)
        assert data.spec.classes == CLASSES


def test_of_many_images_evenly_spaced_ones_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lipnet.data.trees._MEASURED", 4)
    images = torch.zeros(8, 1, 2, 2, dtype=torch.uint8)
    images[::2] = 255
    assert measure(images) == ((1.0,), 0.0)


def test_images_of_one_colour_are_refused(tmp_path: Path) -> None:
    for name in CLASSES:
        (tmp_path / name).mkdir()
        for number in range(8):
            Image.new("RGB", (8, 8), "red").save(tmp_path / name / f"{number}.png")
    data = module(tmp_path, image_size=8)
    # Red differs from the means of the channels nowhere.
    with pytest.raises(ValueError, match="all have one colour"):
        _ = data.spec


SQUARE = np.asarray(picture(7))
GREY_16 = np.random.default_rng(0).integers(0, 65536, (12, 12), dtype=np.uint16)


def rotated(path: Path) -> None:
    """Write the picture on its side, with the EXIF orientation that turns it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(SQUARE)).save(path, exif=exif)


def half_transparent(path: Path) -> None:
    alpha = np.full((12, 12, 1), 255, dtype=np.uint8)
    alpha[:6] = 0
    Image.fromarray(np.concatenate([SQUARE, alpha], axis=2)).save(path)


def on_white() -> np.ndarray:
    expected = SQUARE.copy()
    expected[:6] = 255
    return expected


def repeated(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


def palette(path: Path) -> None:
    image = Image.fromarray(SQUARE[:, :, 0] % 4).convert("L")
    indexed = Image.fromarray(np.asarray(image), mode=None)
    indexed.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    indexed.save(path)


def of_palette() -> np.ndarray:
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120]], dtype=np.uint8)
    return colours[SQUARE[:, :, 0] % 4]


KINDS: dict[str, tuple[str, Callable[[Path], None], Callable[[], np.ndarray]]] = {
    "RGB": ("png", lambda path: Image.fromarray(SQUARE).save(path), lambda: SQUARE),
    "greyscale": ("png", lambda path: Image.fromarray(SQUARE[:, :, 0]).save(path), lambda: repeated(SQUARE[:, :, 0])),
    "alpha": ("png", half_transparent, on_white),
    "palette": ("png", palette, of_palette),
    "16 bit": (
        "png",
        lambda path: Image.fromarray(GREY_16).save(path),
        lambda: repeated(np.round(GREY_16 / 257).astype(np.uint8)),
    ),
    "16 bit with a transparent value": (
        "png",
        lambda path: Image.fromarray(GREY_16).save(path, transparency=int(GREY_16[3, 4])),
        lambda: repeated(np.where(GREY_16[3, 4] == GREY_16, 255, np.round(GREY_16 / 257)).astype(np.uint8)),
    ),
    "EXIF": ("png", rotated, lambda: SQUARE),
    "bitmap": ("bmp", lambda path: Image.fromarray(SQUARE).save(path), lambda: SQUARE),
    "black and white": (
        "png",
        lambda path: Image.fromarray(SQUARE[:, :, 0] > 127).save(path),
        lambda: repeated((SQUARE[:, :, 0] > 127) * np.uint8(255)),
    ),
}


def write_png(path: Path, bits: int, colour: int, row: bytes, transparent: bytes) -> None:
    """Write a PNG file of 4 equal rows of 4 pixels with a transparent value; Pillow cannot write all depths."""
    header = struct.pack(">IIBBBBB", 4, 4, bits, colour, 0, 0, 0)
    chunks = {b"IHDR": header, b"tRNS": transparent, b"IDAT": zlib.compress((b"\0" + row) * 4), b"IEND": b""}
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks.items():
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(content)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_value_of_any_depth_becomes_white(tmp_path: Path, bits: int) -> None:
    """The row has the values 0, 1, 2 and 3, or 0, 1, 0 and 1, scaled to the depth."""
    values = np.arange(4) % 2**bits * (256 if bits == 16 else 1)
    packed = [format(value, f"0{bits}b") for value in values]
    row = int("".join(packed), 2).to_bytes(bits // 2, "big") if bits > 1 else bytes([0b01010000])
    shown = np.round(values * 255 / (2**bits - 1))
    for transparent in (0, 1):
        write_png(tmp_path / "grey.png", bits, 0, row, struct.pack(">H", values[transparent]))
        expected = np.where(values == values[transparent], 255, shown)
        np.testing.assert_array_equal(decode_fitted(tmp_path / "grey.png", 4, 1)[0], np.tile(expected, (4, 1)))


def test_a_transparent_colour_becomes_white_or_is_refused(tmp_path: Path) -> None:
    colours = np.array([[10, 20, 30], [10, 20, 31], [1, 2, 3], [10, 20, 30]])
    write_png(tmp_path / "8.png", 8, 2, bytes(colours.flatten().tolist()), struct.pack(">HHH", 10, 20, 30))
    expected = np.where((colours == colours[0]).all(axis=1, keepdims=True), 255, colours)
    np.testing.assert_array_equal(decode_fitted(tmp_path / "8.png", 4, 3)[:, 0].T, expected)
    row = struct.pack(">12H", *(colours * 256 + 255).flatten())
    write_png(tmp_path / "16.png", 16, 2, row, struct.pack(">HHH", 10, 20, 30))
    with pytest.raises(ValueError, match=r"16\.png cannot be read .*16-bit colours of which one is transparent"):
        decode_fitted(tmp_path / "16.png", 4, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_becomes_rgb(kind: str, tmp_path: Path) -> None:
    suffix, write, expected = KINDS[kind]
    path = tmp_path / f"image.{suffix}"
    write(path)
    np.testing.assert_array_equal(decode_fitted(path, 12, 3).transpose(1, 2, 0), expected())
    assert decode_fitted(path, 12, 1).shape == (1, 12, 12)
    image = read_image(str(path), 12)
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image.numpy(), decode_fitted(path, 12, 3).astype(np.float32) / np.float32(255))


def test_cmyk_is_converted_to_rgb(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    Image.new("CMYK", (30, 20), (255, 0, 0, 0)).save(path)
    red, green, blue = decode_fitted(path, 8, 3).astype(int)
    assert red.max() < 10
    assert min(green.min(), blue.min()) > 245


@pytest.mark.parametrize("size", [(24, 24), (48, 24), (24, 72)])
@pytest.mark.parametrize("target", [6, 12, 24, 48])
def test_images_are_resized_and_cropped_to_their_centre(size: tuple[int, int], target: int, tmp_path: Path) -> None:
    wide, high = size
    image = picture(3, high, wide)
    image.save(tmp_path / "image.png")
    whole = image.resize((target * wide // 24, target * high // 24), Image.Resampling.BILINEAR)
    left, top = (whole.width - target) // 2, (whole.height - target) // 2
    expected = np.asarray(whole)[top : top + target, left : left + target].astype(int)
    assert np.abs(decode_fitted(tmp_path / "image.png", target, 3).transpose(1, 2, 0) - expected).max() <= 1


def test_a_large_photograph_is_read_at_a_fraction_of_its_size(tmp_path: Path) -> None:
    """The reduced decoding of JPEG changes the result by less than its compression does."""
    slope = np.add.outer(np.arange(400), np.arange(400)) // 4
    Image.fromarray(slope.astype(np.uint8)).save(tmp_path / "image.jpg", quality=95)
    exact = np.asarray(Image.fromarray(slope.astype(np.uint8)).resize((20, 20), Image.Resampling.BILINEAR))
    assert np.abs(decode_fitted(tmp_path / "image.jpg", 20, 1)[0].astype(int) - exact).max() <= 3


def truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no image"),
    "another format": lambda path: picture(0).save(path, format="GIF"),
}


@pytest.mark.parametrize("loader", ["memory", "workers"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_all_named_before_the_training(trees: Path, damage: str, loader: str) -> None:
    for name in ("ant/003.png", "cat/010.png"):
        DAMAGES[damage](trees / "train" / name)
    with pytest.raises(
        ValueError,
        match=r"2 of 60 files in .*train cannot be used, .*remove them: .*ant/003\.png .*cat/010\.png",
    ):
        module(trees, loader=loader).setup("fit")


def test_a_truncated_file_is_named_when_it_is_decoded(trees: Path) -> None:
    truncated(trees / "test" / "bee" / "001.png")
    with pytest.raises(ValueError, match=r"1 of 12 files in .*bee/001\.png cannot be read as an image"):
        module(trees, loader="memory").setup("test")
    data = module(trees, loader="workers", num_workers=1)
    data.setup("test")
    with pytest.raises(ValueError, match=r"bee/001\.png cannot be read as an image"):
        batches(data.test_dataloader())


def test_hidden_files_and_clutter_are_skipped_and_folders_within_a_class_belong_to_it(trees: Path) -> None:
    for name in (".DS_Store", "Thumbs.db", ".hidden/x.png"):
        (trees / "test" / "ant" / name).parent.mkdir(exist_ok=True)
        (trees / "test" / "ant" / name).write_text("no image")
    write_class(trees / "test" / "ant" / "more", 2, seed=9)
    (trees / "test" / "readme.txt").write_text("about these images")
    assert module(trees).evaluation_dataset("test").source.labels.bincount().tolist() == [6, 4, 4]


def empty_class(root: Path) -> None:
    (root / "train" / "dog").mkdir()


def loose_image(root: Path) -> None:
    picture(0).save(root / "train" / "stray.PNG")


def no_test(root: Path) -> None:
    shutil.rmtree(root / "test")


def other_classes(root: Path) -> None:
    (root / "test" / "cat").rename(root / "test" / "cow")


def one_class(root: Path) -> None:
    for name in CLASSES[1:]:
        shutil.rmtree(root / "train" / name)


def small_class(root: Path) -> None:
    for number in range(1, 20):
        (root / "train" / "bee" / f"{number:03}.png").unlink()


def no_classes(root: Path) -> None:
    for part in COUNTS:
        shutil.rmtree(root / part)


def loop(root: Path) -> None:
    (root / "train" / "ant" / "again").symlink_to(root / "train" / "ant")


def linked_class(root: Path) -> None:
    (root / "train" / "fly").symlink_to(root / "train" / "ant")


def linked_test(root: Path) -> None:
    shutil.rmtree(root / "test")
    (root / "test").symlink_to(root / "train")


def capitals(root: Path) -> None:
    for part in COUNTS:
        (root / part).rename(root / part.capitalize())


def pipe(root: Path) -> None:
    os.mkfifo(root / "train" / "ant" / "pipe.png")


FAULTS: dict[str, tuple[Callable[[Path], None], type[Exception], str]] = {
    "empty class": (empty_class, ValueError, r"classes without images in .*train: dog"),
    "loose image": (loose_image, ValueError, r"images must be in the folder of a class, got stray\.PNG"),
    "no test": (no_test, FileNotFoundError, "has the folder train alone: it must have both train and test"),
    "other classes": (other_classes, ValueError, "train and test in .* differ in the classes cat, cow"),
    "one class": (one_class, ValueError, "has only the class ant"),
    "small class": (small_class, ValueError, r"too few images to set aside 0\.1 of them: bee \(1\); add images"),
    "loop of links": (loop, ValueError, r"again is the folder .*ant again, by a link"),
    "class linked twice": (linked_class, ValueError, r"fly is the folder .*ant again, by a link"),
    "test is train": (linked_test, ValueError, "train and test in .* share a folder through a link"),
    "capitals": (capitals, ValueError, "must be spelt train and test, got Test, Train"),
    "pipe": (pipe, ValueError, r"pipe\.png cannot be read as an image .*it is not a regular file"),
    "no classes": (no_classes, FileNotFoundError, "must have a folder of images for each class"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tree_that_does_not_fit_is_refused(trees: Path, fault: str) -> None:
    plant, kind, message = FAULTS[fault]
    plant(trees)
    with pytest.raises(kind, match=message):
        module(trees).setup("test" if fault in ("other classes", "test is train") else "fit")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError,
        match=f"looked for in {tmp_path / 'nowhere'}, which is no folder: .*data.data_dir=",
    ):
        module(tmp_path / "nowhere").setup("fit")


def test_images_that_do_not_fit_into_memory_are_refused(trees: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lipnet.data.trees.physical_memory", lambda: 10_000)
    with pytest.raises(ValueError, match=r"read them from the files with data\.loader=workers"):
        module(trees, loader="memory").setup("test")
    module(trees, loader="workers").setup("test")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 0}, "image_size must be an integer from 1 to 4096, got 0"),
        ({"image_size": 10**9}, "got 1000000000"),
        ({"image_size": 64.0}, r"got 64\.0"),
        ({"in_channels": 2}, r"in_channels must be 1 \(greyscale\) or 3 \(RGB\), got 2"),
        ({"test_fraction": 1.0}, "test_fraction must lie strictly between 0 and 1"),
        ({"test_seed": -1}, "test_seed must be an integer from 0 to"),
    ],
)
def test_arguments_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(Path("somewhere"), **settings)


def test_extra_images_need_those_in_memory(trees: Path, tmp_path: Path) -> None:
    extra = np.zeros((4, 12, 12, 3), dtype=np.uint8)
    np.savez(tmp_path / "extra.npz", image=extra, label=np.zeros(4, dtype=np.int64))
    data = module(trees, loader="workers", extra=NpzImages(tmp_path / "extra.npz", 0.5))
    with pytest.raises(ValueError, match=r"use data\.loader=memory"):
        data.training_dataset()
    assert len(module(trees, loader="memory", extra=NpzImages(tmp_path / "extra.npz", 0.5)).training_dataset()) == 58


def test_the_description_changes_with_the_files_that_the_split_is_chosen_from(single: Path) -> None:
    before = module(single)
    description, behind = before.description(), before.settings_behind("test")
    names = {"image_size", "in_channels", "classes", "test_fraction", "test_seed", "test_folder"}
    assert names | {"files_sha256", "contents_sha256"} == set(behind)
    assert description["classes"] == list(CLASSES)
    picture(0).save(single / "ant" / "new.png")
    assert module(single).description()["files_sha256"] != description["files_sha256"]


def test_with_a_folder_of_test_images_new_training_images_do_not_matter_to_the_test(trees: Path) -> None:
    assert not {"files_sha256", "contents_sha256"} & set(module(trees).settings_behind("test"))
    assert {"files_sha256", "contents_sha256", "seed"} <= set(module(trees).settings_behind("validation"))


@pytest.mark.parametrize("name", ["loose.jfif", "loose.jpe", "no_suffix", "loose.data", "damaged.avif"])
def test_images_beside_the_classes_are_refused_by_suffix_or_header(name: str, trees: Path) -> None:
    content = b"damaged" if name == "damaged.avif" else (trees / "train" / "ant" / "000.png").read_bytes()
    (trees / "train" / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"images must be in the folder of a class, got {name}"):
        scan_tree(trees / "train")


def test_hidden_images_and_other_files_beside_the_classes_are_left_out(trees: Path, recwarn: Any) -> None:
    for folder in (trees, trees / "train"):
        picture(0).save(folder / ".hidden.png")
        (folder / ".cache").mkdir()
        (folder / "labels.csv").write_text("P1,ant\n")
        (folder / "README").write_text("about these images")
    assert module(trees).classes == list(CLASSES)
    assert not recwarn.list


def test_a_link_beside_the_classes_that_leads_nowhere_is_refused(trees: Path) -> None:
    (trees / "train" / "dog").symlink_to(trees / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"links in .*train lead nowhere: dog; repair or remove them"):
        scan_tree(trees / "train")


def test_a_folder_that_cannot_be_read_is_an_error(trees: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir, closed = os.scandir, trees / "train" / "ant" / "closed"
    write_class(closed, 2, 0)

    def refusing(path: Any) -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError, match="ant/closed"):
        scan_tree(trees / "train")


def test_folders_and_images_beside_train_and_test_are_warned_of(trees: Path) -> None:
    write_class(trees / "val" / "ant", 1, 0)
    write_class(trees / "dog", 1, 0)
    picture(0).save(trees / "loose.png")
    picture(0).save(trees / "no_suffix", format="JPEG")
    with pytest.warns(
        UserWarning, match=r"only the folders train and test .*left out: dog, loose\.png, no_suffix, val$"
    ):
        assert module(trees).classes == list(CLASSES)


def test_classes_whose_names_look_the_same_are_refused(single: Path) -> None:
    for form in ("NFC", "NFD"):
        write_class(single / unicodedata.normalize(form, "caf\u00e9"), 20, 7)
    with pytest.raises(ValueError, match=r"look the same, .* Unicode form: 'cafe\\u0301', 'caf\\xe9'; merge or rename"):
        scan_tree(single)


@pytest.mark.parametrize("name", ["Cat", "cat ", "CAT"])
def test_classes_that_only_differ_in_case_or_spaces_are_warned_of(name: str, single: Path) -> None:
    write_class(single / name, 20, 7)
    with pytest.warns(UserWarning, match="only differ in case or spaces: .*'cat.*; each folder is a class of its own"):
        assert set(scan_tree(single).classes) == {*CLASSES, name}


def flipped(content: bytes) -> bytes:
    """Change a chunk of a PNG file that Pillow does not need for the pixels."""
    place = content.index(b"tEXt") + 6
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [lambda content: content[:-20], lambda content: content[:-12], flipped])
@pytest.mark.parametrize("loader", ["memory", "workers"])
def test_checksums_and_the_end_of_png_files_are_checked(
    loader: str, damage: Callable[[bytes], bytes], trees: Path
) -> None:
    path = trees / "test" / "bee" / "001.png"
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "some text")
    picture(0).save(path, pnginfo=text)
    good = path.read_bytes()
    decode_fitted(path, 12, 3)
    path.write_bytes(damage(good))
    with pytest.raises(ValueError, match=r"bee/001\.png cannot be read as an image"):
        batches(module(trees, loader=loader).test_dataloader())
    with pytest.raises(ValueError, match=r"bee/001\.png cannot be read as an image"):
        decode_exact(path, (12, 12), "RGB")


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "WEBP", "PPM"])
def test_truncated_files_of_other_formats_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    picture(0).save(path, format=kind)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="cannot be read as an image"):
        decode_fitted(path, 12, 3)


def test_pillow_must_not_decode_truncated_files(trees: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match="LOAD_TRUNCATED_IMAGES must be False, got True"):
        module(trees, loader="memory").evaluation_dataset("test")


def test_unicode_and_spaces_in_names_survive(tmp_path: Path) -> None:
    write_class(tmp_path / "élan d'hiver", 3, 0)
    tree = scan_tree(tmp_path)
    assert tree.classes == ("élan d'hiver",)
    assert all(tree.path(number).is_file() for number in range(3))


def test_a_network_names_the_sizes_that_fit_its_stages() -> None:
    with pytest.raises(ValueError, match=r"got 50: images of 32 or 64 fit; stages=1 fit 50"):
        LipConvNet(3, image_size=50)
    with pytest.raises(ValueError, match=r"got 7: images of 32 fit$"):
        LipConvNet(3, image_size=7)


def test_test_images_that_are_copies_of_training_images_are_warned_of(trees: Path, recwarn: Any) -> None:
    module(trees).evaluation_dataset("test")
    assert not recwarn.list
    original, copy = (next((trees / part).glob("*/*")) for part in ("train", "test"))
    shutil.copy(original, copy)
    with pytest.warns(UserWarning, match=f"1 of .* are copies of training images, such as {copy} of {original}: accur"):
        module(trees).evaluation_dataset("test")


def test_copies_within_one_tree_are_warned_of_where_the_split_separates_them(single: Path) -> None:
    for folder in single.iterdir():
        first, *others = folder.iterdir()
        for other in others:
            shutil.copy(first, other.with_suffix(first.suffix))
    with pytest.warns(UserWarning, match="test images are copies of training images"):
        module(single).evaluation_dataset("test")


@pytest.mark.slow
def test_ten_thousand_images_load_in_seconds(tmp_path: Path) -> None:
    for label in range(10):
        folder = tmp_path / str(label)
        folder.mkdir()
        picture(label, 64, 64).save(folder / "0.jpg")
        for number in range(1, 1000):
            shutil.copy(folder / "0.jpg", folder / f"{number}.jpg")
    data = module(tmp_path, image_size=64, loader="memory")
    assert len(data.training_dataset()) == 7200
    assert data.evaluation_dataset("test").source.images.shape == (2000, 3, 64, 64)


def test_which_trainings_may_have_seen_the_images(trees: Path) -> None:
    base = module(trees)
    assert base.unseen_by(module(trees).description())
    assert not base.unseen_by(module(trees, seed=1).description())
    assert not base.unseen_by(module(trees / "train").description())  # the same files, split in another way
    other = module(trees, seed=1).description() | {"files_sha256": "of another folder"}
    with pytest.warns(UserWarning, match=f"trained on other files of the same classes: images in {trees} that were"):
        assert base.unseen_by(other)
    assert base.unseen_by(other | {"classes": ["other", "classes"]})
    assert not base.unseen_by(module(trees).description() | {"contents_sha256": "of some other images"})
    assert base.unseen_by({"name": "digits", "seed": 1})
    single = module(trees / "train")
    assert single.unseen_by(module(trees / "train").description())
    assert not single.unseen_by(module(trees / "train", test_seed=1).description())
