"""Trees of image files with a folder for each class: find the files, decode them, and measure mean and std."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from lipnet.data.checks import few
from lipnet.data.class_names import check_class_names
from lipnet.data.decoding import check_header, decode_fitted, is_image
from lipnet.data.images import ImageBytes, LabelledImages

# Files that file managers leave behind; hidden files, such as .DS_Store, are skipped, too.
_CLUTTER = ("Thumbs.db", "desktop.ini")
# Mean and std are measured on at most this many images, evenly spaced. Their relative error is then below one per cent.
_MEASURED = 10_000
_CHUNK = 1024
# Pixels whose squares are summed at once.
_PIXELS = 2**22


@dataclass(frozen=True, eq=False)
class ImageTree:
    """The files of a tree with a folder for each class.

    Attributes:
        root: the folder that contains the folders of the classes.
        classes: names of the classes, sorted; a label is a position in them.
        files: paths relative to ``root``, as bytes in one array, (N,). They are sorted by class, then by name.
        labels: int64 (N,).
        folders: device and inode of every folder in the tree, which are the same through any link.
    """

    root: Path
    classes: tuple[str, ...]
    files: npt.NDArray[np.bytes_]
    labels: Tensor
    folders: frozenset[tuple[int, int]] = frozenset()

    def path(self, position: int) -> Path:
        """Return the absolute path of a file."""
        return self.root / os.fsdecode(self.files[position])


def scan_tree(root: Path, skipped: tuple[str, ...] = ()) -> ImageTree:
    """Find the files of each class; none of them is opened.

    Folders within the folder of a class belong to the class. Hidden files and the clutter of file managers are skipped.

    Args:
        root: the folder that contains the folders of the classes.
        skipped: ends of the names of further files to skip.

    Raises:
        FileNotFoundError: there is no such folder, or no folder of a class in it, or a link in it leads nowhere.
        ValueError: a class has no files, there are images outside the folders of the classes, two classes have names
            that look the same, or a link leads to a folder of the tree, whose images would count twice.
    """
    folders = _class_folders(root)
    check_class_names(root, [folder.name for folder in folders])
    seen = {_device_and_inode(root): root}
    found = [sorted(_files_in(folder, root, skipped, seen)) for folder in folders]
    empty = [folder.name for folder, files in zip(folders, found, strict=True) if not files]
    if empty:
        raise ValueError(f"classes without images in {root}: {few(empty)}; add images, or remove their folders")
    labels = np.repeat(np.arange(len(folders)), [len(files) for files in found])
    return ImageTree(
        root,
        tuple(folder.name for folder in folders),
        np.array([os.fsencode(name) for files in found for name in files]),
        torch.from_numpy(labels),
        frozenset(seen),
    )


def visible_entries(folder: Path) -> list[Path]:
    """Return the files and folders in a folder, sorted, without hidden ones."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _class_folders(root: Path) -> list[Path]:
    """Return the folders of the classes; errors as for `scan_tree`."""
    if not root.is_dir():
        raise FileNotFoundError(
            f"images were looked for in {root}, which is no folder: name their folder with data.data_dir=..."
        )
    entries = visible_entries(root)
    broken = [entry.name for entry in entries if not entry.exists()]
    if broken:
        raise FileNotFoundError(f"links in {root} lead nowhere: {few(broken)}; repair or remove them")
    folders = [entry for entry in entries if entry.is_dir()]
    if not folders:
        raise FileNotFoundError(f"{root} has no folders: it must have a folder of images for each class")
    loose = [entry.name for entry in entries if not entry.is_dir() and is_image(entry)]
    if loose:
        raise ValueError(f"images must be in the folder of a class, got {few(loose)} in {root}: move them into one")
    return folders


