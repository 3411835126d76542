"""Tiny ImageNet in its official layout."""

import os
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
from torchvision.datasets.utils import download_and_extract_archive

from lipnet.data.checks import few
from lipnet.data.fingerprint import CONTENTS, fingerprint
from lipnet.data.images import LabelledImages
from lipnet.data.loaders import LOADERS
from lipnet.data.official import OfficialFiles
from lipnet.data.spec import TINY_IMAGENET_SPEC
from lipnet.data.trees import ImageTree, read_tree, scan_tree

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
FOLDER, WNIDS, WORDS, ANNOTATIONS = "tiny-imagenet-200", "wnids.txt", "words.txt", "val/val_annotations.txt"


class TinyImageNetDataModule(OfficialFiles):
    """Tiny ImageNet from the folder ``tiny-imagenet-200``; arguments as for :class:`OfficialFiles`.

    The 10000 official validation images are the test images, because the official test images have no labels. Labels
    are positions in the sorted WordNet identifiers. Training indices are positions among the files, sorted by class and
    name; test indices are lines of ``val_annotations.txt``. The loader "workers" decodes images whenever they are used.
    """

    spec = TINY_IMAGENET_SPEC
    usual_crop_padding = 8
    usual_flip = True
    checkpoint_facts = (CONTENTS,)
    training_per_class: ClassVar[int] = 500
    test_per_class: ClassVar[int] = 50

    @property
    def folder(self) -> Path:
        """The official folder."""
        return self.data_dir / FOLDER

    def prepare_data(self) -> None:
        """Fetch the official archive if ``download`` is set and its folder is missing.

        Raises:
            FileNotFoundError: the folder lacks files: a download replaces no folder that holds some.
        """
        if not self.download:
            return
        # Look before the next check: another process may put the whole folder in place between them.
        begun = self.folder.is_dir() and any(self.folder.iterdir())
        missing = self.missing_files(self.folder, [WNIDS, WORDS, ANNOTATIONS])
        if not missing:
            return
        if begun:
            raise FileNotFoundError(
                f"{self.folder} lacks {', '.join(missing)}: remove the folder, and let data.download=true fetch it as "
                "a whole"
            )
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self.data_dir, prefix=".download-") as unpacked:
            download_and_extract_archive(URL, unpacked, md5=MD5)
            try:
                os.replace(Path(unpacked, FOLDER), self.folder)
            except OSError:
                # Another process may have put it in place meanwhile: a folder with files cannot be replaced.
                if self.missing_files(self.folder, [WNIDS, WORDS, ANNOTATIONS]):
                    raise

    @cached_property
    def wnids(self) -> list[str]:
        """The WordNet identifiers of the classes, sorted.

        Raises:
            FileNotFoundError: official files are missing.
            OSError: ``wnids.txt`` does not name 200 classes.
        """
        self.check_present(self.folder, [WNIDS, WORDS, ANNOTATIONS])
        wnids = sorted({*(self.folder / WNIDS).read_text().split()})
        if len(wnids) != self.num_classes:
            raise self.damaged(self.folder / WNIDS)
        return wnids

    def facts(self) -> dict[str, Any]:
        """Return the names of the classes: for each, the first name in ``words.txt``."""
        lines = (line.split("\t") for line in (self.folder / WORDS).read_text().splitlines())
        names = {line[0]: line[-1].split(",")[0] for line in lines}
        return {"classes": [names.get(wnid, wnid) for wnid in self.wnids]}

    def read_images(self, train: bool) -> LabelledImages:
        """Read the 100000 training images or the 10000 official validation images.

        Raises:
            FileNotFoundError: official files are missing.
            OSError: the folders do not match the 200 classes, classes have more or fewer images than the official ones,
                or the annotations cannot be read.
            ValueError: images cannot be read; the message names them.
        """
        tree = self._training_tree if train else self._test_tree()
        in_memory = not LOADERS[self.loader].uses_workers
        return read_tree(
            tree, torch.arange(len(tree.labels)), self.spec.image_size, self.spec.in_channels, in_memory=in_memory
        )

    @cached_property
    def contents_sha256(self) -> str:
        """The fingerprint of the training files, from which the validation images are chosen."""
        self.prepare_alone()
        return fingerprint(self._training_tree)

    def settings_behind(self, split: str) -> tuple[str, ...]:
        settings = super().settings_behind(split)
        return (*settings, CONTENTS) if split == "validation" else settings

    @cached_property
    def _training_tree(self) -> ImageTree:
        wnids = self.wnids
        # Beside the images, each class has a file of bounding boxes.
        tree = scan_tree(self.folder / "train", skipped=("_boxes.txt",))
        if list(tree.classes) != wnids:
            differing = sorted({*tree.classes} ^ {*wnids})
            raise OSError(f"{tree.root} does not have the official classes: {few(differing)} differ")
        counts = zip(wnids, tree.labels.bincount().tolist(), strict=True)
        wrong = [f"{name} ({count})" for name, count in counts if count != self.training_per_class]
        if wrong:
            raise OSError(
                f"classes in {tree.root} must have {self.training_per_class} images each, got {few(wrong)}: copy "
                f"{FOLDER} again, or remove it and let data.download=true fetch it"
            )
        return tree

    def _test_tree(self) -> ImageTree:
        labels = {wnid: label for label, wnid in enumerate(self.wnids)}
        lines = [line.split("\t") for line in (self.folder / ANNOTATIONS).read_text().splitlines()]
        if any(len(line) < 2 or line[1] not in labels or "/" in line[0] for line in lines):
            raise self.damaged(self.folder / ANNOTATIONS)
        found = torch.tensor([labels[line[1]] for line in lines], dtype=torch.int64)
        counts = found.bincount(minlength=len(labels))
        if len({line[0] for line in lines}) < len(lines) or not bool((counts == self.test_per_class).all()):
            raise self.damaged(self.folder / ANNOTATIONS)
        files = np.array([os.fsencode(line[0]) for line in lines])
        return ImageTree(self.folder / "val" / "images", tuple(labels), files, found)
