"""Image files to uint8 RGB tensors.

EXIF orientation is not applied: boxes are in the pixels as they are stored (PIL turns TIFF as it reads it). Alpha is
dropped, grey and palette images become RGB, 16-bit grey keeps its high byte. torchvision decodes JPEG (1.6 ms against
2.9 ms for PIL on a 640x480 photograph, one CPU thread, identical pixels); PIL reads everything else, and any JPEG that
torchvision refuses.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from detsearch.errors import DataError

try:
    from torchvision.io import ImageReadMode, decode_jpeg
except ImportError:  # deprecated in torchvision 0.29, to be removed some day; then PIL reads JPEG as well
    decode_jpeg = None

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # no format whose reader starts another program
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif")
MAX_PIXELS = 89_000_000  # above it PIL warns of a decompression bomb

_END_MARKS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    OverflowError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def decode(path: Path) -> Tensor:
    """The image as uint8 (3, H, W), RGB. DataError where the file is missing, not an image, truncated or too large."""
    with _opened(path) as image:
        if decode_jpeg is not None and image.format in ("JPEG", "MPO"):
            try:
                data = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
                pixels: Tensor = decode_jpeg(data, mode=ImageReadMode.RGB)
                return pixels
            except RuntimeError:
                pass  # PIL reads some JPEGs that torchvision does not, and says better what is wrong with the rest
        return torch.from_numpy(_rgb(image)).permute(2, 0, 1)


def probe(path: Path) -> tuple[int, int]:
    """(width, height) from the header, 20 times faster than `decode`; DataError as there.

    A file that does not end as its format demands is decoded after all, so a truncated file is found here.
    """
    with _opened(path) as image:
        mark = _END_MARKS.get(image.format or "")
        if mark is None or mark not in _tail(path):
            image.load()
        return image.size


def turned(path: Path) -> int | None:
    """EXIF's orientation, 2 to 8, where the pixels as `decode` gives them are not upright; None where they are, or
    where nothing that can be read says otherwise. DataError as in `decode`."""
    with _opened(path) as image, suppress(*_DAMAGE):
        if image.format == "TIFF":  # which PIL turns
            return None
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        return orientation if orientation in range(2, 9) else None
    return None


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    if not path.is_file():  # opening a pipe or a device would wait for ever
        raise DataError(str(path), "an image file", "none")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata; too many pixels; torchvision means to drop decoding
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
                yield image
    except _DAMAGE as problem:
        raise DataError(str(path), "a readable, complete image", str(problem) or type(problem).__name__) from problem


def _rgb(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    if image.mode.startswith("I;16"):
        high = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(high[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError("32 bits a pixel; save it with 8")
    return np.array(image.convert("RGB"))


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 64))  # some cameras pad the end
        return file.read()