def _device_and_inode(folder: str | Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _files_in(folder: Path, root: Path, skipped: tuple[str, ...], seen: dict[tuple[int, int], Path]) -> Iterator[str]:
    """Yield the paths of a class's files, relative to ``root``; enter each folder in ``seen``, and refuse it twice."""
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        before = seen.setdefault(_device_and_inode(place), Path(place))
        if before != Path(place):
            raise ValueError(f"{place} is the folder {before} again, by a link: its images would count twice")
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and not name.endswith((*_CLUTTER, *skipped)):
                yield Path(place, name).relative_to(root).as_posix()


def _refuse(error: OSError) -> None:
    """Raise the error of a folder that cannot be read, which `os.walk` would leave out."""
    raise error


class StreamedImages:
    """Image files of a tree that are decoded each time they are indexed, as uint8 (N, C, S, S).

    Args:
        tree: the files.
        positions: positions in ``tree`` of the N images.
        size: S; images are resized and cropped to a centred square.
        channels: C, 1 or 3.
    """

    dtype = torch.uint8
    ndim = 4
    device = torch.device("cpu")

    def __init__(self, tree: ImageTree, positions: Tensor, size: int, channels: int) -> None:
        self.tree, self.positions = tree, positions
        self.shape = (len(positions), channels, size, size)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, positions: Tensor) -> Tensor:
        """Return the images at these positions.

        Raises:
            ValueError: a file cannot be read; the message names it.
        """
        images = torch.empty(len(positions), *self.shape[1:], dtype=torch.uint8)

        def fill(place: int) -> None:
            images[place] = self._decode(int(positions[place]))

        # Worker processes share the cores already; the main process decodes in threads.
        if get_worker_info() is not None:
            for place in range(len(positions)):
                fill(place)
        else:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(fill, range(len(positions))))
        return images

    def check_headers(self) -> None:
        """Raise one ValueError that names the files without the header of an image."""
        for_each(lambda position: check_header(self._path(position)), len(self), self.tree.root)

    def in_memory(self) -> Tensor:
        """Decode all images at once, uint8 (N, C, S, S).

        Raises:
            ValueError: files cannot be read, or the images would take more than half of the machine's memory.
        """
        needed, memory = prod(self.shape), physical_memory()
        if needed > memory // 2:
            raise ValueError(
                f"{len(self):,} images of {self.shape[2]} x {self.shape[3]} take {needed / 2**30:.1f} GiB, and the "
                f"machine has {memory / 2**30:.1f} GiB: read them from the files with data.loader=workers"
            )
        images = torch.empty(self.shape, dtype=torch.uint8)
        for_each(lambda position: images[position].copy_(self._decode(position)), len(self), self.tree.root)
        return images

    def _path(self, position: int) -> Path:
        return self.tree.path(int(self.positions[position]))

    def _decode(self, position: int) -> Tensor:
        _, channels, size, _ = self.shape
        return torch.from_numpy(decode_fitted(self._path(position), size, channels).copy())


def read_tree(tree: ImageTree, positions: Tensor, size: int, channels: int, *, in_memory: bool) -> LabelledImages:
    """Read images of a tree; their indices are their positions in it.

    Args:
        tree: the files.
        positions: int64 (N,), positions in ``tree``.
        size: height and width of the results.
        channels: 1 or 3.
        in_memory: decode all images now. Otherwise read only the headers now, and decode images when they are indexed.

    Raises:
        ValueError: files cannot be read; the message names them.
    """
    streamed = StreamedImages(tree, positions, size, channels)
    if not in_memory:
        streamed.check_headers()
    images = streamed.in_memory() if in_memory else streamed
    return LabelledImages(images, tree.labels[positions], positions, maximum=255)


def measure(images: ImageBytes) -> tuple[tuple[float, ...], float]:
    """Return the mean of each channel and one std for all, of bytes 0..255 scaled to [0, 1].

    Args:
        images: uint8 (N, C, H, W), or `StreamedImages`. Of more than 10,000, only 10,000 are measured, evenly spaced.
    """
    count = min(len(images), _MEASURED)
    positions = torch.arange(count) * len(images) // count
    sums, squares, pixels = torch.zeros(images.shape[1]).double(), torch.zeros(images.shape[1]).double(), 0
    for part in torch.split(positions, max(1, _PIXELS // prod(images.shape[1:]))):
        values = images[part].long().transpose(0, 1).flatten(1)
        # Sums of bytes are exact in int64.
        sums += values.sum(dim=1)
        squares += (values * values).sum(dim=1)
        pixels += values.shape[1]
    mean = sums / pixels
    variance = (squares / pixels - mean**2).mean()
    return tuple((mean / 255).tolist()), float(variance.clamp_min(0).sqrt() / 255)


def for_each(function: Callable[[int], object], count: int, root: Path) -> None:
    """Call a function with each position below ``count``, in threads; raise one ValueError for all that failed."""
    errors: list[str] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # Chunks bound the number of calls that wait.
        for start in range(0, count, _CHUNK):
            found = pool.map(partial(_error_of, function), range(start, min(start + _CHUNK, count)))
            errors += [error for error in found if error is not None]
    if errors:
        raise ValueError(
            f"{len(errors):,} of {count:,} files in {root} cannot be used, repair or remove them: {few(errors, '; ')}"
        )


def _error_of(function: Callable[[int], object], position: int) -> str | None:
    """Return the message of the ValueError that a call raises, or None."""
    try:
        function(position)
    except ValueError as error:
        return str(error)
    return None


def physical_memory() -> int:
    """Return the machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
