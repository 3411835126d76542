"""Decode image files of any size, mode and orientation to bytes of one shape."""

import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from lipnet.files import resolve_path

# Other formats are not decoded: Pillow starts an external program for some of them (Ghostscript for EPS).
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")
_DECODED = (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".ppm", ".pgm", ".pbm", ".pnm")
# A file with such a suffix is an image, damaged or not.
_SUFFIXES = (*_DECODED, ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif")
# Exceptions that Pillow raises for bytes in another format, damaged files, and images too large to decode safely.
UNREADABLE = (
    EOFError,
    KeyError,
    OSError,
    SyntaxError,
    ValueError,
    zlib.error,
    Image.DecompressionBombError,
    MemoryError,
)

Bytes = npt.NDArray[np.uint8]


def decode_exact(path: Path, size: tuple[int, int], mode: str) -> Bytes:
    """Return the pixels of an image file as bytes, after checking its width and height.

    Args:
        path: the file.
        size: the width and height that the image must have.
        mode: "RGB" or "L".

    Raises:
        ValueError: the file cannot be read, or has another size; the message names it.
    """
    try:
        with open_image(path) as image:
            # The size comes from the file's header, so that an image of another size is not decoded.
            found = image.size
            if found == size:
                return np.asarray(to_eight_bits(image).convert(mode))
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    raise ValueError(f"{path} must have {size[0]} x {size[1]} pixels, got {found[0]} x {found[1]}")


def decode_fitted(path: Path, size: int, channels: int) -> Bytes:
    """Return the largest centred square of an image file, resized: uint8 of shape (channels, size, size).

    Images are turned as their EXIF orientation says. Palettes, CMYK and greyscale are converted, 16-bit grey values are
    rounded to 8 bits, and transparent images are put on white. Of 16-bit colours, Pillow only keeps the upper 8 bits;
    with a transparent one among them, they are refused.

    Args:
        path: the file.
        size: height and width of the result.
        channels: 3 for RGB, 1 for greyscale.

    Raises:
        ValueError: the file cannot be read; the message names it.
    """
    try:
        with open_image(path) as image:
            # A JPEG file can be decoded at a fraction of its size, which saves most of the time for a photograph.
            image.draft(None, (2 * size, 2 * size))
            upright = ImageOps.exif_transpose(image)
            plain = _on_white(to_eight_bits(upright)).convert("RGB" if channels == 3 else "L")
            fitted = ImageOps.fit(plain, (size, size), Image.Resampling.BILINEAR)
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    return np.asarray(fitted).reshape(size, size, channels).transpose(2, 0, 1)


def read_image(path: str | Path, size: int, channels: int = 3) -> Tensor:
    """Read an image file as `FolderDataModule` does: float32 (channels, size, size), pixels in [0, 1].

    Args:
        path: the file: PNG, JPEG, BMP, WebP or PPM.
        size: height and width of the result, ``data.image_size`` of the training.
        channels: 3 for RGB, 1 for greyscale.

    Raises:
        ValueError: the file cannot be read; the message names it.
    """
    return torch.from_numpy(decode_fitted(resolve_path(path), size, channels).astype(np.float32)).div_(255)


def open_image(path: Path) -> Image.Image:
    """Open an image file for decoding, after checking the checksums and the end of a PNG file.

    Pillow refuses truncated files of the other formats while it decodes them. They have no checksums.

    Raises:
        RuntimeError: Pillow is set to decode truncated files.
        ValueError or another of `UNREADABLE`: the file is damaged, or no image.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES must be False, got True: truncated images would be decoded silently"
        )
    check_regular(path)
    image = Image.open(path, formats=IMAGE_FORMATS)
    if image.format != "PNG":
        return image
    # Decoding ends with the last row of pixels, whatever follows. A verified file must be opened again.
    with image:
        image.verify()
    with path.open("rb") as file:
        depth = file.read(25)[24]
    image = Image.open(path, formats=IMAGE_FORMATS)
    if "transparency" in image.info:
        _scale_transparency(image, depth)
    return image


def is_image(path: Path) -> bool:
    """Tell whether a file is an image, by its suffix or else by its header."""
    if path.suffix.lower() in _SUFFIXES:
        return True
    try:
        check_header(path)
    except ValueError:
        return False
    return True


def check_header(path: Path) -> None:
    """Raise ValueError unless a file has the header of an image; do not decode it."""
    try:
        check_regular(path)
        with Image.open(path, formats=IMAGE_FORMATS):
            pass
    except UNREADABLE as error:
        raise unreadable(path, error) from error


def check_regular(path: Path) -> None:
    """Raise ValueError for a pipe or a device, which may never end."""
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Round 16-bit grey values to 8 bits. Pillow's own conversion clips them at 255, and forgets the transparent value.

    Raises:
        ValueError: the pixels are floating-point numbers.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    rounded = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if "transparency" in image.info:
        rounded.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return rounded


def _scale_transparency(image: Image.Image, depth: int) -> None:
    """Bring the transparent value of a PNG file, which has so many bits, to 8 bits, as Pillow does with the pixels.

    Raises:
        ValueError: for 16-bit colours: Pillow drops the bits that tell the transparent one from its neighbours.
    """
    if image.mode == "RGB" and depth == 16:
        raise ValueError("16-bit colours of which one is transparent cannot be read: save it with 8 bits")
    if image.mode == "L" and depth < 8:
        image.info["transparency"] *= 255 // (2**depth - 1)


def unreadable(path: Path, error: BaseException) -> ValueError:
    """Return the error for a file that Pillow cannot read, from Pillow's own error."""
    reason = str(error) or type(error).__name__
    return ValueError(f"{path} cannot be read as an image ({', '.join(IMAGE_FORMATS)}): damaged? ({reason})")


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    pixels = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels)
