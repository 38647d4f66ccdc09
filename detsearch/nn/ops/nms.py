"""Non-maximum suppression per image and class, and the best of what remains in a fixed number of rows."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torchvision.ops import nms

from detsearch.nn.structures import Detections

TOGETHER: Final = 40_000
"""Up to so many pairs of candidates for each group, one suppression of all is faster than one for each group: on a CPU
a call costs about 60 us, and a pair 1.5 ns."""


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

    Exact: each class of each image is suppressed alone, or, where there are few candidates, all at once, moved apart
    in float64, in which nothing of float32 boxes is lost. Equal scores keep the order in which they came. The device is
    waited for only to learn the groups, and in each suppression.
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
    groups = [(number, size) for number, size in torch.stack([ids, sizes]).T.tolist()]
    first = groups[0][1] if groups and groups[0][0] < 0 else 0  # what is not valid comes first
    groups = groups[first > 0 :]
    number = len(rows) - first
    if number**2 <= TOGETHER * len(groups) and boxes.dtype == torch.float32:
        found = _suppressed_together(flat_boxes[first:], flat_scores[first:], group[first:], iou_threshold)
        alive[rows[found + first]] = True
    else:
        kept, start = [], first
        for _, size in groups:
            end = start + size
            kept.append(nms(flat_boxes[start:end], flat_scores[start:end], iou_threshold) + start)
            start = end
        if kept:
            alive[rows[torch.cat(kept)]] = True
    alive = alive.view(images, count)
    suppressed = ~alive & (scores >= 0) if fill else torch.zeros_like(alive)
    return _pack(boxes, scores, labels, alive, suppressed, keep)


def _suppressed_together(boxes: Tensor, scores: Tensor, group: Tensor, iou_threshold: float) -> Tensor:
    """The rows that remain of boxes (N, 4), each suppressed among those of its own group."""
    if not len(boxes):
        return torch.zeros(0, dtype=torch.long, device=boxes.device)
    exact = boxes.double().nan_to_num(0.0, 0.0, 0.0)  # one that is not finite must not spoil the others
    low, high = exact.aminmax()
    apart = (group.double() * (high - low + 1))[:, None]
    kept: Tensor = nms(exact - low + apart, scores.double(), iou_threshold)
    return kept


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
