"""Small labelled images: CIFAR-10's bytes by hand and damaged, halves, batches, drawn shapes."""

from __future__ import annotations

import os
import pickle
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from detsearch.data.arrays import ImageArrays, drawn_shapes, read_cifar10, varied
from detsearch.errors import DataError

NAMES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
LENGTH = 3073


def record(label: int, value: int) -> bytes:
    """An image whose red plane counts its rows, whose green one its columns, and whose blue one is all `value`."""
    rows, columns = np.mgrid[0:32, 0:32]
    planes = np.stack([rows, columns, np.full((32, 32), value)]).astype(np.uint8)
    return bytes([label]) + planes.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images in every file."""
    place = tmp_path / "cifar-10-batches-bin"
    place.mkdir()
    for number, name in enumerate(NAMES):
        (place / name).write_bytes(record(number, 10 * number) + record(9, 200 + number))
    return place


def test_cifar_by_hand(folder: Path) -> None:
    train, test = read_cifar10(folder)
    assert (len(train), len(test), train.classes) == (10, 2, 10)
    assert train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert test.labels.tolist() == [5, 9]
    assert train.pixels.shape == (10, 3, 32, 32)
    assert train.pixels.dtype == torch.uint8
    for image, value in ((train.pixels[2], 10), (test.pixels[1], 205)):
        assert torch.equal(image[0], torch.arange(32, dtype=torch.uint8)[:, None].expand(32, 32))
        assert torch.equal(image[1], torch.arange(32, dtype=torch.uint8).expand(32, 32))
        assert (image[2] == value).all()
    around, _ = read_cifar10(folder.parent)
    assert torch.equal(around.pixels, train.pixels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got 0 bytes"),
        (record(1, 1)[:-1], "got 3072 bytes; the file is truncated"),
        (record(1, 1) + b"\n", "got 3074 bytes"),
        (record(3, 1) + record(10, 1), "record 2: expected a label from 0 to 9, got 10"),
        (record(255, 1), "record 1: expected a label from 0 to 9, got 255"),
    ],
)
def test_files_that_are_damaged_or_none(folder: Path, content: bytes, message: str) -> None:
    (folder / "data_batch_3.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"data_batch_3\.bin") as raised:
        read_cifar10(folder)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_missing_huge_or_no_file(folder: Path, tmp_path: Path) -> None:
    batch = folder / "data_batch_2.bin"
    batch.unlink()
    with pytest.raises(DataError, match="No such file"):
        read_cifar10(folder)
    os.mkfifo(batch)  # which nobody writes to
    with pytest.raises(DataError, match="no plain file"):
        read_cifar10(folder)
    batch.unlink()
    with batch.open("wb") as file:
        file.truncate(LENGTH * 30_000)
    with pytest.raises(DataError, match="at most 64 MiB"):
        read_cifar10(folder)
    batch.unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(record(1, 1))
    batch.symlink_to(elsewhere)
    with pytest.raises(DataError, match="a link to"):
        read_cifar10(folder)


class Trap:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("named", ["folder", "around", "other"])
def test_pickles_are_refused_and_not_opened(tmp_path: Path, named: str) -> None:
    sprung = tmp_path / "sprung"
    place = tmp_path / ("mine" if named == "other" else "cifar-10-batches-py")
    place.mkdir()
    for name in [name.removesuffix(".bin") for name in NAMES]:
        (place / name).write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(DataError, match=r"pickles, .* never read; .* binary version") as raised:
        read_cifar10(tmp_path if named == "around" else place)
    assert "cifar-10-batches-bin" in str(raised.value)
    assert "take cifar-10-binary.tar.gz" in str(raised.value)
    assert not sprung.exists()


def test_no_cifar_at_all(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(DataError, match=r"got none; .* binary version"):
            read_cifar10(place)


def numbered(count: int) -> ImageArrays:
    """Image n is all n, and so is its label."""
    labels = torch.arange(count)
    return ImageArrays(labels.to(torch.uint8)[:, None, None, None].expand(-1, 3, 4, 6), labels, count)


@pytest.mark.parametrize("count", [2, 7, 8])
def test_halves_are_disjoint(count: int) -> None:
    first, second = numbered(count).halves(0)
    assert len(first) - len(second) == count % 2
    assert sorted([*first.labels.tolist(), *second.labels.tolist()]) == list(range(count))
    assert (first.pixels[:, 0, 0, 0] == first.labels).all()
    assert torch.equal(first.labels, numbered(count).halves(0)[0].labels)


def test_the_seed_decides_halves() -> None:
    assert numbered(20).halves(0)[0].labels.tolist() != numbered(20).halves(1)[0].labels.tolist()


def test_batches() -> None:
    images = numbered(11)
    given = list(islice(images.batches(3, 5, shift=0), 6))
    assert all(torch.equal(pixels[:, 1, 2, 3], labels.to(torch.uint8)) for pixels, labels in given)
    epochs = [torch.cat([labels for _, labels in part]).tolist() for part in (given[:3], given[3:])]
    assert all(len(set(epoch)) == 9 for epoch in epochs), "every image at most once, what fills no batch left out"
    assert epochs[0] != epochs[1]
    again = list(islice(images.batches(3, 5, shift=0), 6))
    assert all(
        torch.equal(a, b) for one, other in zip(given, again, strict=True) for a, b in zip(one, other, strict=True)
    )
    other = torch.cat([labels for _, labels in islice(images.batches(3, 6, shift=0), 3)]).tolist()
    assert other != epochs[0]
    with pytest.raises(DataError, match="expected 12 or more"):
        next(images.batches(12, 0, shift=0))


def test_images_are_moved_and_mirrored() -> None:
    image = torch.arange(1, 3 * 4 * 5 + 1, dtype=torch.uint8).view(3, 4, 5)
    found = varied(image.expand(400, -1, -1, -1), 1, torch.Generator().manual_seed(0))
    possible = {}
    for mirrored in (False, True):
        wide = torch.zeros(3, 6, 7, dtype=torch.uint8)
        wide[:, 1:5, 1:6] = image.flip(2) if mirrored else image
        for y in range(3):
            for x in range(3):
                possible[wide[:, y : y + 4, x : x + 5].numpy().tobytes()] = (mirrored, y, x)
    seen = [possible[one.numpy().tobytes()] for one in found]
    assert len(set(seen)) == 18
    assert 150 < sum(mirrored for mirrored, _, _ in seen) < 250


def test_shapes() -> None:
    one, same, other = drawn_shapes(40, 1, 16), drawn_shapes(40, 1, 16), drawn_shapes(40, 2, 16)
    assert one.pixels.shape == (40, 3, 16, 16)
    assert one.classes == 5
    assert set(one.labels.tolist()) == set(range(5))
    assert torch.equal(one.pixels, same.pixels)
    assert torch.equal(one.labels, same.labels)
    assert not torch.equal(one.labels, other.labels)
    light = one.pixels.float().mean(dim=1).flatten(1)
    assert (light.amax(dim=1) - light.median(dim=1).values > 30).all(), "shapes are bright on a dark ground"
    assert light.median() < 90
    assert not {image.numpy().tobytes() for image in one.pixels} & {image.numpy().tobytes() for image in other.pixels}
