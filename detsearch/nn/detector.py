"""A whole detector: four parts in, losses or detections out."""

from __future__ import annotations

from torch import Tensor, nn

from detsearch.arch.spec import SLOTS, Slot
from detsearch.nn.freezing import Freezable
from detsearch.nn.interfaces import Backbone, Head, Neck, ProposalModule
from detsearch.nn.ops.pixels import normalised, statistics_for
from detsearch.nn.structures import Detections, ImageBatch, Proposals, Targets


class Detector(Freezable):
    """Backbone, neck, proposals and head in a row; `interfaces` says what each must offer.

    Neck and proposals may be absent (None). Without a neck the rest sees one map, the backbone's last, as in the
    original Faster R-CNN (Ren et al., NeurIPS 2015)."""

    backbone: Backbone
    neck: Neck | None
    proposals: ProposalModule | None
    head: Head
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck | None,
        proposals: ProposalModule | None,
        head: Head,
        *,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.backbone, self.neck, self.proposals, self.head = backbone, neck, proposals, head
        self.num_classes = num_classes
        mean, std = statistics_for(backbone)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def parts(self) -> dict[Slot, nn.Module]:
        """The modules by slot, absent ones left out, in the order in which an image passes them."""
        return {slot: self.get_submodule(slot) for slot in SLOTS if getattr(self, slot) is not None}

    def normalise(self, images: ImageBatch) -> ImageBatch:
        """uint8 pixels as the backbone sees them, in the detector's precision (`ops.pixels`)."""
        return normalised(images, self.mean, self.std)

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
