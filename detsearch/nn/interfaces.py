"""What the four parts of a detector must offer, as types. Each is an `nn.Module`; docs/architecture.md has more."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from detsearch.nn.structures import Detections, ImageBatch, Proposals, Targets
from detsearch.types import FeatureSpec


class Backbone(Protocol):
    """Normalised images (B, 3, H, W) to maps, finest first."""

    out: FeatureSpec

    def __call__(self, pixels: Tensor, /) -> list[Tensor]: ...


class Neck(Protocol):
    """Maps to maps, finest first."""

    out: FeatureSpec

    def __call__(self, maps: list[Tensor], /) -> list[Tensor]: ...


class ProposalModule(Protocol):
    def propose(
        self, features: list[Tensor], images: ImageBatch, targets: Targets | None
    ) -> tuple[Proposals, dict[str, Tensor]]:
        """Regions, and the losses of proposing them where there are targets."""
        ...


class Head(Protocol):
    """`score_threshold`: the least score of a detection. `candidates`: how many boxes of a level, or of all proposals,
    at most are decoded and go through suppression. Both may be changed at any time; a latency measurement does."""

    score_threshold: float
    candidates: int

    def losses(
        self, features: list[Tensor], images: ImageBatch, targets: Targets, proposals: Proposals | None
    ) -> dict[str, Tensor]:
        """Scalars by name."""
        ...

    def detect(self, features: list[Tensor], images: ImageBatch, proposals: Proposals | None) -> Detections: ...
