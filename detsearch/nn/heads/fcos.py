"""FCOS head in its improved form (Tian et al., "FCOS: A Simple and Strong Anchor-Free Object Detector", TPAMI 2020),
with torchvision's conventions for places, assignment and the normalisation of losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detsearch.arch.catalogue import catalogue
from detsearch.arch.modules.heads import FCOSHeadSpec
from detsearch.arch.spec import Norm
from detsearch.nn.heads.towers import Towers, normal_weights, one_width, width_on
from detsearch.nn.interfaces import LevelTowers
from detsearch.nn.norms import Norms
from detsearch.nn.ops import boxes as box_ops
from detsearch.nn.ops.anchors import Anchors
from detsearch.nn.ops.counts import of_batch
from detsearch.nn.ops.dense import best_pairs, best_places, per_place, precise
from detsearch.nn.ops.losses import begin_with_prior, focal_loss, giou_loss
from detsearch.nn.ops.nms import best_per_class
from detsearch.nn.ops.places import assign
from detsearch.nn.structures import Detections, ImageBatch, Proposals, Targets
from detsearch.types import FeatureSpec


class FCOSHead(nn.Module):
    """Classes, sides of a box and centre-ness at every place, predicted from what the `towers`, shared by all levels,
    make of the maps, and what follows from these answers.

    A place answers for the smallest object whose centre is at most `radius` strides away in x and y, that it lies
    in, and whose farthest side is at a distance that belongs to its level. Sides are in units of the stride. The score
    is the root of the class's probability times the centre-ness. `score_threshold` may be changed at any time; at 0 all
    `candidates` of every level go through suppression.
    """

    def __init__(
        self,
        towers: LevelTowers,
        strides: tuple[int, ...],
        *,
        num_classes: int,
        radius: float = 1.5,
        alpha: float = 0.25,
        gamma: float = 2.0,
        score_threshold: float = 0.2,
        candidates: int = 1000,
        nms_threshold: float = 0.6,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.num_classes, self.radius = num_classes, radius
        self.alpha, self.gamma = alpha, gamma
        self.score_threshold, self.candidates = score_threshold, candidates
        self.nms_threshold, self.max_detections = nms_threshold, max_detections
        self.towers = towers
        self.places = Anchors([[stride] for stride in strides], ratios=(1.0,))
        self.strides = strides
        self.class_logits = nn.Conv2d(towers.width, num_classes, 3, padding=1)
        self.box_sides = nn.Conv2d(towers.width, 4, 3, padding=1)
        self.centreness = nn.Conv2d(towers.width, 1, 3, padding=1)
        for layer in (self.class_logits, self.box_sides, self.centreness):
            normal_weights(layer)
        begin_with_prior(self.class_logits)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Per level, logits (B, A, C), sides (B, A, 4) of at least 0, and logits of the centre-ness (B, A)."""
        logits, sides, centred = [], [], []
        for level in features:
            classes, boxes = self.towers(level)
            logits.append(per_place(self.class_logits(classes), self.num_classes))
            sides.append(per_place(self.box_sides(boxes), 4).relu())
            centred.append(self.centreness(boxes).flatten(1))
        return logits, sides, centred

    def losses(
        self, features: list[Tensor], images: ImageBatch, targets: Targets, proposals: Proposals | None
    ) -> dict[str, Tensor]:
        """Scalars `classification` (focal), `box` (one minus the generalised IoU) and `centreness` (binary cross
        entropy), each divided by the places of the whole batch that answer for an object (at least 1)."""
        assert proposals is None
        by_level = self(features)
        logits, sides, centred = (precise(torch.cat(part, dim=1)) for part in by_level)
        places = self.places(features, images.padded, sides.dtype)
        boxes = targets.boxes.to(sides.dtype)
        grids = [(level.shape[-2], level.shape[-1]) for level in features]
        rows = assign(boxes, targets.valid, grids, images.padded, strides=self.strides, radius=self.radius)
        positive, rows = rows >= 0, rows.clamp(min=0)
        number = of_batch(positive.sum(), positive.device)
        if targets.boxes.shape[1] == 0:  # nothing to gather from; a row of padding stands in and is never used
            labels, boxes = torch.zeros_like(rows), sides.new_zeros((*rows.shape, 4))
        else:
            labels = targets.labels.gather(1, rows)
            boxes = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
        focal = focal_loss(logits, labels, positive, torch.ones_like(positive), alpha=self.alpha, gamma=self.gamma)
        off = torch.where(positive, giou_loss(box_ops.decode_sides(sides, places), boxes), 0.0)
        centre = torch.where(positive, centreness(box_ops.encode_sides(boxes, places)), 0.0)
        unsure = F.binary_cross_entropy_with_logits(centred, centre, reduction="none")
        sums = {"classification": focal, "box": off, "centreness": torch.where(positive, unsure, 0.0)}
        return {name: loss.sum() / number for name, loss in sums.items()}

    @torch.no_grad()
    def detect(self, features: list[Tensor], images: ImageBatch, proposals: Proposals | None) -> Detections:
        """`max_detections` rows an image: per level the best `candidates` over `score_threshold`, boxes cut at the
        image, suppression per class."""
        assert proposals is None
        logits, sides, centred = self(features)
        places = self.places(features, images.padded, precise(sides[0]).dtype)
        levels = places.split([level.shape[1] for level in logits])
        found = [self._best(*level) for level in zip(logits, sides, centred, levels, strict=True)]
        boxes, scores, labels = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
        return best_per_class(
            box_ops.clip(boxes, images.sizes),
            scores,
            labels,
            scores > self.score_threshold,
            iou_threshold=self.nms_threshold,
            keep=self.max_detections,
        )

    def _best(self, logits: Tensor, sides: Tensor, centred: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (B, K, 4), scores and labels (B, K) of a level's best K pairs of place and class."""
        centred = precise(centred).sigmoid()
        rows = best_places(precise(logits.amax(dim=-1)).sigmoid() * centred, self.candidates)
        if rows is not None:
            logits = logits.gather(1, rows[..., None].expand(-1, -1, self.num_classes))
            centred = centred.gather(1, rows)
        scores, row, label = best_pairs((precise(logits).sigmoid() * centred[..., None]).sqrt(), self.candidates)
        if rows is not None:
            row = rows.gather(1, row)
        chosen = precise(sides.gather(1, row[..., None].expand(-1, -1, 4)))
        return box_ops.decode_sides(chosen, places[row]), scores, label


def centreness(sides: Tensor) -> Tensor:
    """How central a place is in its box, 0..1, from its distances to the sides (..., 4) (eq. 3); outside the box it
    means nothing."""
    left, upper, right, lower = sides.unbind(-1)
    across = torch.minimum(left, right) / torch.maximum(left, right)
    down = torch.minimum(upper, lower) / torch.maximum(upper, lower)
    return (across * down).sqrt()


def build_fcos(spec: FCOSHeadSpec, *, features: FeatureSpec, num_classes: int, norm: Norm) -> FCOSHead:
    """SpecError where the maps differ in width."""
    one_width("fcos", features)
    if spec.tower is None:
        norms = Norms.of(norm, spec.norm, beside_bn="gn")
        towers: LevelTowers = Towers(norms, features.channels[0], width_on(features, spec.width), spec.depth, bias=True)
    else:
        towers = catalogue().build(spec.tower, features=features, num_classes=num_classes, norm=norm)
    return FCOSHead(towers, features.strides, num_classes=num_classes)
