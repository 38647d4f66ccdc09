"""What the four parts of a detector must offer, as types. Each is an `nn.Module`; docs/architecture.md has more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from detsearch.nn.structures import Detections, ImageBatch, Proposals, Regions, Targets
from detsearch.types import FeatureSpec


class Backbone(Protocol):
    """Normalised images (B, 3, H, W) to maps, finest first."""

    out: FeatureSpec

    def __call__(self, pixels: Tensor, /) -> list[Tensor]: ...


@runtime_checkable
class Staged(Protocol):
    """What a backbone may offer besides, so that its first stages can be frozen."""

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """The modules of the stem, then of the stage that ends in the finest map, and so on, in the order in which an
        image passes them; every parameter in one of them."""
        ...


@runtime_checkable
class PixelScaled(Protocol):
    """What a backbone offers besides where its published weights say which statistics of pixels, RGB in 0..1, they were
    trained with; others take those of `ops.pixels`."""

    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]


class Neck(Protocol):
    """Maps to maps, finest first."""

    out: FeatureSpec

    def __call__(self, maps: list[Tensor], /) -> list[Tensor]: ...


class ProposalModule(Protocol):
    """`keep`: how many proposals an image are handed on, K of `Proposals`, while answering. Like a head's limits, it
    may be changed at any time."""

    keep: int

    def propose(
        self, features: list[Tensor], images: ImageBatch, targets: Targets | None
    ) -> tuple[Proposals, dict[str, Tensor]]:
        """Regions, and the losses of proposing them where there are targets."""
        ...


@runtime_checkable
class Filling(Protocol):
    """A part that hands on what its suppression leaves to modules whose work grows with it: proposals, or detections
    that get masks. While `fill` is set, what was suppressed follows the rest until the fixed number is reached, so that
    the load behind it does not depend on the weights."""

    fill: bool


class LevelTowers(Protocol):
    """What stands between the maps and the predictions of a one-stage head, shared by all levels."""

    width: int

    def __call__(self, level: Tensor, /) -> tuple[Tensor, Tensor]:
        """A level (B, C, H, W) to two maps of `width` channels, for classes and for boxes."""
        ...


class MaskBranch(Protocol):
    """What draws masks for the regions of a two-stage head."""

    def losses(
        self, features: list[Tensor], regions: Regions, rows: Tensor, images: ImageBatch, targets: Targets
    ) -> dict[str, Tensor]:
        """Scalars by name, for N positive `regions` of which region n belongs to row `rows` (N,) of its image's
        targets. N may be 0."""
        ...

    def answer(self, features: list[Tensor], detections: Detections, images: ImageBatch) -> Detections:
        """The same detections with `masks`, and `mask_scores` where masks are rated."""
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
