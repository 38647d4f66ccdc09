"""Objects' masks as regions see them. Masks are (N, H, W) uint8, 0 or 1; region r of R belongs to mask `rows` (R,) and
has `boxes` (R, 4) x1, y1, x2, y2 in the masks' pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

REGION: Final = 14
"""Cells a side of the features that mask heads see of a region; the mask has twice as many (He et al., "Mask R-CNN",
ICCV 2017, fig. 4)."""
PIXELS: Final = 2**24
"""Pixels of masks that are unpacked to numbers at once: all masks of a batch would take gigabytes."""


@torch.no_grad()
def crop(masks: Tensor, rows: Tensor, boxes: Tensor, size: int) -> Tensor:
    """(R, size, size) in 0..1: each region's own mask in cells that divide the region evenly, by RoIAlign with as many
    samples a cell as it has pixels, as torchvision's Mask R-CNN does."""

    def some(masks: Tensor, rows: Tensor, boxes: Tensor) -> Tensor:
        regions = torch.cat([rows[:, None].to(boxes.dtype), boxes], dim=1)
        cropped: Tensor = roi_align(masks[:, None].to(boxes.dtype), regions, size)
        return cropped.squeeze(1)

    return _in_turn(some, masks, rows, boxes)


@torch.no_grad()
def share_inside(masks: Tensor, rows: Tensor, boxes: Tensor) -> Tensor:
    """(R,) in 0..1: how much of its mask's area lies in each region, with fractions of pixels; 0 for an empty mask."""

    def some(masks: Tensor, rows: Tensor, boxes: Tensor) -> Tensor:
        # Linear between its entries, the table of sums from the top left is exact at fractions of pixels too.
        sums = F.pad(masks, (1, 0, 1, 0)).cumsum(2, dtype=torch.int32).cumsum_(1, dtype=torch.int32)
        y, at_y = _ends(boxes[:, 1::2], masks.shape[1])
        x, at_x = _ends(boxes[:, 0::2], masks.shape[2])
        corners = sums[rows[:, None, None], y[:, :, None], x[:, None, :]].to(boxes.dtype)
        inside = (at_y[:, :, None] * corners * at_x[:, None, :]).sum(dim=(1, 2))
        return (inside / sums[rows, -1, -1].clamp(min=1)).clamp(0, 1)

    return _in_turn(some, masks, rows, boxes)


def _ends(ends: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """For intervals (R, 2) along a side of `size` pixels, the four entries (R, 4) of a table of running sums between
    which they begin and end, and what each counts."""
    ends = ends.clamp(0, size)
    low = ends.floor().clamp(max=size - 1)
    part = (ends - low)[..., None]
    signs = part.new_tensor([-1, 1])[:, None]
    return torch.stack([low, low + 1], dim=2).flatten(1).long(), (torch.cat([1 - part, part], dim=2) * signs).flatten(1)


def _in_turn(some: Callable[[Tensor, Tensor, Tensor], Tensor], masks: Tensor, rows: Tensor, boxes: Tensor) -> Tensor:
    """`some` on parts of the masks of at most `PIXELS`, with the regions of each part, put back in order."""
    step = max(1, PIXELS // max(1, masks[0].numel())) if len(masks) else 1
    if len(masks) <= step:
        return some(masks, rows, boxes)
    order = rows.argsort()
    counts = torch.bincount(rows // step, minlength=-(-len(masks) // step)).tolist()
    parts = zip(
        torch.split(masks, step), torch.split(rows[order], counts), torch.split(boxes[order], counts), strict=True
    )
    return torch.cat([some(part, own % step, where) for part, own, where in parts])[order.argsort()]
