"""What heads do with regions before and behind their predictors: the sample that is trained, its losses, and the
detections that the answers amount to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from detsearch.nn.ops import boxes as box_ops
from detsearch.nn.ops.boxes import Weights
from detsearch.nn.ops.counts import of_batch
from detsearch.nn.ops.losses import SMOOTH_BETA
from detsearch.nn.ops.matching import match
from detsearch.nn.ops.nms import best_per_class
from detsearch.nn.ops.sampling import Sampler
from detsearch.nn.structures import Detections, Proposals, Regions, Targets

LEAST_SIDE: Final = 1e-2
"""Pixels; detections with less, cut at the image, are none."""


@dataclass(frozen=True, slots=True)
class TrainingRegions:
    """N sampled `regions`, image by image, of which `positive` (P,) int64 are those with an object: the `rows` (P,) of
    their image's targets. `given` (N,) bool: the regions that are an object's own box, not a proposal."""

    regions: Regions
    positive: Tensor
    rows: Tensor
    given: Tensor

    def positives(self) -> Regions:
        return Regions(self.regions.boxes[self.positive], self.regions.image[self.positive])


@torch.no_grad()
def training_regions(
    proposals: Proposals, targets: Targets, sampler: Sampler, *, match_threshold: float
) -> TrainingRegions:
    """A sample of the proposals and of the objects' own boxes; positive from an IoU of `match_threshold` on."""
    kind = proposals.boxes.dtype
    objects = targets.boxes.to(kind)
    boxes = torch.cat([proposals.boxes, objects], dim=1)
    present = torch.cat([proposals.valid, targets.valid], dim=1)
    matches = match(objects, targets.valid, boxes, high=match_threshold, low=match_threshold, claim=False)
    positive, negative = sampler((matches >= 0) & present, (matches < 0) & present)
    image, place = (positive | negative).nonzero(as_tuple=True)
    own = positive[image, place].nonzero().squeeze(1)
    given = place >= proposals.valid.shape[1]
    return TrainingRegions(Regions(boxes[image, place], image), own, matches[image, place][own], given)


def region_losses(
    logits: Tensor, deltas: Tensor, sampled: TrainingRegions, targets: Targets, weights: Weights
) -> dict[str, Tensor]:
    """Scalars `classification` (cross entropy) and `box` (smooth L1 of the positive regions' deltas), both divided by
    the number of regions; `logits` (N, 1 + C), background first, `deltas` (N, C, 4) or (N, 1, 4)."""
    regions, positive = sampled.regions, sampled.positive
    image = regions.image[positive]
    own = targets.labels[image, sampled.rows]
    labels = torch.zeros_like(regions.image).index_copy_(0, positive, own + 1)
    classification = F.cross_entropy(logits, labels, reduction="sum")
    boxes = targets.boxes[image, sampled.rows].to(deltas.dtype)
    goal = box_ops.encode(boxes, regions.boxes[positive], weights)
    off = F.smooth_l1_loss(_of_class(deltas, positive, own), goal, reduction="sum", beta=SMOOTH_BETA)
    number = of_batch(len(regions), logits.device)
    return {"classification": classification / number, "box": off / number}


def best_detections(
    scores: Tensor,
    deltas: Tensor,
    regions: Regions,
    sizes: Tensor,
    *,
    weights: Weights,
    score_threshold: float,
    candidates: int,
    nms_threshold: float,
    keep: int,
    fill: bool = False,
) -> Detections:
    """`keep` rows for each of the B images, `sizes` (B, 2) their heights and widths: the best `candidates` pairs of
    region and class over `score_threshold`, suppressed per class. `scores` (N, C); `deltas` (N, C, 4) or (N, 1, 4);
    `regions` image by image. `fill`: see `best_per_class`."""
    region, label = (scores > score_threshold).nonzero(as_tuple=True)
    image = regions.image[region]
    found, counts = by_image(scores[region, label], image, len(sizes), padding=-1.0)
    best, column = found.topk(min(candidates, found.shape[1]), dim=1)
    start = counts.cumsum(0) - counts
    pair = (start[:, None] + column).clamp(max=len(image) - 1)  # rows of padding may point behind the last
    region, label = region[pair], label[pair]
    # Only these pairs are decoded.
    boxes = box_ops.decode(_of_class(deltas, region, label), regions.boxes[region], weights)
    boxes = box_ops.clip(boxes, sizes)
    taken = (best >= 0) & box_ops.at_least(boxes, LEAST_SIDE)
    return best_per_class(boxes, best, label, taken, iou_threshold=nms_threshold, keep=keep, fill=fill)


def by_image(values: Tensor, image: Tensor, images: int, *, padding: float = 0.0) -> tuple[Tensor, Tensor]:
    """What lies image by image, (N, ...) with the `image` (N,) of each, in a row for each of the `images`: (B, K, ...)
    for the K of the fullest, `padding` behind the others'; and how many each has, (B,)."""
    counts = torch.bincount(image, minlength=images)
    place = torch.arange(len(image), device=image.device) - (counts.cumsum(0) - counts)[image]
    rows = values.new_full((images, int(counts.max()), *values.shape[1:]), padding)
    rows[image, place] = values
    return rows, counts


def _of_class(deltas: Tensor, region: Tensor, label: Tensor) -> Tensor:
    """The deltas of each region for its class: those that all classes share, if there are no others."""
    return deltas[region, label.clamp(max=deltas.shape[1] - 1)]
