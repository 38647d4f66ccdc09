"""Non-maximum suppression per image and class, and the best of what remains in a fixed number of rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from detsearch.nn.structures import Detections


def best_per_class(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    valid: Tensor,
    *,
    iou_threshold: float,
    keep: int,
    fill: bool = False,
) -> Detections:
    """The `keep` best of (B, K) candidates after suppression among those of the same image and class. With `fill`, the
    best of the suppressed follow where fewer than `keep` remain.

    Exact: each class of each image is suppressed alone (boxes moved apart by class offsets lose digits and compare all
    with all). Equal scores keep the order in which they came. The device is waited for only to learn the groups, and in
    each group's suppression.
    """
    images, count = scores.shape
    scores, order = scores.masked_fill(~valid, -1.0).sort(dim=1, descending=True, stable=True)
    boxes, labels = boxes.gather(1, order[..., None].expand(-1, -1, 4)), labels.gather(1, order)

    image = torch.arange(images, device=labels.device)[:, None]
    group = (image * (labels.max() + 1 if labels.numel() else 1) + labels).masked_fill(scores < 0, -1).flatten()
    group, rows = group.sort(stable=True)
    ids, sizes = torch.unique_consecutive(group, return_counts=True)
    flat_boxes, flat_scores = boxes.flatten(0, 1)[rows], scores.flatten()[rows]
    alive = torch.zeros(images * count, dtype=torch.bool, device=scores.device)
    kept, start = [], 0
    for number, size in torch.stack([ids, sizes]).T.tolist():
        end = start + size
        if number >= 0:
            kept.append(nms(flat_boxes[start:end], flat_scores[start:end], iou_threshold) + start)
        start = end
    if kept:
        alive[rows[torch.cat(kept)]] = True
    alive = alive.view(images, count)
    suppressed = ~alive & (scores >= 0) if fill else torch.zeros_like(alive)
    return _pack(boxes, scores, labels, alive, suppressed, keep)


def _pack(boxes: Tensor, scores: Tensor, labels: Tensor, alive: Tensor, suppressed: Tensor, keep: int) -> Detections:
    """The first `keep` rows that are `alive`, in order, then those `suppressed`, then zeros."""
    first = alive.cumsum(dim=1)
    place = torch.where(alive, first, first[:, -1:] + suppressed.cumsum(dim=1)) - 1
    chosen = alive | suppressed
    place = place.masked_fill(~chosen | (place >= keep), keep)  # the rest goes to one more row, which is cut off

    def packed(values: Tensor) -> Tensor:
        out = values.new_zeros((len(values), keep + 1, *values.shape[2:]))
        index = place if values.dim() == 2 else place[..., None].expand_as(values)
        return out.scatter_(1, index, values)[:, :keep]

    return Detections(packed(boxes), packed(scores), packed(labels), packed(chosen))
