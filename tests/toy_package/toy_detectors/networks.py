"""What the modules are made of. Shapes: B images, A places of all levels, C classes, M objects."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detsearch.arch.spec import Norm
from detsearch.nn.ops.boxes import clip
from detsearch.nn.ops.nms import best_per_class
from detsearch.nn.structures import Detections, ImageBatch, Proposals, Targets
from detsearch.types import FeatureSpec
from toy_detectors.detsearch_modules import LEVELS, CentreHeadSpec, ToyNetSpec


class ToyNet(nn.Module):
    """Five convolutions of stride 2; the last three are given out."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(3 if i == 0 else width, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width) if norm == "bn" else nn.GroupNorm(1, width),
                nn.ReLU(),
            )
            for i in range(LEVELS[-1])
        )
        self.out = FeatureSpec.of(LEVELS, (width,) * len(LEVELS))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return maps[-len(LEVELS) :]


class CentreHead(nn.Module):
    """Every place whose centre lies in the middle half of an object (the smallest, if several) answers with its class
    and the distances to its sides in strides."""

    def __init__(self, features: FeatureSpec, num_classes: int, depth: int) -> None:
        super().__init__()
        assert len(set(features.channels)) == 1
        width = features.channels[0]
        self.strides, self.num_classes = features.strides, num_classes
        self.score_threshold, self.candidates = 0.05, 300
        self.tower = nn.Sequential(*(nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU()) for _ in range(depth)))
        self.logits = nn.Conv2d(width, num_classes, 1)
        self.sides = nn.Conv2d(width, 4, 1)
        nn.init.constant_(self.logits.bias, -4.0)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits (B, A, C), log distances (B, A, 4), centres (A, 2) in pixels and strides (A, 1)."""
        towers = [self.tower(f) for f in features]
        logits = torch.cat([self.logits(t).flatten(2).mT for t in towers], dim=1).float()
        sides = torch.cat([self.sides(t).flatten(2).mT for t in towers], dim=1).float().clamp(-6, 6)
        centres, strides = [], []
        for map_, stride in zip(features, self.strides, strict=True):
            y, x = (torch.arange(n, device=map_.device) for n in map_.shape[-2:])
            grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
            centres.append((grid + 0.5) * stride)
            strides.append(torch.full((len(grid), 1), float(stride), device=map_.device))
        return logits, sides, torch.cat(centres), torch.cat(strides)

    def losses(
        self, features: list[Tensor], images: ImageBatch, targets: Targets, proposals: Proposals | None
    ) -> dict[str, Tensor]:
        assert proposals is None
        logits, sides, centres, strides = self(features)
        wanted = torch.zeros_like(logits)
        if targets.boxes.shape[1] == 0:
            return {"class": F.binary_cross_entropy_with_logits(logits, wanted), "box": sides.sum() * 0}
        low, high = targets.boxes[:, None, :, :2], targets.boxes[:, None, :, 2:]  # (B, 1, M, 2)
        middle, size = (low + high) / 2, high - low
        inside = ((centres[:, None] - middle).abs() <= size / 4).all(-1) & targets.valid[:, None]  # (B, A, M)
        area, chosen = torch.where(inside, size.prod(-1), torch.inf).min(dim=-1)  # (B, A)
        positive = area.isfinite()
        number = positive.sum().clamp(min=1)
        labels = targets.labels.gather(1, chosen)
        wanted.scatter_(-1, labels[..., None], positive[..., None].to(wanted.dtype))
        boxes = targets.boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
        distances = torch.cat([centres - boxes[..., :2], boxes[..., 2:] - centres], dim=-1) / strides
        off = (sides - distances.clamp(min=0.01).log()).abs().sum(-1)
        return {
            "class": F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / number,
            "box": torch.where(positive, off, 0.0).sum() / number,
        }

    @torch.no_grad()
    def detect(self, features: list[Tensor], images: ImageBatch, proposals: Proposals | None) -> Detections:
        logits, sides, centres, strides = self(features)
        distances = sides.exp() * strides
        boxes = torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], dim=-1)
        scores, labels = logits.sigmoid().max(dim=-1)
        scores, best = scores.topk(min(self.candidates, scores.shape[1]), dim=1)
        labels, boxes = labels.gather(1, best), boxes.gather(1, best[..., None].expand(-1, -1, 4))
        valid = scores > self.score_threshold
        return best_per_class(clip(boxes, images.sizes), scores, labels, valid, iou_threshold=0.5, keep=100)


def build_toynet(spec: ToyNetSpec, *, norm: Norm) -> ToyNet:
    return ToyNet(spec.width, norm)


def build_centre(spec: CentreHeadSpec, *, features: FeatureSpec, num_classes: int, norm: Norm) -> CentreHead:
    return CentreHead(features, num_classes, spec.depth)
