"""Guided-Anchoring RPN (Wang et al., "Region Proposal by Guided Anchoring", CVPR 2019): every place predicts whether it
has an anchor and of what shape, and its features are fitted to that one anchor."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from detsearch.arch.modules.proposals import GARPNSpec
from detsearch.arch.spec import Norm
from detsearch.nn.heads.towers import normal_weights, one_width, tower, width_on
from detsearch.nn.norms import Norms
from detsearch.nn.ops import boxes as box_ops
from detsearch.nn.ops.anchors import OCTAVE, Anchors, pyramid_sizes
from detsearch.nn.ops.deform import DeformableConv2d
from detsearch.nn.ops.dense import per_place, precise
from detsearch.nn.ops.losses import begin_with_prior, bounded_iou_loss, focal_loss
from detsearch.nn.ops.matching import match
from detsearch.nn.ops.sampling import BalancedSampler, Sampler
from detsearch.nn.proposals.guided import location_targets, shape_targets
from detsearch.nn.proposals.rpn import FINEST, POSITIVE_SHARE, SAMPLES, TRAINING_FACTOR, anchor_losses
from detsearch.nn.proposals.selection import best_proposals, candidates_for
from detsearch.nn.structures import ImageBatch, Proposals, Targets
from detsearch.types import FeatureSpec

LOCATION_WEIGHT: Final = 1.0
SHAPE_WEIGHT: Final = 0.1
"""Of the losses (sec. 4.1); those of objectness and boxes count 1."""
ALPHA: Final = 0.25
GAMMA: Final = 2.0
"""Of the focal loss of locations."""
BETA: Final = 0.2
"""Where the smooth L1 of the bounded IoU loss turns from square to linear (the authors' code)."""
KERNEL: Final = 3
GROUPS: Final = 4
"""Of the deformable convolution: its side, and the groups of channels that it displaces each in its own way where the
width is a multiple, else as many as divide both (the authors' code)."""


class GARPN(nn.Module):
    """Location, shape, objectness and box of one anchor a place, predicted from what `tower`, of `width` channels,
    makes of each level; then the best regions.

    An anchor has its place's centre and the sides w = s e^dw, h = s e^dh with (dw, dh) the answer of the shape branch
    and s those of the level's `squares`, one a place. `samples` are the anchors that are tried to learn which objects
    a place can cover. While answering, places whose probability of an anchor is not above `location_threshold` propose
    nothing.

    `keep` and `fill` may be changed at any time; see `nn.interfaces`. `fill` also brings all places back. With targets
    there are twice `candidates` of a level and twice `keep`.
    """

    def __init__(
        self,
        tower: nn.Module,
        width: int,
        squares: Anchors,
        samples: Anchors,
        *,
        sampler: Sampler,
        keep: int = 1000,
        candidates: int = 1000,
        location_threshold: float = 0.01,
        match_high: float = 0.7,
        match_low: float = 0.3,
        nms_threshold: float = 0.7,
    ) -> None:
        super().__init__()
        self.sampler = sampler
        self.keep, self.candidates, self.fill = keep, candidates, False
        self.location_threshold = location_threshold
        self.match_high, self.match_low, self.nms_threshold = match_high, match_low, nms_threshold
        self.tower, self.squares, self.samples = tower, squares, samples
        self.sides = [float(cell[0, 2] - cell[0, 0]) for cell in squares.cells]
        self.location = nn.Conv2d(width, 1, 1)
        self.shape = nn.Conv2d(width, 2, 1)
        self.adaption = FeatureAdaption(width)
        self.objectness = nn.Conv2d(width, 1, 1)
        self.box_deltas = nn.Conv2d(width, 4, 1)
        for branch in (self.location, self.shape, self.objectness, self.box_deltas):
            normal_weights(branch)
        begin_with_prior(self.location)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Per level, logits of location (B, A), log sides (B, A, 2) in units of the squares, and of the guided anchors
        logits of objectness (B, A) and deltas (B, A, 4)."""
        locations, shapes, logits, deltas = [], [], [], []
        for level in features:
            x = self.tower(level)
            shape = self.shape(x)
            # What the shape says is claimed by its own loss; those of the adapted features must not bend it.
            adapted = self.adaption(x, shape.detach())
            locations.append(per_place(self.location(x), 1).squeeze(-1))
            shapes.append(per_place(shape, 2))
            logits.append(per_place(self.objectness(adapted), 1).squeeze(-1))
            deltas.append(per_place(self.box_deltas(adapted), 4))
        return locations, shapes, logits, deltas

    def propose(
        self, features: list[Tensor], images: ImageBatch, targets: Targets | None
    ) -> tuple[Proposals, dict[str, Tensor]]:
        """`keep` rows an image; losses `anchor_location` (focal, per image divided by its positive places, at least 1),
        `anchor_shape` (bounded IoU, per image the mean of the places that have an object to cover), both means over the
        images, and `objectness` and `proposal_box` as `rpn.anchor_losses` has them."""
        locations, shapes, logits, deltas = self(features)
        shape = precise(torch.cat(shapes, dim=1))
        squares = self.squares(features, images.padded, shape.dtype)
        guided = guided_anchors(squares, shape.detach())
        factor = 1 if targets is None else TRAINING_FACTOR
        scores = logits
        if targets is None and not self.fill:
            least = math.log(self.location_threshold / (1 - self.location_threshold))
            pairs = zip(logits, locations, strict=True)
            scores = [logit.masked_fill(location <= least, -torch.inf) for logit, location in pairs]
        proposals = best_proposals(
            scores,
            deltas,
            torch.split(guided, [level.shape[1] for level in logits], dim=1),
            images.sizes,
            candidates=factor * self.candidates,
            keep=factor * self.keep,
            iou_threshold=self.nms_threshold,
            fill=self.fill,
        )
        if targets is None:
            return proposals, {}
        boxes = targets.boxes.to(guided.dtype)
        matches = match(boxes, targets.valid, guided, high=self.match_high, low=self.match_low)
        logit, delta, location = (precise(torch.cat(part, dim=1)) for part in (logits, deltas, locations))
        return proposals, {
            "anchor_location": LOCATION_WEIGHT * self._location_loss(location, features, images, boxes, targets.valid),
            "anchor_shape": SHAPE_WEIGHT * self._shape_loss(shape, squares, features, images, boxes, targets.valid),
            **anchor_losses(logit, delta, guided, matches, targets, self.sampler),
        }

    def _location_loss(
        self, logits: Tensor, features: list[Tensor], images: ImageBatch, boxes: Tensor, valid: Tensor
    ) -> Tensor:
        grids = [(level.shape[-2], level.shape[-1]) for level in features]
        positive, counted = location_targets(boxes, valid, grids, images.padded, self.sides)
        none = torch.zeros_like(positive, dtype=torch.int64)  # the one class
        focal = focal_loss(logits[..., None], none, positive, counted, alpha=ALPHA, gamma=GAMMA)
        return (focal / positive.sum(dim=1).clamp(min=1)).mean()

    def _shape_loss(
        self,
        shape: Tensor,
        squares: Tensor,
        features: list[Tensor],
        images: ImageBatch,
        boxes: Tensor,
        valid: Tensor,
    ) -> Tensor:
        samples = self.samples(features, images.padded, shape.dtype).view(len(squares), -1, 4)
        rows = shape_targets(boxes, valid, samples, high=self.match_high, low=self.match_low)
        image, place = (rows >= 0).nonzero(as_tuple=True)
        wanted = box_ops.encode(boxes[image, rows[image, place]], squares[place])[:, 2:]
        missing = bounded_iou_loss(shape[image, place], wanted, beta=BETA).sum(dim=1)
        number = torch.bincount(image, minlength=len(rows))
        return (missing / number[image]).sum() / len(rows)


class FeatureAdaption(nn.Module):
    """Fits the features of a place to its anchor: a deformable convolution whose displacements are a linear function of
    the anchor's shape (sec. 3.4), then a ReLU. Without a bias: an anchor of the base shape has the usual grid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = DeformableConv2d(width, width, KERNEL, math.gcd(GROUPS, width))
        self.offsets = nn.Conv2d(2, self.conv.offsets, 1, bias=False)
        nn.init.normal_(self.offsets.weight, std=0.1)
        nn.init.normal_(self.conv.weight, std=0.01)

    def forward(self, level: Tensor, shape: Tensor) -> Tensor:
        """`level` (B, C, H, W) and `shape` (B, 2, H, W) to (B, C, H, W)."""
        adapted: Tensor = self.conv(level, self.offsets(shape))
        return adapted.relu()


def guided_anchors(squares: Tensor, shape: Tensor) -> Tensor:
    """(B, A, 4) anchors of the given log sides `shape` (B, A, 2), in units of those of `squares` (A, 4), around their
    centres."""
    log_sides = shape.clamp(min=-box_ops.MAX_LOG_SCALE)  # decoding bounds it above
    return box_ops.decode(torch.cat([torch.zeros_like(shape), log_sides], dim=-1), squares)


def build_ga_rpn(spec: GARPNSpec, *, features: FeatureSpec, norm: Norm) -> GARPN:
    """SpecError where the maps differ in width."""
    one_width("ga_rpn", features)
    width = width_on(features, spec.width)
    scale = spec.anchor_scale
    return GARPN(
        tower(Norms.of(norm, spec.norm), features.channels[0], width, spec.depth),
        width,
        Anchors([[scale * stride] for stride in features.strides], ratios=(1.0,)),
        Anchors(
            pyramid_sizes(features, scale, scales=OCTAVE, finest=FINEST)
        ),  # nine shapes are tried at a place (sec. 3.5)
        sampler=BalancedSampler(SAMPLES, POSITIVE_SHARE),
        keep=spec.keep,
        candidates=candidates_for(spec.keep),
    )
