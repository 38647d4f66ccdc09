"""Mask head (He et al., "Mask R-CNN", ICCV 2017, sec. 3), with torchvision's conventions for targets and the loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detsearch.arch.catalogue import catalogue
from detsearch.arch.modules.masks import MaskSpec
from detsearch.arch.spec import Norm
from detsearch.errors import DataError
from detsearch.nn.heads.maskiou import MaskIoUHead
from detsearch.nn.heads.towers import he_weights, tower, width_on
from detsearch.nn.norms import Norms
from detsearch.nn.ops.counts import of_batch
from detsearch.nn.ops.dense import precise
from detsearch.nn.ops.masks import REGION, crop, share_inside
from detsearch.nn.ops.regions import RegionPool
from detsearch.nn.structures import Detections, ImageBatch, Regions, Targets
from detsearch.types import FeatureSpec

WIDEST: Final = 256
"""Width of the published head, and the most that a width of 0 follows the maps to."""


class MaskHead(nn.Module):
    """Masks of regions: what `pool` takes from the maps goes through `convs`, any module that maps (R, C, S, S) to
    (R, width, S, S), is enlarged twofold, and gives a mask for every class. `score`, if any, rates the masks."""

    def __init__(
        self, pool: RegionPool, convs: nn.Module, *, width: int, num_classes: int, score: MaskIoUHead | None = None
    ) -> None:
        super().__init__()
        self.pool, self.convs, self.score = pool, convs, score
        self.enlarge = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.class_logits = nn.Conv2d(width, num_classes, 1)
        he_weights(self.enlarge)
        he_weights(self.class_logits)

    def forward(self, features: list[Tensor], regions: Regions, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features (R, C, S, S) and the logits (R, 2 S, 2 S) of each region's mask for its class `labels`
        (R,)."""
        pooled = self.pool(features, regions)
        x = F.relu(self.enlarge(self.convs(pooled)), inplace=True)
        # The masks of the other classes are never looked at. Both memory formats are views here.
        places = x.permute(0, 2, 3, 1).flatten(1, 2)
        weight, bias = self.class_logits.weight.flatten(1), self.class_logits.bias
        assert bias is not None
        logits = torch.bmm(places, weight[labels][:, :, None]).squeeze(2) + bias[labels][:, None]
        return pooled, logits.view(len(x), *x.shape[2:])

    def losses(
        self,
        features: list[Tensor],
        regions: Regions,
        rows: Tensor,
        images: ImageBatch,  # noqa: ARG002  regions say enough
        targets: Targets,
    ) -> dict[str, Tensor]:
        """Scalars `mask`, binary cross-entropy, mean over all cells of all regions of the batch, and those of `score`.
        DataError where the targets have no masks."""
        if targets.masks is None:
            raise DataError("targets", "a mask for every object, for a mask head", "boxes only")
        labels, own = targets.labels[regions.image, rows], targets.mask_rows()[regions.image, rows]
        pooled, logits = self(features, regions, labels)
        logits = precise(logits)
        boxes = precise(regions.boxes)
        wanted = crop(targets.masks, own, boxes, logits.shape[-1]).to(logits.dtype)
        off = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        losses = {"mask": off / of_batch(wanted.numel(), off.device)}
        if self.score is not None:
            losses |= self.score.losses(pooled, logits, labels, wanted, share_inside(targets.masks, own, boxes))
        return losses

    @torch.no_grad()
    def answer(
        self,
        features: list[Tensor],
        detections: Detections,
        images: ImageBatch,  # noqa: ARG002
    ) -> Detections:
        """The detections with masks, and their ratings where there is a `score`; nothing is computed for rows that are
        not valid."""
        image, row = detections.valid.nonzero(as_tuple=True)
        labels = detections.labels[image, row]
        pooled, logits = self(features, Regions(detections.boxes[image, row], image), labels)
        drawn = precise(logits).sigmoid()
        masks = drawn.new_zeros((*detections.valid.shape, *drawn.shape[1:]))
        masks[image, row] = drawn
        if self.score is None:
            return replace(detections, masks=masks)
        ratings = torch.zeros_like(detections.scores)
        ratings[image, row] = detections.scores[image, row] * self.score(pooled, drawn, labels).to(ratings.dtype)
        return replace(detections, masks=masks, mask_scores=ratings)


def build_mask(spec: MaskSpec, *, features: FeatureSpec, num_classes: int, norm: Norm) -> MaskHead:
    """A mask head on maps of one width."""
    width = width_on(features, spec.width, most=WIDEST)
    given: dict[str, Any] = {"features": features, "num_classes": num_classes, "norm": norm}
    if spec.tower is None:
        norms = Norms.of(norm, spec.norm)
        convs: nn.Module = tower(norms, features.channels[0], width, spec.depth, initialise=he_weights)
    else:
        convs = catalogue().build(spec.tower, **given)
    score = None if spec.score is None else catalogue().build(spec.score, **given)
    return MaskHead(RegionPool(features, REGION), convs, width=width, num_classes=num_classes, score=score)
