"""Features of regions, pooled from the level that suits each region's size."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from detsearch.nn.ops.align import align
from detsearch.nn.ops.dense import precise
from detsearch.nn.structures import Regions
from detsearch.types import FeatureSpec

CANONICAL_SIDE: Final = 224
CANONICAL_LEVEL: Final = 4
"""A region of this side, in pixels, belongs to this level (Lin et al., "Feature Pyramid Networks", CVPR 2017, eq. 1);
the others follow by octaves from FINEST to COARSEST."""
FINEST: Final = 2
COARSEST: Final = 5
EPS: Final = 1e-6
"""So that rounding takes no region of exactly a level's size to the finer one."""


class RegionPool(nn.Module):
    """RoIAlign (He et al., "Mask R-CNN", ICCV 2017) with `sampling` x `sampling` points a cell, half-pixel centres not
    shifted: regions to (N, C, size, size).

    A region of w x h pixels belongs to P{k}, k = floor(4 + log2(sqrt(w h) / 224)) within P2..P5, and is pooled from the
    level nearest to that among those of `features`, the finer of two that are equally near.
    """

    place: Tensor

    def __init__(self, features: FeatureSpec, size: int, sampling: int = 2) -> None:
        super().__init__()
        self.size, self.sampling = size, sampling
        nearest = [
            min(range(len(features)), key=lambda i: abs(features.levels[i] - level))
            for level in range(FINEST, COARSEST + 1)
        ]
        self.used = sorted(set(nearest))
        self.scales = [1 / features.strides[i] for i in self.used]
        place = torch.tensor([self.used.index(i) for i in nearest])
        self.register_buffer("place", place, persistent=False)

    def forward(self, features: list[Tensor], regions: Regions) -> Tensor:
        """`features` (B, C, H, W) of every level; N may be 0."""
        maps = [features[i] for i in self.used]
        kind = precise(maps[0]).dtype  # coordinates in less would be off by pixels
        # What a diverged network answers would have RoIAlign read outside the maps.
        boxes = regions.boxes.to(kind).nan_to_num(0.0, posinf=0.0, neginf=0.0)
        rois = torch.cat([regions.image[:, None].to(kind), boxes], dim=1)
        if len(maps) == 1:
            return self._pooled(maps[0], rois, self.scales[0])
        level = self.level_of(boxes)
        counts = torch.bincount(level, minlength=len(maps)).tolist()
        found = maps[0].new_empty((len(rois), maps[0].shape[1], self.size, self.size))
        # Written in place: this is the largest tensor of a head, and another copy of it takes noticeable time.
        for map_, rows, scale in zip(maps, torch.split(level.argsort(), counts), self.scales, strict=True):
            found.index_copy_(0, rows, self._pooled(map_, rois[rows], scale).to(found.dtype))
        return found

    def level_of(self, boxes: Tensor) -> Tensor:
        """(N,) int64: from which of the levels in `used` each box (N, 4) is pooled."""
        side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=0).sqrt()
        level = torch.floor(CANONICAL_LEVEL + torch.log2(side / CANONICAL_SIDE) + EPS).clamp(FINEST, COARSEST)
        return self.place[level.long() - FINEST]

    def _pooled(self, level: Tensor, rois: Tensor, scale: float) -> Tensor:
        return align(level.to(rois.dtype), rois, self.size, scale, self.sampling).to(level.dtype)
