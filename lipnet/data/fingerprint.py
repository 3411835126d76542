"""Fingerprint of image files, by which a certification recognises the files of the training."""

import warnings
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from lipnet.data.decoding import UNREADABLE, check_regular, unreadable
from lipnet.data.trees import ImageTree, for_each

CONTENTS = "contents_sha256"
"""Entry of a data description with the fingerprint of files. Checkpoints of earlier versions lack it."""
# The whole content of photographs would take minutes for large trees. A part costs about as much as the header.
_PART = 2**14


def fingerprint(tree: ImageTree) -> str:
    """Return the SHA-256 of the names, sizes and contents of all files of a tree, in their order.

    Files of at most 48 KiB are read as a whole; of larger ones, the first, the middle and the last 16 KiB are read.

    Raises:
        ValueError: files cannot be read; the message names them.
    """
    digests = [b""] * len(tree.files)

    def read(position: int) -> None:
        digests[position] = _digest(tree.path(position))

    for_each(read, len(digests), tree.root)
    whole = sha256()
    for name, digest in zip(tree.files.tolist(), digests, strict=True):
        whole.update(name + b"\0" + digest)
    return whole.hexdigest()


def _digest(path: Path) -> bytes:
    """Return the SHA-256 of the size and of parts of the content of a file."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            size = path.stat().st_size
            part = _PART if size > 3 * _PART else size
            digest = sha256(f"{size} ".encode())
            for start in dict.fromkeys((0, (size - part) // 2, size - part)):
                file.seek(start)
                digest.update(file.read(part))
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    return digest.digest()


def comparable(here: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a data description that a checkpoint can be compared with.

    A checkpoint of an earlier version does not state the contents of its files. They are left out, with a warning.

    Args:
        here: entries of the description of the data.
        stated: the description of the data in the checkpoint.
    """
    if CONTENTS not in here or CONTENTS in stated:
        return dict(here)
    compared = "the names of its files, but not" if "files_sha256" in stated else "neither the names of its files nor"
    warnings.warn(
        f"the checkpoint is of an earlier version, which stated {compared} their contents: if files were exchanged "
        "since the training, images that it was trained on may be among those of validation and test",
        stacklevel=2,
    )
    return {key: value for key, value in here.items() if key != CONTENTS}
