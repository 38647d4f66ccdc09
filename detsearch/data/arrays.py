"""Small labelled images, whole in memory: CIFAR-10 where a user has it, drawn shapes otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from detsearch.data.formats import scenes
from detsearch.data.paths import inside
from detsearch.data.reading import read_bytes
from detsearch.errors import DataError

CIFAR10: Final = "cifar-10-batches-bin"
"""The folder of CIFAR-10's binary version."""
CIFAR10_TRAIN: Final = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR10_TEST: Final = ("test_batch.bin",)
CIFAR10_CLASSES: Final = 10
CIFAR10_SIDE: Final = 32
PICKLED: Final = "cifar-10-batches-py"
"""The folder of the version for Python, whose files could run code."""
MAX_BYTES: Final = 64 << 20
"""Of a file; CIFAR-10's have 31 MB."""
_ORDER, _CHANGE = 1, 2  # streams of random numbers


@dataclass(frozen=True, slots=True, eq=False)
class ImageArrays:
    """`pixels` (N, 3, H, W) uint8 RGB and `labels` (N,) int64 in 0..`classes` - 1."""

    pixels: Tensor
    labels: Tensor
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, positions: Tensor) -> Self:
        """Those at `positions` (M,) int64."""
        return type(self)(self.pixels[positions], self.labels[positions], self.classes)

    def halves(self, seed: int) -> tuple[Self, Self]:
        """Two disjoint halves, drawn with `seed`; of an odd number the first has one more."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        middle = (len(self) + 1) // 2
        return self.subset(order[:middle]), self.subset(order[middle:])

    def batches(self, batch: int, seed: int, *, shift: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of `batch` images without an end, changed at random (`varied`) and in a new order in every epoch,
        both from `seed`: pixels and labels. What does not fill a batch is left out. DataError where there are too few
        images for one."""
        if len(self) < batch:
            raise DataError("images", f"{batch} or more (a batch)", str(len(self)), "lower the batch")
        epoch = 0
        while True:
            order, change = (
                torch.Generator().manual_seed(int(np.random.SeedSequence([seed, stream, epoch]).generate_state(1)[0]))
                for stream in (_ORDER, _CHANGE)
            )
            for rows in torch.split(torch.randperm(len(self), generator=order), batch):
                if len(rows) == batch:
                    yield varied(self.pixels[rows], shift, change), self.labels[rows]
            epoch += 1


def varied(pixels: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Images (B, 3, H, W), each moved by up to `shift` pixels both ways, black beyond its edge, and every second one
    mirrored (He et al., CVPR 2016, sec. 4.2)."""
    count, _, height, width = pixels.shape
    moves = torch.randint(2 * shift + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand((count, 1), generator=generator) < 0.5
    columns = torch.arange(width)
    columns = torch.where(mirrored, width - 1 - columns, columns) + moves[0]
    rows = torch.arange(height) + moves[1]
    wide = F.pad(pixels, (shift,) * 4)
    image = torch.arange(count)[:, None, None]
    return wide.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def drawn_shapes(count: int, seed: int, side: int) -> ImageArrays:
    """`count` images of `side` pixels, each with one of the five shapes of the synthetic set, bright on a dark, noisy
    ground; those of different seeds share no image."""
    style = scenes.Style(tuple(scenes.SHAPES), side, side, objects=(1, 1), min_side=side // 2, bright=True)
    drawn = [scenes.compose(style, seed, index) for index in range(count)]
    pixels = np.stack([scenes.paint(scene, style, seed, index) for index, scene in enumerate(drawn)])
    labels = torch.tensor([scene.shapes[0].label for scene in drawn])
    return ImageArrays(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels, len(style.classes))


def read_cifar10(folder: Path) -> tuple[ImageArrays, ImageArrays]:
    """The training and the test images of CIFAR-10 (Krizhevsky, "Learning Multiple Layers of Features from Tiny
    Images", 2009) in its binary version; `folder` is the one with the ``.bin`` files or the one around it.

    DataError where a file is missing, damaged or none of these; so for the version for Python, which is pickled.
    """
    place = folder if (folder / CIFAR10_TEST[0]).exists() else folder / CIFAR10
    if not place.is_dir():
        pickled = folder.name == PICKLED or (folder / PICKLED).exists() or (folder / "data_batch_1").exists()
        found = "its version for Python: pickles, which could run code and are never read" if pickled else "none"
        hint = "take cifar-10-binary.tar.gz, on CIFAR-10's page the binary version (suitable for C programs)"
        raise DataError(str(folder), f"CIFAR-10's folder {CIFAR10} with data_batch_1.bin and others", found, hint)
    return _cifar10(place, CIFAR10_TRAIN), _cifar10(place, CIFAR10_TEST)


def _cifar10(folder: Path, names: tuple[str, ...]) -> ImageArrays:
    """What several files hold: records of a label and the three planes of an image, a byte each."""
    length = 1 + 3 * CIFAR10_SIDE**2
    form = f"records of {length} bytes, a label and 3x{CIFAR10_SIDE}x{CIFAR10_SIDE} pixels"
    parts = []
    for name in names:
        path = inside(folder, name)
        content = np.frombuffer(read_bytes(path, form, MAX_BYTES), dtype=np.uint8)
        if not len(content) or len(content) % length:
            raise DataError(str(path), form, f"{len(content)} bytes", "the file is truncated or another")
        records = content.reshape(-1, length)
        if (wrong := np.flatnonzero(records[:, 0] >= CIFAR10_CLASSES)).size:
            number = int(wrong[0])
            where = f"{path}: record {number + 1}"
            raise DataError(where, f"a label from 0 to {CIFAR10_CLASSES - 1}", str(records[number, 0]))
        parts.append(records)
    whole = np.concatenate(parts)
    pixels = torch.from_numpy(whole[:, 1:].reshape(-1, 3, CIFAR10_SIDE, CIFAR10_SIDE).copy())
    return ImageArrays(pixels, torch.from_numpy(whole[:, 0].astype(np.int64)), CIFAR10_CLASSES)
