"""Your own images, from a tree with a folder for each class."""

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lipnet.data.base import ImageDataModule
from lipnet.data.checks import check_fraction, check_seed, few
from lipnet.data.copies import copies
from lipnet.data.decoding import is_image
from lipnet.data.fingerprint import CONTENTS, fingerprint
from lipnet.data.images import LabelledImages
from lipnet.data.loaders import LOADERS
from lipnet.data.spec import DatasetSpec
from lipnet.data.splits import stratified_split
from lipnet.data.trees import ImageTree, measure, read_tree, scan_tree, visible_entries
from lipnet.files import resolve_path

TRAIN, TEST = "train", "test"
LARGEST_SIZE = 4096
MOST_COMPARED = 50_000
"""Largest number of files that are searched for copies; in larger trees it would take minutes."""


class FolderDataModule(ImageDataModule):
    """Your own images; see :class:`lipnet.data.ImageDataModule` for other arguments.

    ``data_dir`` holds either the folders ``train`` and ``test``, each with one folder of images per class, or the
    folders of the classes themselves. In the second case, a fixed part of each class becomes the test images. Every
    image is resized and cropped to its centred square. The loader "memory" decodes all images once. The loader
    "workers" decodes them in worker processes whenever they are used, so that datasets of any size fit.

    Mean and std are measured on the training images. The index of an image is its position in the list of files, sorted
    by class and name: the files of ``train`` or of ``test``, or of the whole tree if there are no such folders. For at
    most 50,000 images, a warning tells if test images are byte-for-byte copies of training images.

    Args:
        data_dir: the folder.
        image_size: height and width that images are resized to, at most 4096.
        in_channels: 3 for RGB, 1 for greyscale.
        test_fraction: fraction of each class that becomes the test images, if there is no folder ``test``.
        test_seed: seed for the choice of test images; the ``seed`` of a run does not change them.
        settings: further arguments of :class:`lipnet.data.ImageDataModule`.

    Raises:
        ValueError: an argument is outside its range.

    Example:
        >>> data = FolderDataModule(data_dir="photographs", image_size=64, batch_size=32)
        >>> data.image_size
        64
    """

    usual_crop_padding = 4
    usual_flip = True
    checkpoint_settings: ClassVar[tuple[str, ...]] = (
        *ImageDataModule.checkpoint_settings,
        "image_size",
        "in_channels",
        "test_fraction",
        "test_seed",
    )
    checkpoint_facts = ("classes", "files_sha256", CONTENTS, "test_folder")

    def __init__(
        self,
        *,
        data_dir: str | Path,
        image_size: int = 64,
        in_channels: int = 3,
        test_fraction: float = 0.2,
        test_seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if not isinstance(image_size, int) or not 1 <= image_size <= LARGEST_SIZE:
            raise ValueError(f"image_size must be an integer from 1 to {LARGEST_SIZE}, got {image_size!r}")
        if in_channels not in (1, 3):
            raise ValueError(f"in_channels must be 1 (greyscale) or 3 (RGB), got {in_channels!r}")
        check_fraction("test_fraction", test_fraction)
        check_seed("test_seed", test_seed)
        self.data_dir = resolve_path(data_dir)
        self.image_size, self.in_channels = image_size, in_channels
        self.test_fraction, self.test_seed = float(test_fraction), test_seed

    @property
    def dataset_name(self) -> str:
        return "folder"

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def classes(self) -> list[str]:
        """The names of the classes: the names of their folders, sorted. A label is an index into them."""
        return list(self._training_tree.classes)

    @cached_property
    def files_sha256(self) -> str:
        """The SHA-256 of the names of the files from which the validation images are chosen.

        Without a folder ``test``, the test images are chosen from them, too. Other names lead to another choice.
        """
        return sha256(b"\0".join(self._training_tree.files.tolist())).hexdigest()

    @cached_property
    def contents_sha256(self) -> str:
        """The fingerprint of the names, sizes and contents of the same files; the first access reads them.

        The same names may be those of other images, as after photographs were numbered anew.
        """
        return fingerprint(self._training_tree)

    def settings_behind(self, split: str) -> tuple[str, ...]:
        chosen = () if self.test_folder else ("test_fraction", "test_seed", "files_sha256", CONTENTS)
        if split == "validation":
            chosen = (*chosen, "files_sha256", CONTENTS, *super().settings_behind(split))
        return ("image_size", "in_channels", "classes", *dict.fromkeys(chosen), "test_folder")

    def unseen_by(self, description: Mapping[str, Any]) -> bool:
        # Files with other names count as another folder of other images. If the names are the same, perhaps only some
        # contents have changed.
        if description.get("files_sha256") == self.files_sha256:
            return super().unseen_by(description)
        if description.get("classes") == self.classes:
            warnings.warn(
                f"the network to start from was trained on other files of the same classes: images in {self.data_dir} "
                "that were among them may be validation or test images now",
                stacklevel=2,
            )
        return True

    @cached_property
    def spec(self) -> DatasetSpec:  # type: ignore[override]
        """The sizes of the data, and mean and std of the training images. The first access reads these images."""
        mean, std = measure(self._training_images.images)
        if not std > 0:
            raise ValueError(f"the training images in {self.data_dir} all have one colour: there is nothing to learn")
        return DatasetSpec(
            self.dataset_name, self.num_classes, self.in_channels, self.image_size, mean, std, tuple(self.classes)
        )

    def facts(self) -> dict[str, Any]:
        return {"classes": self.classes}

    def read_images(self, train: bool) -> LabelledImages:
        """Read the training images or the test images.

        Raises:
            FileNotFoundError: the folder does not exist, or has no folders of classes.
            ValueError: a class has no images, the classes of ``train`` and ``test`` differ, or a file cannot be read.
        """
        tree = self._training_tree if train else self._test_tree
        positions = torch.arange(len(tree.labels)) if self.test_folder else self._split[0 if train else 1]
        in_memory = not LOADERS[self.loader].uses_workers
        images = read_tree(tree, positions, self.image_size, self.in_channels, in_memory=in_memory)
        # Only after reading, which refuses pipes and devices: a search would read these without end.
        if not train:
            self._warn_of_copies(positions)
        return images

    def _warn_of_copies(self, test: Tensor) -> None:
        """Warn if test images are copies of training images: radii hold, but accuracies are too high."""
        training = torch.arange(len(self._training_tree.labels)) if self.test_folder else self._split[0]
        if len(training) + len(test) > MOST_COMPARED:
            return
        found = copies(map(self._training_tree.path, training.tolist()), map(self._test_tree.path, test.tolist()))
        if found:
            original, copy = found[0]
            warnings.warn(
                f"{len(found)} of {len(test)} test images are copies of training images, such as {copy} of {original}: "
                "accuracies on them say little about new images",
                stacklevel=2,
            )

    @cached_property
    def test_folder(self) -> bool:
        """Presence of folders ``train`` and ``test``, rather than one tree.

        The same files, read as the other kind of tree, have test images that the training may have seen.
        """
        found = [name for name in (TRAIN, TEST) if (self.data_dir / name).is_dir()]
        if len(found) == 1:
            raise FileNotFoundError(
                f"{self.data_dir} has the folder {found[0]} alone: it must have both {TRAIN} and {TEST}, or only the "
                "folders of the classes"
            )
        others = visible_entries(self.data_dir) if self.data_dir.is_dir() else []
        others = [entry for entry in others if entry.name not in (TRAIN, TEST)]
        misspelt = [entry.name for entry in others if entry.name.lower() in (TRAIN, TEST)]
        if misspelt:
            raise ValueError(
                f"folders must be spelt {TRAIN} and {TEST}, got {few(misspelt)} in {self.data_dir}: rename them, even "
                "if they are classes"
            )
        if found:
            self._warn_of_unread(others)
        return bool(found)

    def _warn_of_unread(self, others: Sequence[Path]) -> None:
        """Warn of folders and images beside the folders ``train`` and ``test``."""
        unread = [entry.name for entry in others if not entry.is_file() or is_image(entry)]
        if unread:
            warnings.warn(
                f"only the folders {TRAIN} and {TEST} in {self.data_dir} are read; left out: {few(unread)}",
                stacklevel=2,
            )

    @cached_property
    def _training_tree(self) -> ImageTree:
        tree = scan_tree(self.data_dir / TRAIN if self.test_folder else self.data_dir)
        if len(tree.classes) < 2:
            raise ValueError(f"{tree.root} has only the class {tree.classes[0]}: at least two are needed")
        self._check_counts(tree)
        return tree

    def _check_counts(self, tree: ImageTree) -> None:
        """Check that each class has images for all splits."""
        fractions = [self.validation_fraction] if self.test_folder else [self.test_fraction, self.validation_fraction]
        counts = zip(tree.classes, tree.labels.bincount().tolist(), strict=True)
        small = [f"{name} ({count})" for name, count in counts if not _is_splittable(count, fractions)]
        if small:
            raise ValueError(
                f"classes in {tree.root} with too few images to set aside {' and then '.join(map(str, fractions))} of "
                f"them: {few(small)}; add images, or change data.validation_fraction or data.test_fraction"
            )

    @cached_property
    def _test_tree(self) -> ImageTree:
        if not self.test_folder:
            return self._training_tree
        tree = scan_tree(self.data_dir / TEST)
        if tree.classes != self._training_tree.classes:
            differing = sorted({*tree.classes} ^ {*self._training_tree.classes})
            raise ValueError(f"{TRAIN} and {TEST} in {self.data_dir} differ in the classes {few(differing)}")
        if tree.folders & self._training_tree.folders:
            raise ValueError(
                f"{TRAIN} and {TEST} in {self.data_dir} share a folder through a link: the network would be tested on "
                "its training images"
            )
        return tree

    @cached_property
    def _split(self) -> tuple[Tensor, Tensor]:
        training, test = stratified_split(self._training_tree.labels.numpy(), self.test_fraction, self.test_seed)
        return torch.from_numpy(training), torch.from_numpy(test)


def _is_splittable(count: int, fractions: Sequence[float]) -> bool:
    """Tell whether both parts of a class keep images when `stratified_split` sets aside each fraction in turn."""
    for fraction in fractions:
        aside = round(fraction * count)
        if not 0 < aside < count:
            return False
        count -= aside
    return True
