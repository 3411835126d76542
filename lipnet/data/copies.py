"""Search for test images that are copies of training images."""

from collections import defaultdict
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path


def copies(training: Iterable[Path], test: Iterable[Path]) -> list[tuple[Path, Path]]:
    """Return (training file, test file) for each test file that is a byte-for-byte copy of a training file.

    Only files of equal size are read.
    """
    by_size: defaultdict[int, list[Path]] = defaultdict(list)
    for path in training:
        by_size[path.stat().st_size].append(path)
    digests: dict[int, dict[bytes, Path]] = {}
    found = []
    for path in test:
        size = path.stat().st_size
        if size not in by_size:
            continue
        if size not in digests:
            digests[size] = {_digest(each): each for each in by_size[size]}
        original = digests[size].get(_digest(path))
        if original is not None:
            found.append((original, path))
    return found


def _digest(path: Path) -> bytes:
    return sha256(path.read_bytes()).digest()
