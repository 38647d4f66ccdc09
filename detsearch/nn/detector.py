"""A whole detector: four parts in, losses or detections out."""

from __future__ import annotations

from typing import Final, Self

import torch
from torch import Tensor, nn

from detsearch.arch.spec import SLOTS, Slot
from detsearch.nn.interfaces import Backbone, Head, Neck, ProposalModule
from detsearch.nn.structures import Detections, ImageBatch, Proposals, Targets

MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
"""Of ImageNet, RGB in 0..1: what published backbones were trained with."""


class Detector(nn.Module):
    """Backbone, neck, proposals and head in a row; `interfaces` says what each must offer.

    Neck and proposals may be absent (None). Without a neck the rest sees one map, the backbone's last, as in the
    original Faster R-CNN (Ren et al., NeurIPS 2015)."""

    backbone: Backbone
    neck: Neck | None
    proposals: ProposalModule | None
    head: Head
    mean: Tensor
    std: Tensor
    still: tuple[str, ...] = ()
    """Names of modules that stay in evaluation mode in training too (`nn.freezing`)."""

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck | None,
        proposals: ProposalModule | None,
        head: Head,
        *,
        num_classes: int,
        mean: tuple[float, float, float] = MEAN,
        std: tuple[float, float, float] = STD,
    ) -> None:
        super().__init__()
        self.backbone, self.neck, self.proposals, self.head = backbone, neck, proposals, head
        self.num_classes = num_classes
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1) * 255, persistent=False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self.still:
            self.get_submodule(name).eval()
        return self

    def parts(self) -> dict[Slot, nn.Module]:
        """The modules by slot, absent ones left out, in the order in which an image passes them."""
        return {slot: self.get_submodule(slot) for slot in SLOTS if getattr(self, slot) is not None}

    def normalise(self, images: ImageBatch) -> ImageBatch:
        """uint8 pixels to zero mean and unit variance in the detector's precision, whatever lies in the padding to
        zero; floating-point pixels are taken as normalised already."""
        if images.pixels.is_floating_point():
            return images
        height, width = images.pixels.shape[-2:]
        device = images.pixels.device
        rows = torch.arange(height, device=device) < images.sizes[:, :1]
        columns = torch.arange(width, device=device) < images.sizes[:, 1:]
        inside = (rows[:, None, :, None] & columns[:, None, None, :]).to(self.mean.dtype)
        pixels = images.pixels.to(self.mean.dtype).sub_(self.mean).div_(self.std).mul_(inside)
        return ImageBatch(pixels, images.sizes)

    def losses(self, images: ImageBatch, targets: Targets) -> dict[str, Tensor]:
        """Scalar losses by name; their sum is what training minimises."""
        images, features, proposals, losses = self._until_head(images, targets)
        return {**losses, **self.head.losses(features, images, targets, proposals)}

    def detect(self, images: ImageBatch) -> Detections:
        """Detections in pixels of the padded input."""
        images, features, proposals, _ = self._until_head(images, None)
        return self.head.detect(features, images, proposals)

    def forward(self, images: ImageBatch, targets: Targets | None = None) -> dict[str, Tensor] | Detections:
        """Losses where targets are given, detections otherwise."""
        return self.detect(images) if targets is None else self.losses(images, targets)

    def _until_head(
        self, images: ImageBatch, targets: Targets | None
    ) -> tuple[ImageBatch, list[Tensor], Proposals | None, dict[str, Tensor]]:
        images = self.normalise(images)
        features = self.backbone(images.pixels)
        features = features[-1:] if self.neck is None else self.neck(features)
        if self.proposals is None:
            return images, features, None, {}
        proposals, losses = self.proposals.propose(features, images, targets)
        return images, features, proposals, losses
