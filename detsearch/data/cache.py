"""Prepared images, kept in memory as far as a limit allows: decoding competes with training for the CPU."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import torch
from torch import Tensor

from detsearch.data.dataset import ImageRecord
from detsearch.data.transforms import prepare, prepared_size
from detsearch.types import InputSize


class PreparedImages:
    """Images by position, decoded and fitted (see `transforms.prepare`), the first ones kept once they were loaded.

    Which are kept follows from their sizes and the limit alone, and what is returned does not depend on it. With
    `shared`, worker processes fill and read the same memory.
    """

    def __init__(
        self, records: Sequence[ImageRecord], size: InputSize, *, enlarge: float, limit_mb: int, shared: bool
    ) -> None:
        self._records, self._size, self._enlarge = records, size, enlarge
        limit = limit_mb << 20
        if shared:
            limit = min(limit, _shared_memory_free() // 2)  # to use more than there is would end the process
        self._shapes: list[tuple[int, int]] = []
        self._starts = [0]
        for record in records:
            width, height = prepared_size(record.width, record.height, size, enlarge)
            if self._starts[-1] + 3 * width * height > limit:
                break
            self._shapes.append((height, width))
            self._starts.append(self._starts[-1] + 3 * width * height)
        self._pixels = torch.empty(self._starts[-1], dtype=torch.uint8)
        self._filled = torch.zeros(len(self._shapes), dtype=torch.bool)
        if shared:
            self._pixels.share_memory_()  # type: ignore[no-untyped-call]
            self._filled.share_memory_()  # type: ignore[no-untyped-call]

    def __getitem__(self, position: int) -> Tensor:
        """uint8 (3, H, W); not to be written to. DataError if the image cannot be read."""
        if position >= len(self._shapes):
            return prepare(self._records[position].load(), self._size, self._enlarge)
        height, width = self._shapes[position]
        kept = self._pixels[self._starts[position] : self._starts[position + 1]].view(height, width, 3).permute(2, 0, 1)
        # Within an epoch a position belongs to one worker; between epochs the queues order writes before reads.
        if not self._filled[position]:
            kept.copy_(prepare(self._records[position].load(), self._size, self._enlarge))
            self._filled[position] = True
        return kept


def _shared_memory_free() -> int:
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:  # no such folder: this system keeps shared memory elsewhere
        return 1 << 62
