"""R-CNN head: class and box of each proposal (Girshick, "Fast R-CNN", ICCV 2015; Ren et al., NeurIPS 2015; on
pyramids, Lin et al., CVPR 2017, sec. 4.2), with torchvision's conventions for matching, sampling and losses."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detsearch.arch.catalogue import catalogue
from detsearch.arch.modules.heads import TwoFCSpec
from detsearch.arch.spec import Norm
from detsearch.nn.heads.regions import best_detections, region_losses, training_regions
from detsearch.nn.heads.towers import he_weights, normal_weights, one_width, tower
from detsearch.nn.interfaces import MaskBranch
from detsearch.nn.norms import Norms
from detsearch.nn.ops.boxes import Weights
from detsearch.nn.ops.dense import precise
from detsearch.nn.ops.regions import RegionPool
from detsearch.nn.ops.sampling import BalancedSampler, Sampler
from detsearch.nn.structures import Detections, ImageBatch, Proposals, Regions, Targets
from detsearch.types import FeatureSpec

CELLS: Final = 7
"""Side of a pooled region."""
SAMPLES: Final = 512
POSITIVE_SHARE: Final = 0.25
"""Regions of an image that the losses look at."""
BOX_WEIGHTS: Final[Weights] = (10.0, 10.0, 5.0, 5.0)


class RegionPredictor(nn.Module):
    """Logits of background and classes, and deltas, of regions: what `pool` takes from the maps goes through `layers`,
    any module that maps (N, C, S, S) to (N, width).

    The deltas are of each class, or with `agnostic` the same for all.
    """

    def __init__(
        self, pool: RegionPool, layers: nn.Module, *, width: int, num_classes: int, agnostic: bool = False
    ) -> None:
        super().__init__()
        self.pool, self.layers = pool, layers
        self.class_logits = nn.Linear(width, 1 + num_classes)
        self.box_deltas = nn.Linear(width, 4 if agnostic else 4 * num_classes)
        normal_weights(self.class_logits)
        normal_weights(self.box_deltas, std=0.001)

    def forward(self, features: list[Tensor], regions: Regions) -> tuple[Tensor, Tensor]:
        """(N, 1 + C), background first, and (N, C, 4), or (N, 1, 4) if agnostic; at least float32. N may be 0."""
        return self.read(self.pool(features, regions))

    def read(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """The same of regions that are pooled already, (N, C, S, S)."""
        x = self.layers(pooled)
        deltas = self.box_deltas(x).view(len(x), self.box_deltas.out_features // 4, 4)
        return precise(self.class_logits(x)), precise(deltas)


class RegionLayers(nn.Module):
    """`convs`, then fully connected layers of the given `units` with ReLU, the first of which sees `inputs` values."""

    def __init__(self, convs: nn.Module, inputs: int, units: list[int]) -> None:
        super().__init__()
        self.convs = convs
        self.fcs = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([inputs, *units]))

    def forward(self, pooled: Tensor) -> Tensor:
        x: Tensor = self.convs(pooled).flatten(1)
        for fc in self.fcs:
            x = F.relu(fc(x), inplace=True)
        return x


class RCNNHead(nn.Module):
    """One predictor on all proposals; `mask`, if any, draws the masks of what was found.

    `score_threshold`, `candidates` (how many pairs of proposal and class of an image go through suppression) and `fill`
    may be changed at any time. `fill` concerns heads with `mask`; see `nn.interfaces.Filling`.
    """

    mask: MaskBranch | None

    def __init__(
        self,
        predictor: RegionPredictor,
        *,
        sampler: Sampler,
        mask: MaskBranch | None = None,
        weights: Weights = BOX_WEIGHTS,
        match_threshold: float = 0.5,
        score_threshold: float = 0.05,
        candidates: int = 20_000,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.predictor, self.sampler, self.mask = predictor, sampler, mask
        self.weights, self.match_threshold = weights, match_threshold
        self.score_threshold, self.candidates, self.fill = score_threshold, candidates, False
        self.nms_threshold, self.max_detections = nms_threshold, max_detections

    def losses(
        self, features: list[Tensor], images: ImageBatch, targets: Targets, proposals: Proposals | None
    ) -> dict[str, Tensor]:
        """Scalars `classification` (cross entropy) and `box` (smooth L1 of the positive regions' deltas), sums over the
        batch divided by the number of sampled regions, and those of `mask`."""
        assert proposals is not None
        sampled = training_regions(proposals, targets, self.sampler, match_threshold=self.match_threshold)
        logits, deltas = self.predictor(features, sampled.regions)
        losses = region_losses(logits, deltas, sampled, targets, self.weights)
        if self.mask is not None:
            losses |= self.mask.losses(features, sampled.positives(), sampled.rows, images, targets)
        return losses

    @torch.no_grad()
    def detect(self, features: list[Tensor], images: ImageBatch, proposals: Proposals | None) -> Detections:
        """`max_detections` rows an image: pairs of proposal and class over `score_threshold`, boxes cut at the image,
        suppression per class."""
        assert proposals is not None
        regions = Regions.of(proposals.boxes, proposals.valid)
        logits, deltas = self.predictor(features, regions)
        found = best_detections(
            logits.softmax(dim=1)[:, 1:],
            deltas,
            regions,
            images.sizes,
            weights=self.weights,
            score_threshold=self.score_threshold,
            candidates=self.candidates,
            nms_threshold=self.nms_threshold,
            keep=self.max_detections,
            fill=self.fill and self.mask is not None,
        )
        return found if self.mask is None else self.mask.answer(features, found, images)


def region_predictor(
    features: FeatureSpec,
    norms: Norms,
    *,
    num_classes: int,
    width: int = 1024,
    fcs: int = 2,
    convs: int = 0,
    conv_width: int = 256,
    agnostic: bool = False,
) -> RegionPredictor:
    """A predictor on maps of one width: `convs` convolutions, `fcs` fully connected layers of `width` units."""
    inputs = features.channels[0]
    stack = tower(norms, inputs, conv_width, convs, initialise=he_weights)
    layers = RegionLayers(stack, (conv_width if convs else inputs) * CELLS**2, [width] * fcs)
    return RegionPredictor(RegionPool(features, CELLS), layers, width=width, num_classes=num_classes, agnostic=agnostic)


def build_2fc(spec: TwoFCSpec, *, features: FeatureSpec, num_classes: int, norm: Norm) -> RCNNHead:
    """SpecError where the maps differ in width."""
    one_width("2fc", features)
    predictor = region_predictor(
        features,
        Norms.of(norm, spec.norm),
        num_classes=num_classes,
        width=spec.width,
        fcs=spec.fcs,
        convs=spec.convs,
        conv_width=spec.conv_width,
    )
    mask = None
    if spec.mask is not None:
        mask = catalogue().build(spec.mask, features=features, num_classes=num_classes, norm=norm)
    return RCNNHead(predictor, sampler=BalancedSampler(SAMPLES, POSITIVE_SHARE), mask=mask)
