"""Which object an anchor answers for."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from detsearch.nn.ops.boxes import iou

BACKGROUND: Final = -1
IGNORED: Final = -2
PAIRS: Final = 2**20
"""Pairs of object and anchor compared at once: bounds the memory of the IoU matrix (a few such tensors live), and more
falls out of a CPU's cache, which takes twice the time."""


@torch.no_grad()
def match(boxes: Tensor, valid: Tensor, anchors: Tensor, *, high: float, low: float) -> Tensor:
    """(B, A) int64: for every anchor (A, 4) the row of its object among `boxes` (B, M, 4) where `valid` (B, M).

    The object of highest IoU, if that is at least `high`, or if no anchor has a higher IoU with some object than this
    one (so that each object that any anchor touches has an anchor; Faster R-CNN, Ren et al., NeurIPS 2015, sec. 3.1.2);
    otherwise BACKGROUND below `low` and IGNORED between. Unlike torchvision's matcher, an object that no anchor touches
    claims none, instead of all that do not touch it.
    """
    images, objects = valid.shape
    if objects == 0:
        return torch.full((images, len(anchors)), BACKGROUND, dtype=torch.int64, device=anchors.device)
    step = max(1, PAIRS // max(1, objects * len(anchors)))
    chunks = zip(torch.split(boxes, step), torch.split(valid, step), strict=True)
    return torch.cat([_match(*chunk, anchors, high, low) for chunk in chunks])


def _match(boxes: Tensor, valid: Tensor, anchors: Tensor, high: float, low: float) -> Tensor:
    overlap = iou(boxes.masked_fill(~valid[..., None], 0.0), anchors)  # a row of padding has no area, so IoU 0
    best, index = overlap.max(dim=1)
    most = overlap.amax(dim=2, keepdim=True)
    most.masked_fill_(most <= 0, 2.0)  # out of reach: neither a padding row nor an untouched object claims anchors
    claimed = (overlap == most).any(dim=1)
    unmatched = torch.where(best < low, BACKGROUND, IGNORED)
    return torch.where(claimed | (best >= high), index, unmatched)
