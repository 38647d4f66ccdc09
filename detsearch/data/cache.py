"""Prepared images and masks, kept in memory as far as a limit allows: decoding competes with training for the CPU."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from detsearch.data.dataset import ImageRecord
from detsearch.data.masks import decode
from detsearch.data.transforms import prepare, prepared_size
from detsearch.types import InputSize


class PreparedImages:
    """Images by position, decoded and fitted (see `transforms.prepare`), the first ones kept once they were loaded, and
    with `masks` those of their targets, kept as one bit a pixel.

    Which are kept follows from their sizes and the limit alone, and what is returned does not depend on it. With
    `shared`, worker processes fill and read the same memory.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        size: InputSize,
        *,
        enlarge: float,
        limit_mb: int,
        shared: bool,
        masks: bool = False,
    ) -> None:
        self._records, self._size, self._enlarge = records, size, enlarge
        self._with_masks = masks
        limit = limit_mb << 20
        if shared:
            limit = min(limit, _shared_memory_free() // 2)  # to use more than there is would end the process
        self._shapes: list[tuple[int, int]] = []
        self._starts = [0]
        for record in records:
            width, height = prepared_size(record.width, record.height, size, enlarge)
            bits = int(record.targets.sum()) * width * height if masks else 0
            end = self._starts[-1] + 3 * width * height + -(-bits // 8)
            if end > limit:
                break
            self._shapes.append((height, width))
            self._starts.append(end)
        self._bytes = torch.empty(self._starts[-1], dtype=torch.uint8)
        self._filled = torch.zeros(len(self._shapes), dtype=torch.bool)
        if shared:
            self._bytes.share_memory_()  # type: ignore[no-untyped-call]
            self._filled.share_memory_()  # type: ignore[no-untyped-call]

    def __getitem__(self, position: int) -> Tensor:
        """uint8 (3, H, W); not to be written to. DataError if the image cannot be read."""
        if position >= len(self._shapes):
            return self._image(position)
        return self._kept(position)[0]

    def masks(self, position: int) -> Tensor:
        """uint8 (m, H, W) of the m targets, where the loader was made `masks`."""
        if position >= len(self._shapes):
            return self._masks(position)
        height, width = self._shapes[position]
        count = int(self._records[position].targets.sum())
        bits = np.unpackbits(self._kept(position)[1].numpy(), count=count * height * width)
        return torch.from_numpy(bits).view(count, height, width)

    def _kept(self, position: int) -> tuple[Tensor, Tensor]:
        """The memory of an image, uint8 (3, H, W), and of its masks, packed (P,), filled."""
        height, width = self._shapes[position]
        place = self._bytes[self._starts[position] : self._starts[position + 1]]
        image = place[: 3 * width * height].view(height, width, 3).permute(2, 0, 1)
        masks = place[3 * width * height :]
        # Within an epoch a position belongs to one worker; between epochs the queues order writes before reads.
        if not self._filled[position]:
            image.copy_(self._image(position))
            if self._with_masks:
                masks.copy_(torch.from_numpy(np.packbits(self._masks(position).numpy())))
            self._filled[position] = True
        return image, masks

    def _image(self, position: int) -> Tensor:
        return prepare(self._records[position].load(), self._size, self._enlarge)

    def _masks(self, position: int) -> Tensor:
        record = self._records[position]
        outlines = [
            outline
            for outline, target in zip(record.segmentations or (), record.targets, strict=False)
            if target and outline is not None
        ]
        stored = record.width, record.height
        return decode(outlines, stored, prepared_size(*stored, self._size, self._enlarge))


def _shared_memory_free() -> int:
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:  # no such folder: this system keeps shared memory elsewhere
        return 1 << 62
