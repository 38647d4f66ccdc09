"""What flows between the parts of a detector, batched.

Shape legend: B images, M objects of the fullest image, K detections or proposals kept per image, H x W padded pixels.
Boxes are x1, y1, x2, y2 in pixels of the network's input (after fitting, before padding), continuous coordinates:
the top left pixel covers 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

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

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the tensor."""
        return self.pixels.shape[-2], self.pixels.shape[-1]

    def __len__(self) -> int:
        return self.pixels.shape[0]


@dataclass(frozen=True, slots=True)
class Targets:
    """Ground truth: `boxes` (B, M, 4) float, `labels` (B, M) int64 in 0..C-1, `valid` (B, M) bool.

    Rows that are not valid are padding (zeros). M may be 0. `masks`, where the data have them, are (N, H, W) uint8, 0
    or 1, one for each of the N valid rows in their order, over the padded image: not padded to M, which would cost the
    memory of the fullest image for every other one.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor
    masks: Tensor | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        moved: Self = _moved(self, device, non_blocking=non_blocking)
        return moved

    def mask_rows(self) -> Tensor:
        """(B, M) int64: where the mask of each valid row lies in `masks`."""
        return self.valid.flatten().cumsum(0).view_as(self.valid) - 1

    @classmethod
    def from_lists(cls, boxes: list[Tensor], labels: list[Tensor], masks: list[Tensor] | None = None) -> Self:
        """Pad per-image (m, 4) boxes and (m,) labels to one batch; masks (m, H, W), all of one H and W, are joined."""
        count, most = len(boxes), max((len(b) for b in boxes), default=0)
        padded_boxes = boxes[0].new_zeros((count, most, 4))
        padded_labels = labels[0].new_zeros((count, most))
        valid = torch.zeros((count, most), dtype=torch.bool, device=padded_boxes.device)
        for i, (b, label) in enumerate(zip(boxes, labels, strict=True)):
            padded_boxes[i, : len(b)], padded_labels[i, : len(b)], valid[i, : len(b)] = b, label, True
        return cls(padded_boxes, padded_labels, valid, None if masks is None else torch.cat(masks))

    def __len__(self) -> int:
        return self.boxes.shape[0]


@dataclass(frozen=True, slots=True)
class Proposals:
    """Regions that may hold an object, best first: `boxes` (B, K, 4), `scores` (B, K), `valid` (B, K) bool.

    Rows that are not valid are padding: zeros, at the end. No gradient flows through boxes and scores.
    """

    boxes: Tensor
    scores: Tensor
    valid: Tensor


@dataclass(frozen=True, slots=True)
class Regions:
    """Boxes of a whole batch in one list, what is pooled from maps: `boxes` (N, 4), `image` (N,) int64, the image of
    each."""

    boxes: Tensor
    image: Tensor

    @classmethod
    def of(cls, boxes: Tensor, valid: Tensor) -> Self:
        """The `valid` (B, K) of `boxes` (B, K, 4), image by image."""
        image, row = valid.nonzero(as_tuple=True)
        return cls(boxes[image, row], image)

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, slots=True)
class Detections:
    """Answers, best first: `boxes` (B, K, 4), `scores` (B, K), `labels` (B, K) int64, `valid` (B, K) bool.

    Rows that are not valid are padding: zeros, at the end. With a mask head, `masks` (B, K, S, S) in 0..1 is the
    probability of the object in S x S cells that divide its box evenly; with a head that rates masks too, `mask_scores`
    (B, K) rank the masks (Huang et al., "Mask Scoring R-CNN", CVPR 2019), else `scores` do.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    valid: Tensor
    masks: Tensor | None = None
    mask_scores: Tensor | None = None

    def to(self, device: torch.device | str) -> Self:
        moved: Self = _moved(self, device)
        return moved

    def __len__(self) -> int:
        return self.boxes.shape[0]


def _moved(batch: Any, device: torch.device | str, *, non_blocking: bool = False) -> Any:
    values = (getattr(batch, name) for name in batch.__slots__)
    return type(batch)(*(None if v is None else v.to(device, non_blocking=non_blocking) for v in values))
