"""What flows between the parts of a detector, batched.

Shape legend: B images, M objects of the fullest image, K detections or proposals kept per image, H x W padded pixels.
Boxes are x1, y1, x2, y2 in pixels of the network's input (after fitting, before padding), continuous coordinates:
the top left pixel covers 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Images padded at the right and at the bottom.

    `pixels` (B, 3, H, W) uint8 RGB, or floating point if already normalised; `sizes` (B, 2) int64, height and width
    of the valid part.
    """

    pixels: Tensor
    sizes: Tensor

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        return type(self)(
            self.pixels.to(device, non_blocking=non_blocking), self.sizes.to(device, non_blocking=non_blocking)
        )

    def __len__(self) -> int:
        return self.pixels.shape[0]


@dataclass(frozen=True, slots=True)
class Targets:
    """Ground truth: `boxes` (B, M, 4) float, `labels` (B, M) int64 in 0..C-1, `valid` (B, M) bool.

    Rows that are not valid are padding (zeros). M may be 0.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        return type(self)(*(getattr(self, name).to(device, non_blocking=non_blocking) for name in self.__slots__))

    @classmethod
    def from_lists(cls, boxes: list[Tensor], labels: list[Tensor]) -> Self:
        """Pad per-image (m, 4) boxes and (m,) labels to one batch."""
        count, most = len(boxes), max((len(b) for b in boxes), default=0)
        padded_boxes = boxes[0].new_zeros((count, most, 4))
        padded_labels = labels[0].new_zeros((count, most))
        valid = torch.zeros((count, most), dtype=torch.bool, device=padded_boxes.device)
        for i, (b, label) in enumerate(zip(boxes, labels, strict=True)):
            padded_boxes[i, : len(b)], padded_labels[i, : len(b)], valid[i, : len(b)] = b, label, True
        return cls(padded_boxes, padded_labels, valid)

    def __len__(self) -> int:
        return self.boxes.shape[0]


@dataclass(frozen=True, slots=True)
class Proposals:
    """Regions that may hold an object: `boxes` (B, K, 4), `scores` (B, K), `valid` (B, K) bool."""

    boxes: Tensor
    scores: Tensor
    valid: Tensor


@dataclass(frozen=True, slots=True)
class Detections:
    """Answers, best first: `boxes` (B, K, 4), `scores` (B, K), `labels` (B, K) int64, `valid` (B, K) bool.

    Rows that are not valid are padding: zeros, at the end.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    valid: Tensor

    def to(self, device: torch.device | str) -> Self:
        return type(self)(*(getattr(self, name).to(device) for name in self.__slots__))

    def __len__(self) -> int:
        return self.boxes.shape[0]
