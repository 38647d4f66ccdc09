"""Which object a place of a map answers for, where there are no anchors to compare (Tian et al., "FCOS", TPAMI 2020,
sec. 3.1 and 3.3; in torchvision's conventions)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from detsearch.nn.ops.matching import BACKGROUND, PAIRS

REACH: Final = 8
"""Farthest side of an object that a level answers for, in strides: 64 pixels on P3."""
LARGEST: Final = 1e8
"""Square pixels from which areas are counted down. In float32 areas that differ by less than 8 are equal then, and of
equal ones the first in the list wins: kept as it is in torchvision, so that trainings agree."""


def ranges(strides: Sequence[int]) -> list[tuple[float, float]]:
    """Distances of the farthest side, in pixels, that each level answers for: from the finer level's end to `REACH`
    strides, the first from 0, the last without end, so that any set of levels covers all sizes."""
    ends = [0.0, *(float(REACH * stride) for stride in strides[:-1]), math.inf]
    return list(pairwise(ends))


@torch.no_grad()
def assign(
    boxes: Tensor,
    valid: Tensor,
    places: Tensor,
    sizes: Sequence[int],
    *,
    ranges: Sequence[tuple[float, float]],
    radius: float,
) -> Tensor:
    """(B, A) int64: for every place the row of its object among `boxes` (B, M, 4) where `valid` (B, M), or BACKGROUND.

    `places` (A, 4) are squares of one stride around each place, level by level, `sizes` their numbers. An object
    may be answered for by a place that lies in it, is less than `radius` strides from its centre in x and y, and has
    the object's farthest side within the level's range (both ends excluded); the smallest one is taken.
    """
    images, objects = valid.shape
    if objects == 0:
        return torch.full((images, len(places)), BACKGROUND, dtype=torch.int64, device=places.device)
    x, y = ((places[:, :2] + places[:, 2:]) / 2).unbind(-1)
    reach = radius * (places[:, 2] - places[:, 0])
    low, high = (
        torch.cat([places.new_full((size,), end) for size, end in zip(sizes, ends, strict=True)])
        for ends in zip(*ranges, strict=True)
    )
    step = max(1, PAIRS // max(1, objects * len(places)))
    chunks = zip(torch.split(boxes, step), torch.split(valid, step), strict=True)
    return torch.cat([_assign(*chunk, x, y, reach, low, high) for chunk in chunks])


def _assign(boxes: Tensor, valid: Tensor, x: Tensor, y: Tensor, reach: Tensor, low: Tensor, high: Tensor) -> Tensor:
    x1, y1, x2, y2 = (coordinate.unsqueeze(-1) for coordinate in boxes.unbind(-1))  # (b, M, 1)
    centre = torch.maximum((x - (x1 + x2) / 2).abs_(), (y - (y1 + y2) / 2).abs_())
    fits = (centre < reach) & valid[..., None]
    left, upper, right, lower = x - x1, y - y1, x2 - x, y2 - y
    least = torch.minimum(torch.minimum(left, right), torch.minimum(upper, lower))
    fits &= least > 0
    most = torch.maximum(torch.maximum(left, right), torch.maximum(upper, lower))
    fits &= (most > low) & (most < high)
    area = (x2 - x1) * (y2 - y1)
    best, index = torch.where(fits, LARGEST - area, -math.inf).max(dim=1)
    return index.masked_fill_(best == -math.inf, BACKGROUND)
