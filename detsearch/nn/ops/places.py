"""Which object a place of a map answers for, where there are no anchors to compare (Tian et al., "FCOS", TPAMI 2020,
sec. 3.1 and 3.3; in torchvision's conventions)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from detsearch.nn.ops.matching import BACKGROUND

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
    grids: Sequence[tuple[int, int]],
    padded: tuple[int, int],
    *,
    strides: Sequence[int],
    radius: float,
) -> Tensor:
    """(B, A) int64: for every place the row of its object among `boxes` (B, M, 4) where `valid` (B, M), or BACKGROUND.

    `grids` are height and width of each level's map, `padded` of the input; places stand where `ops.anchors` puts
    them. An object may be answered for by a place that lies in it, is less than `radius` strides from its centre in x
    and y, and has the object's farthest side within the level's range (both ends excluded); the smallest one is taken.
    Only the few places of each level around the centre are looked at, not all pairs of place and object.
    """
    images, objects = valid.shape
    places = sum(height * width for height, width in grids)
    if objects == 0:
        return torch.full((images, places), BACKGROUND, dtype=torch.int64, device=boxes.device)
    steps = [(padded[0] // height, padded[1] // width) for height, width in grids]
    starts = [sum(height * width for height, width in grids[:level]) for level in range(len(grids))]
    bounds = [(radius * stride, low, high) for stride, (low, high) in zip(strides, ranges(strides), strict=True)]
    whole = torch.tensor(
        [(*g, *s, start) for g, s, start in zip(grids, steps, starts, strict=True)], device=boxes.device
    )
    height, width, step_y, step_x, start = whole.unbind(1)
    reach, low, high = torch.tensor(bounds, dtype=boxes.dtype, device=boxes.device).unbind(1)
    # Strictly within the reach lie at most 2 * reach / step places; one more at each end, as divisions round.
    window = [
        2 + max(math.ceil(2 * limit / step[axis]) for (limit, _, _), step in zip(bounds, steps, strict=True))
        for axis in (0, 1)
    ]
    x1, y1, x2, y2 = boxes[:, :, None].unbind(-1)  # (B, M, 1), beside (L) of the levels
    column, fits_x, far_x = _around(x1, x2, step_x, width, reach, window[1])
    row, fits_y, far_y = _around(y1, y2, step_y, height, reach, window[0])
    farthest = torch.maximum(far_x[..., None, :], far_y[..., None])  # (B, M, L, rows, columns)
    fits = fits_x[..., None, :] & fits_y[..., None] & valid[..., None, None, None]
    fits &= (farthest > low[:, None, None]) & (farthest < high[:, None, None])
    place = start[:, None, None] + row[..., None] * width[:, None, None] + column[..., None, :]
    place = torch.where(fits, place, places).flatten(1)  # what does not fit goes to one more place, which is cut off

    order = (LARGEST - (x2 - x1) * (y2 - y1)).squeeze(2).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)[..., None].expand(-1, -1, fits[0, 0].numel()).flatten(1)
    best = rank.new_full((images, places + 1), objects).scatter_reduce_(1, place, rank, "amin")[:, :places]
    rows = order.gather(1, best.clamp(max=objects - 1))
    return rows.masked_fill_(best == objects, BACKGROUND)


def _around(
    low: Tensor, high: Tensor, step: Tensor, count: Tensor, reach: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis, each (B, M, L, window): places near the centre of sides `low`, `high` (B, M, 1) by their number,
    whether they fit, and the distance of the farther side."""
    centre = (low + high) / 2
    first = ((centre - reach) / step).floor().long()
    number = first[..., None] + torch.arange(window, device=first.device)
    at = (number * step[:, None]).to(centre.dtype)
    before, behind = at - low[..., None], high[..., None] - at
    fits = ((at - centre[..., None]).abs() < reach[:, None]) & (torch.minimum(before, behind) > 0)
    fits &= (number >= 0) & (number < count[:, None])
    return number, fits, torch.maximum(before, behind)
