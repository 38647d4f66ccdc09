"""Decoding: every kind of file becomes the same kind of tensor, and damage is named."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from detsearch.data import images
from detsearch.errors import DataError
from tests.data.makers import save_image


@pytest.mark.parametrize("orientation", [None, 0, 1, 6, 8, 9])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp"])
def test_turned_says_what_exif_says_and_decoding_leaves_out(
    tmp_path: Path, suffix: str, orientation: int | None
) -> None:
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"image{suffix}"
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    said = orientation if suffix in (".jpg", ".png", ".webp") and orientation in (6, 8) else None
    assert images.turned(path) == said
    if said:
        assert images.decode(path).shape == (3, 4, 8)
        assert images.probe(path) == (8, 4)


def test_damaged_exif_says_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = tmp_path / "image.jpg"
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    whole = path.read_bytes()
    start = whole.index(b"Exif") + 6
    for fill in (b"\0", b"\xff", b"MM"):
        path.write_bytes(whole[:start] + (fill * 20)[:20] + whole[start + 20 :])
        assert images.turned(path) is None
    with pytest.raises(DataError, match="none"):
        images.turned(tmp_path / "none.jpg")


@pytest.mark.parametrize(
    ("mode", "suffix", "expected"),
    [
        ("RGB", ".png", (200, 30, 90)),
        ("RGBA", ".png", (200, 30, 90)),
        ("P", ".png", (200, 30, 90)),
        ("P", ".gif", (200, 30, 90)),
        ("RGB", ".bmp", (200, 30, 90)),
        ("L", ".png", (88, 88, 88)),
        ("LA", ".png", (88, 88, 88)),
        ("1", ".png", None),
        ("RGB", ".jpg", (200, 30, 90)),
        ("L", ".jpg", (88, 88, 88)),
        ("CMYK", ".jpg", (200, 30, 90)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, suffix: str, expected: tuple[int, int, int] | None) -> None:
    path = tmp_path / f"image{suffix}"
    Image.new("RGB", (16, 8), (200, 30, 90)).convert(mode).save(path)
    pixels = images.decode(path)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 8, 16)
    assert images.probe(path) == (16, 8)
    if expected is not None:
        assert (pixels.float().mean(dim=(1, 2)) - torch.tensor(expected)).abs().max() <= 4  # JPEG is lossy


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 6), 0xAB12, dtype=np.uint16)).save(path)
    assert (images.decode(path) == 0xAB).all()


def test_jpeg_is_decoded_as_pil_does(tmp_path: Path) -> None:
    path = save_image(tmp_path / "noise.jpg", 37, 21)
    with Image.open(path) as image:
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(images.decode(path), expected)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_orientation_is_never_applied(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"turned{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 8)).save(path, exif=exif)
    assert images.decode(path).shape == (3, 8, 16)
    assert images.probe(path) == (16, 8)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".gif"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_truncated_file_is_found_by_both(tmp_path: Path, suffix: str, part: float) -> None:
    path = save_image(tmp_path / f"cut{suffix}", 64, 64)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    for read in (images.decode, images.probe):
        with pytest.raises(DataError, match=f"cut{suffix}"):
            read(path)


def test_damage_in_the_middle_is_found_by_decoding(tmp_path: Path) -> None:
    path = save_image(tmp_path / "hole.png", 64, 64)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"hole\.png"):
        images.decode(path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"other\.jpg: expected a readable, complete image"):
        images.decode(path)


def test_missing_folder_and_pipe_are_no_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "none.jpg", tmp_path, tmp_path / "pipe.jpg"):
        with pytest.raises(DataError, match="expected an image file"):
            images.decode(path)


def test_decompression_bomb_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for side in (10_000, 60_000):  # PIL only warns of the first
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        path = tmp_path / "bomb.png"
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
        )
        for read in (images.decode, images.probe):
            with pytest.raises(DataError, match=r"bomb\.png.*pixels"):
                read(path)
