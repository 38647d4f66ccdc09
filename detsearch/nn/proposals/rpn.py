"""Region proposal network (Ren et al., "Faster R-CNN", NeurIPS 2015; on a pyramid, Lin et al., CVPR 2017, sec. 4.1),
with torchvision's conventions for anchors, matching and losses."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detsearch.arch.modules.proposals import RPNSpec
from detsearch.arch.spec import Norm
from detsearch.nn.heads.towers import normal_weights, one_width, tower, width_on
from detsearch.nn.norms import Norms
from detsearch.nn.ops import boxes as box_ops
from detsearch.nn.ops.anchors import Anchors, pyramid_sizes
from detsearch.nn.ops.counts import of_batch
from detsearch.nn.ops.dense import per_place, precise
from detsearch.nn.ops.losses import SMOOTH_BETA
from detsearch.nn.ops.matching import BACKGROUND, match
from detsearch.nn.ops.sampling import BalancedSampler, Sampler
from detsearch.nn.proposals.selection import best_proposals, candidates_for
from detsearch.nn.structures import ImageBatch, Proposals, Targets
from detsearch.types import FeatureSpec

FINEST: Final = 2
SAMPLES: Final = 256
POSITIVE_SHARE: Final = 0.5
"""Anchors of an image that the losses look at (sec. 3.1.3)."""
TRAINING_FACTOR: Final = 2
"""How many times as many regions training takes along: the head's sample needs poor ones too."""


class RPN(nn.Module):
    """For every anchor whether it holds an object, and which box, predicted from what `tower`, of `width` channels,
    makes of each level; then the best regions.

    `keep` and `fill` may be changed at any time; see `nn.interfaces`. With targets there are twice `candidates` of a
    level and twice `keep`.
    """

    def __init__(
        self,
        tower: nn.Module,
        width: int,
        anchors: Anchors,
        *,
        sampler: Sampler,
        keep: int = 1000,
        candidates: int = 1000,
        match_high: float = 0.7,
        match_low: float = 0.3,
        nms_threshold: float = 0.7,
    ) -> None:
        super().__init__()
        self.sampler = sampler
        self.keep, self.candidates, self.fill = keep, candidates, False
        self.match_high, self.match_low, self.nms_threshold = match_high, match_low, nms_threshold
        self.tower, self.anchors = tower, anchors
        self.objectness = nn.Conv2d(width, anchors.per_place, 1)
        self.box_deltas = nn.Conv2d(width, anchors.per_place * 4, 1)
        normal_weights(self.objectness)
        normal_weights(self.box_deltas)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level, logits (B, A) and deltas (B, A, 4), A in the order of the anchors."""
        towers = [self.tower(level) for level in features]
        logits = [per_place(self.objectness(level), 1).squeeze(-1) for level in towers]
        return logits, [per_place(self.box_deltas(level), 4) for level in towers]

    def propose(
        self, features: list[Tensor], images: ImageBatch, targets: Targets | None
    ) -> tuple[Proposals, dict[str, Tensor]]:
        """`keep` rows an image; losses `objectness` (cross entropy, mean of the sampled anchors of the batch) and
        `proposal_box` (smooth L1 of deltas, sum divided by the same number)."""
        logits, deltas = self(features)
        anchors = self.anchors(features, images.padded, precise(deltas[0]).dtype)
        factor = 1 if targets is None else TRAINING_FACTOR
        proposals = best_proposals(
            logits,
            deltas,
            anchors.split([level.shape[1] for level in logits]),
            images.sizes,
            candidates=factor * self.candidates,
            keep=factor * self.keep,
            iou_threshold=self.nms_threshold,
            fill=self.fill,
        )
        if targets is None:
            return proposals, {}
        matches = match(
            targets.boxes.to(anchors.dtype), targets.valid, anchors, high=self.match_high, low=self.match_low
        )
        logit, delta = (precise(torch.cat(part, dim=1)) for part in (logits, deltas))
        return proposals, anchor_losses(logit, delta, anchors, matches, targets, self.sampler)


def anchor_losses(
    logits: Tensor, deltas: Tensor, anchors: Tensor, matches: Tensor, targets: Targets, sampler: Sampler
) -> dict[str, Tensor]:
    """What `RPN.propose` says of its losses, of `logits` (B, A), `deltas` (B, A, 4), `anchors` (A, 4) or (B, A, 4) and
    `matches` (B, A)."""
    positive, negative = sampler(matches >= 0, matches == BACKGROUND)
    sampled = (positive | negative).nonzero(as_tuple=True)
    wanted = positive[sampled].to(logits.dtype)
    objectness = F.binary_cross_entropy_with_logits(logits[sampled], wanted, reduction="sum")
    own = image, _ = positive.nonzero(as_tuple=True)
    boxes = targets.boxes[image, matches[own]].to(deltas.dtype)
    goal = box_ops.encode(boxes, anchors.expand(len(logits), -1, -1)[own])
    off = F.smooth_l1_loss(deltas[own], goal, reduction="sum", beta=SMOOTH_BETA)
    number = of_batch(len(wanted), logits.device)
    return {"objectness": objectness / number, "proposal_box": off / number}


def build_rpn(spec: RPNSpec, *, features: FeatureSpec, norm: Norm) -> RPN:
    """SpecError where the maps differ in width."""
    one_width("rpn", features)
    width = width_on(features, spec.width)
    return RPN(
        tower(Norms.of(norm, spec.norm), features.channels[0], width, spec.depth),
        width,
        Anchors(pyramid_sizes(features, spec.anchor_scale, finest=FINEST)),
        sampler=BalancedSampler(SAMPLES, POSITIVE_SHARE),
        keep=spec.keep,
        candidates=candidates_for(spec.keep),
    )
