"""Images for a report, as sprite sheets within a budget of bytes."""

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from math import ceil
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lipnet.certify.attacks.result import AttackResult

COLUMNS = 32
PER_SHEET = COLUMNS * COLUMNS
# JPEG with halved colour resolution has blocks of this size: tiles that fill whole blocks do not bleed into each other.
_BLOCK = 16
_SMALLEST = 12
# Tried in this order: at each size lossless first (None), then JPEG of these qualities.
_SCALES, _QUALITIES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125), (None, 92, 85, 75)
_ATTACKED, _ATTACKED_PIXELS = 1_000, 30_000_000


@dataclass
class AttackedImages:
    """The nearest images with another prediction that an attack found, in the order of the certificates.

    Attributes:
        pairs: images and perturbed images, (B, C, H, W) each, in batches.
        distance: L2 distance of each, infinite where the attack found none.
        prediction: the prediction of each perturbed image.
    """

    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    distance: list[float] = field(default_factory=list)
    prediction: list[int] = field(default_factory=list)

    def add(self, images: Tensor, result: AttackResult) -> None:
        """Keep the images of a batch, up to 1000 images, or about 250 MB with the perturbed ones."""
        assert result.nearest is not None
        assert result.nearest_prediction is not None
        room = min(_ATTACKED, _ATTACKED_PIXELS // images[0].numel()) - len(self.distance)
        if room > 0:
            self.pairs.append((images[:room].cpu(), result.nearest[:room]))
            self.distance += result.distance[:room].tolist()
            self.prediction += result.nearest_prediction[:room].tolist()


@dataclass(frozen=True)
class Sprites:
    """Small images in sheets of 32 x 32 tiles.

    Attributes:
        sheets: the encoded sheets.
        media_type: such as ``"image/png"``.
        width, height: size of an image in pixels.
        pitch: distance of neighbouring tiles in pixels, (x, y).
        note: the differences from the original images, such as "compressed as JPEG of quality 85"; empty for none.
    """

    sheets: Sequence[bytes]
    media_type: str
    width: int
    height: int
    pitch: tuple[int, int]
    note: str

    def layout(self) -> dict[str, Any]:
        """Return everything but the sheets themselves, as JSON values."""
        sizes = {"width": self.width, "height": self.height, "pitch": list(self.pitch), "note": self.note}
        return {"columns": COLUMNS, "perSheet": PER_SHEET, "sheets": len(self.sheets), "type": self.media_type, **sizes}

    def encoded(self) -> Iterator[str]:
        """Yield the sheets in base64."""
        for sheet in self.sheets:
            yield base64.b64encode(sheet).decode()


def sprite_sheets(batches: Iterable[Tensor], budget: int, largest: int = 96) -> Sprites:
    """Return images as sheets of at most ``budget`` bytes: lossless if they fit, else as JPEG, else smaller.

    Args:
        batches: images (B, C, H, W), pixels in [0, 1]; three or more channels are shown in colour by the first three,
            fewer in grey by the first.
        budget: bytes of all sheets together.
        largest: longest side of a tile in pixels.

    Raises:
        ValueError: for no images, and for more than fit at a side of 12 pixels.
    """
    images, shape = _small_images(batches, largest)
    for scale in _SCALES:
        height, width = (max(1, round(scale * side)) for side in images.shape[1:3])
        if scale < 1 and max(height, width) < _SMALLEST:
            break
        for quality in _QUALITIES:
            sprites = _encode(images, (height, width), quality, shape, budget)
            if sprites is not None:
                return sprites
    raise ValueError(f"{len(images)} images do not fit into {budget} bytes")


def _small_images(batches: Iterable[Tensor], largest: int) -> tuple[np.ndarray[Any, Any], tuple[int, int]]:
    """Return the images as bytes (N, H, W, 1 or 3), reduced to the largest side, and their original size."""
    parts, shape = [], (0, 0)
    for batch in batches:
        images = batch.detach().cpu().float()
        images = images[:, :3] if images.shape[1] >= 3 else images[:, :1]
        shape = (int(images.shape[2]), int(images.shape[3]))
        if max(shape) > largest:
            size = [max(1, round(side * largest / max(shape))) for side in shape]
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        parts.append((255 * images.clamp(0, 1)).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    if not parts:
        raise ValueError("a report needs at least one image, got none")
    return np.concatenate(parts), shape


def _resized(images: np.ndarray[Any, Any], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Return images (N, H, W, C) in another size (height, width)."""
    if images.shape[1:3] == size:
        return images
    maps = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    small = F.interpolate(maps, size, mode="bilinear", antialias=True)
    return np.asarray(small.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def _encode(
    images: np.ndarray[Any, Any], size: tuple[int, int], quality: int | None, shape: tuple[int, int], budget: int
) -> Sprites | None:
    """Encode all sheets with tiles of this size, as PNG if quality is None; return None if they exceed the budget."""
    height, width = size
    pitch = (width, height) if quality is None else (_BLOCK * ceil(width / _BLOCK), _BLOCK * ceil(height / _BLOCK))
    sheets: list[bytes] = []
    for first in range(0, len(images), PER_SHEET):
        buffer = BytesIO()
        tiles = _resized(images[first : first + PER_SHEET], size)
        sheet = Image.fromarray(_sheet(tiles, *pitch).squeeze())
        if quality is None:
            sheet.save(buffer, "PNG")
        else:
            sheet.save(buffer, "JPEG", quality=quality, subsampling=0 if quality > 90 else 2)
        sheets.append(buffer.getvalue())
        spent, expected = sum(map(len, sheets)), len(images) / min(len(images), first + PER_SHEET)
        # Extrapolate to all sheets: the first one already tells whether they can fit.
        if spent * expected > (budget if expected == 1 else 1.1 * budget):
            return None
    notes = [] if (height, width) == shape else [f"reduced from {shape[1]} x {shape[0]} to {width} x {height} pixels"]
    notes += [] if quality is None else [f"compressed as JPEG of quality {quality}"]
    media_type = "image/png" if quality is None else "image/jpeg"
    return Sprites(sheets, media_type, width, height, pitch, " and ".join(notes))


def _sheet(images: np.ndarray[Any, Any], pitch_x: int, pitch_y: int) -> np.ndarray[Any, Any]:
    """Return images (N, H, W, C) as one picture with 32 tiles in a row."""
    count, height, width, channels = images.shape
    rows = ceil(count / COLUMNS)
    margins = ((0, rows * COLUMNS - count), (0, pitch_y - height), (0, pitch_x - width), (0, 0))
    # Continue the edge of each tile into its margin: JPEG would smear a jump into the tile.
    padded = np.pad(images, (margins[0], *margins[1:]), mode="edge")
    tiles = padded.reshape(rows, COLUMNS, pitch_y, pitch_x, channels)
    return np.asarray(tiles.swapaxes(1, 2).reshape(rows * pitch_y, COLUMNS * pitch_x, channels))
