"""Where anchors should be, and of what shape: the targets of guided anchoring (Wang et al., "Region Proposal by Guided
Anchoring", CVPR 2019, sec. 3.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from detsearch.nn.ops.boxes import iou
from detsearch.nn.ops.matching import BACKGROUND, PAIRS, assign

CENTRE: Final = 0.2
"""Share of a box's sides whose places should have an anchor (sigma 1 of the paper)."""
SURROUNDINGS: Final = 0.5
"""Share of a box's sides whose places outside the centre are not trained (sigma 2)."""


@torch.no_grad()
def location_targets(
    boxes: Tensor, valid: Tensor, grids: Sequence[tuple[int, int]], padded: tuple[int, int], sides: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Which places of all levels should have an anchor, and which are trained at all; both (B, A) bool.

    `boxes` (B, M, 4) where `valid` (B, M); `grids` the maps' heights and widths, `padded` that of the input, `sides`
    the side in pixels of the object that a level is for. An object belongs to the level whose side is nearest to the
    root of its area, by ratio. There the places in its centre are positive, those around it are not trained; nor are
    the places of both on the neighbouring levels. What is positive for one object is so even where another one would
    leave it out. A place counts where its cell, a step wide around it, touches the region, so that every object has
    one.
    """
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)
    apart = (areas.sqrt()[..., None] / areas.new_tensor(sides)).log().abs()
    own = apart.argmin(dim=-1)  # ties: the finer
    positive, around = [], []
    for level, grid in enumerate(grids):
        distance = (own - level).abs()
        positive.append(_touched(boxes, valid & (distance == 0), CENTRE, grid, padded))
        around.append(_touched(boxes, valid & (distance <= 1), SURROUNDINGS, grid, padded))
    found = torch.cat(positive, dim=1)
    return found, found | ~torch.cat(around, dim=1)


def _touched(boxes: Tensor, chosen: Tensor, share: float, grid: tuple[int, int], padded: tuple[int, int]) -> Tensor:
    """(B, H * W) bool: the places that the middle `share` of any `chosen` (B, M) box touches."""
    rows = _within(boxes[..., 1::2], share, grid[0], padded[0] // grid[0]) & chosen[..., None]
    columns = _within(boxes[..., 0::2], share, grid[1], padded[1] // grid[1])
    # How many objects a place lies in, as a product of (H, M) and (M, W): no (B, M, H, W) tensor.
    return (rows.to(boxes.dtype).transpose(1, 2) @ columns.to(boxes.dtype) > 0).flatten(1)


def _within(ends: Tensor, share: float, places: int, step: int) -> Tensor:
    """(B, M, places) bool of one axis; `ends` (B, M, 2) the boxes' two ends on it."""
    middle, half = ends.mean(dim=-1, keepdim=True) / step, ends.diff(dim=-1) / step * (share / 2)
    index = torch.arange(places, device=ends.device)
    # An object at the border may lie outside the outermost cell; it has that place.
    first, last = (middle - half).clamp(max=places - 1), (middle + half).clamp(min=0)
    return (index >= first - 0.5) & (index <= last + 0.5)


@torch.no_grad()
def shape_targets(boxes: Tensor, valid: Tensor, samples: Tensor, *, high: float, low: float) -> Tensor:
    """(B, A) int64: the row of the object that the anchor of each place should cover, BACKGROUND or IGNORED.

    As `nn.ops.matching.match` has it, with the best IoU that a place's anchor can reach by its shape in the place of an
    IoU; that is approximated by the best of some shapes (paper, eq. 3): `samples` (A, S, 4).
    """
    images, objects = valid.shape
    if objects == 0:
        return torch.full((images, len(samples)), BACKGROUND, dtype=torch.int64, device=samples.device)
    step = max(1, PAIRS // (objects * len(samples)))
    chunks = zip(torch.split(boxes, step), torch.split(valid, step), strict=True)
    return torch.cat([assign(_reachable(*chunk, samples), high=high, low=low) for chunk in chunks])


def _reachable(boxes: Tensor, valid: Tensor, samples: Tensor) -> Tensor:
    """(B, M, A): the best IoU with any sample of a place; one shape after the other, which bounds the memory."""
    boxes = boxes.masked_fill(~valid[..., None], 0.0)
    best = iou(boxes, samples[:, 0])
    for shape in samples.unbind(1)[1:]:
        torch.maximum(best, iou(boxes, shape), out=best)
    return best
