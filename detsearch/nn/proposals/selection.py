"""From the answers at every place to an image's best regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from detsearch.nn.ops import boxes as box_ops
from detsearch.nn.ops.dense import precise
from detsearch.nn.ops.nms import best_per_class
from detsearch.nn.structures import Proposals

LEAST_SIDE: Final = 1e-3
"""Pixels; what lies outside the image has less when it is cut at the border."""

MOST_CANDIDATES: Final = 1000
"""Of a level (Lin et al., CVPR 2017; torchvision)."""
PER_KEPT: Final = 4
"""Candidates of a level for each region that is kept, where that is fewer: a slim detector that keeps 100 would spend
as long on the suppression of thousands as on its network."""


def candidates_for(keep: int) -> int:
    """How many of a level's regions are compared where `keep` of an image are wanted."""
    return min(MOST_CANDIDATES, PER_KEPT * keep)


@torch.no_grad()
def best_proposals(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[Tensor],
    sizes: Tensor,
    *,
    candidates: int,
    keep: int,
    iou_threshold: float,
    fill: bool = False,
) -> Proposals:
    """The best `keep` regions of every image, `sizes` (B, 2) its height and width.

    By level, `logits` (B, A) that an anchor holds an object, -inf where it must not be taken; `deltas` (B, A, 4);
    `anchors` (A, 4) or (B, A, 4). Of every level the best `candidates` are decoded, cut at the image, suppressed by
    those of their level, and ranked by the probability over all levels. `fill`: see `best_per_class`.
    """
    levels = [_best(*level, candidates) for level in zip(logits, deltas, anchors, strict=True)]
    boxes, best = (torch.cat(part, dim=1) for part in zip(*levels, strict=True))
    boxes = box_ops.clip(boxes, sizes)
    level = torch.cat([torch.full_like(part, i, dtype=torch.int64) for i, (_, part) in enumerate(levels)], dim=1)
    taken = box_ops.at_least(boxes, LEAST_SIDE) & (best > -torch.inf)
    found = best_per_class(boxes, best.sigmoid(), level, taken, iou_threshold=iou_threshold, keep=keep, fill=fill)
    return Proposals(found.boxes, found.scores, found.valid)


def _best(logits: Tensor, deltas: Tensor, anchors: Tensor, candidates: int) -> tuple[Tensor, Tensor]:
    """Boxes (B, K, 4) and logits (B, K) of a level's best K anchors; only these are decoded."""
    best, rows = precise(logits).topk(min(candidates, logits.shape[1]), dim=1)
    index = rows[..., None].expand(-1, -1, 4)
    own = anchors[rows] if anchors.dim() == 2 else anchors.gather(1, index)
    return box_ops.decode(precise(deltas.gather(1, index)), own), best
