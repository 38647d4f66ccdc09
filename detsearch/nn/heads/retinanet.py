"""RetinaNet head (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017), with torchvision's conventions for
anchors, matching and the normalisation of losses."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from detsearch.arch.catalogue import catalogue
from detsearch.arch.modules.heads import BoxLoss, RetinaNetHeadSpec
from detsearch.arch.spec import Norm
from detsearch.nn.heads.towers import Towers, normal_weights, one_width, width_on
from detsearch.nn.interfaces import LevelTowers
from detsearch.nn.norms import Norms
from detsearch.nn.ops import boxes as box_ops
from detsearch.nn.ops.anchors import OCTAVE, Anchors, pyramid_sizes
from detsearch.nn.ops.dense import best_pairs, per_place, precise
from detsearch.nn.ops.losses import begin_with_prior, focal_loss, giou_loss
from detsearch.nn.ops.matching import BACKGROUND, match
from detsearch.nn.ops.nms import best_per_class
from detsearch.nn.structures import Detections, ImageBatch, Proposals, Targets
from detsearch.types import FeatureSpec

FINEST: Final = 3


class RetinaNetHead(nn.Module):
    """Classes and boxes of anchors, predicted from what the `towers`, shared by all levels, make of the maps, and what
    follows from these answers.

    `score_threshold` may be changed at any time; at 0 all `candidates` of every level go through suppression.
    """

    def __init__(
        self,
        towers: LevelTowers,
        anchors: Anchors,
        *,
        num_classes: int,
        match_high: float = 0.5,
        match_low: float = 0.4,
        alpha: float = 0.25,
        gamma: float = 2.0,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        nms_threshold: float = 0.5,
        max_detections: int = 300,
        box_loss: BoxLoss = "l1",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.box_loss: BoxLoss = box_loss
        self.match_high, self.match_low = match_high, match_low
        self.alpha, self.gamma = alpha, gamma
        self.score_threshold, self.candidates = score_threshold, candidates
        self.nms_threshold, self.max_detections = nms_threshold, max_detections
        self.towers, self.anchors = towers, anchors
        self.class_logits = nn.Conv2d(towers.width, anchors.per_place * num_classes, 3, padding=1)
        self.box_deltas = nn.Conv2d(towers.width, anchors.per_place * 4, 3, padding=1)
        normal_weights(self.class_logits)
        normal_weights(self.box_deltas)
        begin_with_prior(self.class_logits)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level, logits (B, A, C) and deltas (B, A, 4), A in the order of the anchors."""
        towers = [self.towers(level) for level in features]
        logits = [per_place(self.class_logits(classes), self.num_classes) for classes, _ in towers]
        return logits, [per_place(self.box_deltas(boxes), 4) for _, boxes in towers]

    def losses(
        self, features: list[Tensor], images: ImageBatch, targets: Targets, proposals: Proposals | None
    ) -> dict[str, Tensor]:
        """Scalars `classification` (focal) and `box` (L1 of deltas, or one minus the generalised IoU): per image
        divided by its positive anchors (at least 1), mean over the images."""
        assert proposals is None
        by_level = self(features)
        logits, deltas = (precise(torch.cat(part, dim=1)) for part in by_level)
        anchors = self.anchors(features, images.padded, deltas.dtype)
        boxes = targets.boxes.to(deltas.dtype)
        matches = match(boxes, targets.valid, anchors, high=self.match_high, low=self.match_low)
        positive, counted = matches >= 0, matches >= BACKGROUND
        number = positive.sum(dim=1).clamp(min=1)
        if targets.boxes.shape[1] == 0:  # nothing to gather from; a row of padding stands in and is never used
            labels, boxes = torch.zeros_like(matches), deltas.new_zeros((*matches.shape, 4))
        else:
            rows = matches.clamp(min=0)
            labels = targets.labels.gather(1, rows)
            boxes = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
        focal = focal_loss(logits, labels, positive, counted, alpha=self.alpha, gamma=self.gamma)
        if self.box_loss == "giou":
            off = torch.where(positive, giou_loss(box_ops.decode(deltas, anchors), boxes), 0.0).sum(dim=1)
        else:
            # Chosen before the L1, so that what padding encodes to (log 0) reaches neither the value nor the gradient.
            off = torch.where(positive[..., None], deltas - box_ops.encode(boxes, anchors), 0.0).abs().sum(dim=(1, 2))
        return {"classification": (focal / number).mean(), "box": (off / number).mean()}

    @torch.no_grad()
    def detect(self, features: list[Tensor], images: ImageBatch, proposals: Proposals | None) -> Detections:
        """`max_detections` rows an image: per level the best `candidates` over `score_threshold`, boxes cut at the
        image, suppression per class."""
        assert proposals is None
        logits, deltas = self(features)
        anchors = self.anchors(features, images.padded, precise(deltas[0]).dtype)
        levels = anchors.split([level.shape[1] for level in logits])
        found = [self._best(*level) for level in zip(logits, deltas, levels, strict=True)]
        boxes, scores, labels = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
        return best_per_class(
            box_ops.clip(boxes, images.sizes),
            scores,
            labels,
            scores > self.score_threshold,
            iou_threshold=self.nms_threshold,
            keep=self.max_detections,
        )

    def _best(self, logits: Tensor, deltas: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (B, K, 4), scores and labels (B, K) of a level's best K pairs of anchor and class."""
        best, row, label = best_pairs(logits, self.candidates)
        chosen = precise(deltas.gather(1, row[..., None].expand(-1, -1, 4)))
        return box_ops.decode(chosen, anchors[row]), precise(best).sigmoid(), label


def build_retinanet(spec: RetinaNetHeadSpec, *, features: FeatureSpec, num_classes: int, norm: Norm) -> RetinaNetHead:
    """SpecError where the maps differ in width."""
    one_width("retinanet", features)
    if spec.tower is None:
        norms = Norms.of(norm, spec.norm)
        towers: LevelTowers = Towers(norms, features.channels[0], width_on(features, spec.width), spec.depth)
    else:
        towers = catalogue().build(spec.tower, features=features, num_classes=num_classes, norm=norm)
    anchors = Anchors(pyramid_sizes(features, spec.anchor_scale, scales=OCTAVE, finest=FINEST))
    return RetinaNetHead(towers, anchors, num_classes=num_classes, box_loss=spec.loss)
