"""The internal form of every dataset: images with boxes, labels and outlines, whatever format they came from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from detsearch.data import images
from detsearch.data.masks import Segmentation
from detsearch.errors import DataError


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ImageRecord:
    """One image and its M objects.

    `boxes` (M, 4) float32: x1, y1, x2, y2 in pixels of the stored image, continuous coordinates (the top left pixel
    covers 0..1), inside the image and with area. `labels` (M,) int64 in 0..C-1. `area` (M,) float32, pixels: of the
    object's outline where the format knows it (COCO), else of the box. `crowd` (M,) bool: a region of many objects,
    which is neither target nor miss. `difficult` (M,) bool: Pascal VOC's flag, which evaluation ignores.
    `segmentations`: the M outlines, None for an object that has none; None for all where none has, or none was asked
    for. `image_id` is unique in a dataset.
    """

    image_id: int
    path: Path
    width: int
    height: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    area: NDArray[np.float32]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    segmentations: tuple[Segmentation | None, ...] | None = None

    @property
    def targets(self) -> NDArray[np.bool_]:
        """(M,) bool: which objects a detector is trained to find. Not crowd regions, which are no single objects, nor
        difficult objects, which VOC's rules exclude from scoring, and custom from training."""
        return ~(self.crowd | self.difficult)

    def outlined(self) -> NDArray[np.bool_]:
        """(M,) bool: which objects have an outline."""
        outlines = self.segmentations or (None,) * len(self.labels)
        return np.array([outline is not None for outline in outlines], dtype=np.bool_)

    def only(self, kept: NDArray[np.bool_]) -> Self:
        """The image with the objects that `kept` (M,) chooses."""
        rows = np.flatnonzero(kept)
        outlines = None if self.segmentations is None else tuple(self.segmentations[i] for i in rows)
        chosen = {name: getattr(self, name)[rows] for name in ("boxes", "labels", "area", "crowd", "difficult")}
        return replace(self, **chosen, segmentations=outlines)

    def load(self) -> Tensor:
        """The pixels, uint8 (3, height, width) RGB; DataError naming the file if it cannot be read or has changed."""
        pixels = images.decode(self.path)
        self._expect(pixels.shape[2], pixels.shape[1])
        return pixels

    def probe(self) -> tuple[int, int]:
        """(width, height) as the image file itself says; DataError if it is missing, truncated or no image."""
        return images.probe(self.path)

    def turned(self) -> int | None:
        """EXIF's orientation where the pixels as `load` gives them are not upright; DataError as in `load`."""
        return images.turned(self.path)

    def _expect(self, width: int, height: int) -> None:
        if (width, height) != (self.width, self.height):
            raise DataError(str(self.path), f"{self.width}x{self.height} pixels as annotated", f"{width}x{height}")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Dataset:
    """A split, or several merged: `classes` by label, `records` by position.

    `category_ids` are the ids of the classes in COCO result files, by label. `split` is as asked for, such as
    ``train+val``.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    records: tuple[ImageRecord, ...]

    def __len__(self) -> int:
        return len(self.records)

    @property
    def has_masks(self) -> bool:
        """Whether any object has an outline."""
        return any(record.segmentations is not None for record in self.records)

    def subset(self, positions: Iterable[int]) -> Self:
        """The same dataset with only the records at `positions`, in that order."""
        return replace(self, records=tuple(self.records[i] for i in positions))

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """All records of `parts`; an image that stands in several is kept once.

        Image ids stay where they are unique and are renumbered from 1 otherwise. DataError if the classes differ.
        """
        first = parts[0]
        for part in parts[1:]:
            require_same_classes(first, part)
        by_path: dict[Path, ImageRecord] = {}
        for part in parts:
            for record in part.records:
                by_path.setdefault(record.path, record)
        records = list(by_path.values())
        if len({record.image_id for record in records}) < len(records):
            records = [replace(record, image_id=i) for i, record in enumerate(records, start=1)]
        return replace(first, split="+".join(part.split for part in parts), records=tuple(records))


def require_same_classes(first: Dataset, second: Dataset) -> None:
    """DataError unless labels mean the same in both."""
    if (first.classes, first.category_ids) != (second.classes, second.category_ids):
        odd = sorted(set(first.classes) ^ set(second.classes)) or ["their order or ids"]
        raise DataError(
            f"{first.name}: splits {first.split} and {second.split}",
            "the same classes",
            f"a difference in {', '.join(odd[:5])}",
            "name the classes in the data file under 'classes'",
        )
