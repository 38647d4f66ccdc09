"""MaskIoU head (Huang et al., "Mask Scoring R-CNN", CVPR 2019): how well a mask fits, from its region's features and
itself."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detsearch.arch.modules.masks import MaskIoUSpec
from detsearch.arch.spec import Norm
from detsearch.nn.heads.towers import he_weights, tower, width_on
from detsearch.nn.norms import Norms
from detsearch.nn.ops.counts import of_batch
from detsearch.nn.ops.dense import precise
from detsearch.nn.ops.masks import REGION
from detsearch.types import FeatureSpec

WIDEST: Final = 256
"""Width of the published head's convolutions, and the most that a width of 0 follows the maps to."""


class MaskIoUHead(nn.Module):
    """IoU of masks with their objects (sec. 3.3): `convs`, any module that takes the C channels of a region and one
    more for its mask, then two layers of `hidden` units, then an IoU for every class. `inputs` is the number of values
    that `convs` gives of a region."""

    def __init__(self, convs: nn.Module, *, inputs: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.convs = convs
        self.hidden = nn.Sequential(
            nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, hidden), nn.ReLU(inplace=True)
        )
        self.class_iou = nn.Linear(hidden, num_classes)

    def forward(self, pooled: Tensor, masks: Tensor, labels: Tensor) -> Tensor:
        """(R,) predicted IoU, at least float32, from pooled features (R, C, S, S) and masks (R, 2 S, 2 S) in 0..1 of
        classes `labels` (R,)."""
        drawn = F.max_pool2d(masks[:, None], 2).to(pooled.dtype)
        x = self.convs(torch.cat([pooled, drawn], dim=1))
        return precise(self.class_iou(self.hidden(x.flatten(1)))).gather(1, labels[:, None]).squeeze(1)

    def losses(
        self, pooled: Tensor, logits: Tensor, labels: Tensor, wanted: Tensor, share: Tensor
    ) -> dict[str, Tensor]:
        """Scalar `maskiou`: half the squared error, mean over the regions whose mask meets its object at all.

        `logits` and `wanted` (R, 2 S, 2 S) are the masks as drawn and, in 0..1, as they should be; `share` (R,) is how
        much of its object each region holds."""
        iou = mask_iou(logits > 0, wanted >= 0.5, share)
        counted = iou > 0
        off = torch.where(counted, self(pooled, logits.sigmoid(), labels) - iou, 0.0)
        return {"maskiou": 0.5 * off.square().sum() / of_batch(counted.sum(), counted.device)}


def mask_iou(drawn: Tensor, wanted: Tensor, share: Tensor) -> Tensor:
    """(R,) IoU of the masks `drawn` (R, S, S) with the objects, of which `wanted` (R, S, S) is the part in the region
    and `share` (R,) says which part of its area that is; 0 where they do not meet."""
    overlap = (drawn & wanted).sum(dim=(1, 2))
    whole = wanted.sum(dim=(1, 2)) / share.clamp(min=torch.finfo(share.dtype).eps)
    union = drawn.sum(dim=(1, 2)) + whole - overlap
    return torch.where(overlap > 0, overlap / union, 0.0)


def build_maskiou(spec: MaskIoUSpec, *, features: FeatureSpec, num_classes: int, norm: Norm) -> MaskIoUHead:
    """A MaskIoU head beside a mask head on the same maps."""
    width = width_on(features, spec.width, most=WIDEST)
    convs = tower(
        Norms.of(norm, spec.norm), features.channels[0] + 1, width, spec.depth, last_stride=2, initialise=he_weights
    )
    side = -(-REGION // 2)
    return MaskIoUHead(convs, inputs=width * side * side, hidden=spec.hidden, num_classes=num_classes)
