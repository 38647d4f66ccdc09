"""Which object an anchor, or a proposal, answers for."""

from __future__ import annotations

from itertools import repeat
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
def match(boxes: Tensor, valid: Tensor, anchors: Tensor, *, high: float, low: float, claim: bool = True) -> Tensor:
    """(B, A) int64: for every anchor the row of its object among `boxes` (B, M, 4) where `valid` (B, M). `anchors` are
    (A, 4), the same for all images, or (B, A, 4).

    The object of highest IoU, if that is at least `high`; otherwise BACKGROUND below `low` and IGNORED between. With
    `claim` also if no anchor has a higher IoU with some object than this one (so that each object that any anchor
    touches has an anchor; Faster R-CNN, Ren et al., NeurIPS 2015, sec. 3.1.2). Unlike torchvision's matcher, an object
    that no anchor touches claims none, instead of all that do not touch it.
    """
    images, objects = valid.shape
    count = anchors.shape[-2]
    if objects == 0 or count == 0:
        return torch.full((images, count), BACKGROUND, dtype=torch.int64, device=anchors.device)
    step = max(1, PAIRS // (objects * count))
    own = torch.split(anchors, step) if anchors.dim() == 3 else repeat(anchors)
    chunks = zip(torch.split(boxes, step), torch.split(valid, step), own, strict=False)  # what is repeated has no end
    return torch.cat([assign(_overlap(*chunk), high=high, low=low, claim=claim) for chunk in chunks])


def assign(overlap: Tensor, *, high: float, low: float, claim: bool = True) -> Tensor:
    """What `match` does, for any `overlap` (B, M, A) of objects (M at least 1, rows of padding 0) and anchors."""
    best, index = overlap.max(dim=1)
    taken = best >= high
    if claim:
        most = overlap.amax(dim=2, keepdim=True)
        most.masked_fill_(most <= 0, 2.0)  # out of reach: neither a padding row nor an untouched object claims anchors
        taken |= (overlap == most).any(dim=1)
    unmatched = torch.where(best < low, BACKGROUND, IGNORED)
    return torch.where(taken, index, unmatched)


def _overlap(boxes: Tensor, valid: Tensor, anchors: Tensor) -> Tensor:
    return iou(boxes.masked_fill(~valid[..., None], 0.0), anchors)  # a row of padding has no area, so IoU 0
