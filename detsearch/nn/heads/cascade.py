"""Cascade R-CNN head (Cai and Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection", CVPR 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from detsearch.arch.catalogue import catalogue
from detsearch.arch.modules.heads import CascadeSpec
from detsearch.arch.spec import Norm
from detsearch.nn.heads.rcnn import BOX_WEIGHTS, POSITIVE_SHARE, SAMPLES, RegionPredictor, region_predictor
from detsearch.nn.heads.regions import best_detections, by_image, region_losses, training_regions
from detsearch.nn.heads.towers import one_width
from detsearch.nn.interfaces import MaskBranch
from detsearch.nn.norms import Norms
from detsearch.nn.ops import boxes as box_ops
from detsearch.nn.ops.boxes import Weights
from detsearch.nn.ops.sampling import BalancedSampler, Sampler
from detsearch.nn.structures import Detections, ImageBatch, Proposals, Regions, Targets
from detsearch.types import FeatureSpec


@dataclass(frozen=True, slots=True)
class Stage:
    """What makes the stages differ: from which IoU on a region is positive, by which factors the box deltas are larger,
    and how much the losses count."""

    match_threshold: float
    weights: Weights
    loss_weight: float


STAGES: Final = (
    Stage(0.5, BOX_WEIGHTS, 1.0),
    Stage(0.6, (20.0, 20.0, 10.0, 10.0), 0.5),
    Stage(0.7, (30.0, 30.0, 15.0, 15.0), 0.25),
    Stage(0.75, (35.0, 35.0, 17.5, 17.5), 0.125),
)
"""Thresholds of sec. 4.3 and 5.1, weights of the authors' code. Theirs of three stages are linear in the threshold,
100 (u - 0.4); the fourth follows that line."""


class CascadeHead(nn.Module):
    """A predictor for each of `stages`, applied one after the other, each to the boxes that the one before has made of
    its own; one box for all classes.

    `mask`, if any, learns from the positive regions of the last stage, which are most like the detections whose masks
    it draws in the end; there are some from the start, since objects' own boxes are added to each stage's sample.

    `score_threshold`, `candidates` (how many pairs of proposal and class of an image go through suppression) and `fill`
    may be changed at any time. `fill` concerns heads with `mask`; see `nn.interfaces.Filling`.
    """

    predictors: Sequence[RegionPredictor]
    mask: MaskBranch | None

    def __init__(
        self,
        predictors: Sequence[RegionPredictor],
        stages: Sequence[Stage],
        *,
        sampler: Sampler,
        mask: MaskBranch | None = None,
        score_threshold: float = 0.05,
        candidates: int = 20_000,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        assert len(predictors) == len(stages)
        self.predictors = nn.ModuleList(predictors)  # type: ignore[assignment]
        self.stages = tuple(stages)
        self.sampler, self.mask = sampler, mask
        self.score_threshold, self.candidates, self.fill = score_threshold, candidates, False
        self.nms_threshold, self.max_detections = nms_threshold, max_detections

    def losses(
        self, features: list[Tensor], images: ImageBatch, targets: Targets, proposals: Proposals | None
    ) -> dict[str, Tensor]:
        """Scalars `classification_1`, `box_1`, `classification_2`, ...: those of `rcnn.RCNNHead`, times the stage's
        weight; and those of `mask`.

        A stage's sample is drawn from the boxes that the stage before made of its own sample, except of objects' own
        boxes, which there would be twice; they are matched anew.
        """
        assert proposals is not None
        losses: dict[str, Tensor] = {}
        for number, (predictor, stage) in enumerate(zip(self.predictors, self.stages, strict=True), start=1):
            sampled = training_regions(proposals, targets, self.sampler, match_threshold=stage.match_threshold)
            logits, deltas = predictor(features, sampled.regions)
            for name, loss in region_losses(logits, deltas, sampled, targets, stage.weights).items():
                losses[f"{name}_{number}"] = stage.loss_weight * loss
            if number < len(self.stages):
                refined = refine(sampled.regions, deltas.detach(), stage.weights, images.sizes)
                proposals = _as_proposals(refined, ~sampled.given, len(images))
        if self.mask is not None:
            losses |= self.mask.losses(features, sampled.positives(), sampled.rows, images, targets)
        return losses

    @torch.no_grad()
    def detect(self, features: list[Tensor], images: ImageBatch, proposals: Proposals | None) -> Detections:
        """`max_detections` rows an image: the regions that reach the last stage, its boxes of them, and the mean of the
        class probabilities that all stages give to these regions (sec. 5.3)."""
        assert proposals is not None
        regions = Regions.of(proposals.boxes, proposals.valid)
        for predictor, stage in zip(self.predictors[:-1], self.stages, strict=False):
            _, deltas = predictor(features, regions)
            regions = refine(regions, deltas, stage.weights, images.sizes)
        pooled = self.predictors[-1].pool(features, regions)
        logits, deltas = zip(*(predictor.read(pooled) for predictor in self.predictors), strict=True)
        found = best_detections(
            torch.stack(logits).softmax(dim=2).mean(dim=0)[:, 1:],
            deltas[-1],
            regions,
            images.sizes,
            weights=self.stages[-1].weights,
            score_threshold=self.score_threshold,
            candidates=self.candidates,
            nms_threshold=self.nms_threshold,
            keep=self.max_detections,
            fill=self.fill and self.mask is not None,
        )
        return found if self.mask is None else self.mask.answer(features, found, images)


def refine(regions: Regions, deltas: Tensor, weights: Weights, sizes: Tensor) -> Regions:
    """The boxes that `deltas` (N, 1, 4) make of the regions, cut at their images, `sizes` (B, 2) height and width."""
    boxes = box_ops.decode(deltas, regions.boxes[:, None], weights)
    return Regions(box_ops.clip(boxes, sizes[regions.image]).squeeze(1), regions.image)


def _as_proposals(regions: Regions, chosen: Tensor, images: int) -> Proposals:
    """The `chosen` (N,) regions as proposals of equal score."""
    boxes, counts = by_image(regions.boxes[chosen], regions.image[chosen], images)
    valid = torch.arange(boxes.shape[1], device=boxes.device) < counts[:, None]
    return Proposals(boxes, valid.to(boxes.dtype), valid)


def build_cascade(spec: CascadeSpec, *, features: FeatureSpec, num_classes: int, norm: Norm) -> CascadeHead:
    """SpecError where the maps differ in width."""
    one_width("cascade", features)
    predictors = [
        region_predictor(features, Norms.of(norm), num_classes=num_classes, width=spec.width, agnostic=True)
        for _ in range(spec.stages)
    ]
    mask = None
    if spec.mask is not None:
        mask = catalogue().build(spec.mask, features=features, num_classes=num_classes, norm=norm)
    return CascadeHead(predictors, STAGES[: spec.stages], sampler=BalancedSampler(SAMPLES, POSITIVE_SHARE), mask=mask)
