"""What stands in the mask field of a two-stage head, as data."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Final

from detsearch.arch.catalogue import Descriptor
from detsearch.arch.modules.fields import (
    LayerNorm,
    among,
    replaced_by_tower,
    same_or_wider,
    width_or_followed,
    within,
)
from detsearch.arch.modules.towers import CellGroupSpec
from detsearch.arch.spec import ModuleSpec


@dataclass(frozen=True)
class MaskIoUSpec(ModuleSpec):
    """Predicts how well each mask fits its object (Huang et al., "Mask Scoring R-CNN", CVPR 2019).

    `width` of the convolutions (0: that of the maps, at most 256), `depth` their number, `hidden` the units of each of
    the two layers behind them.
    """

    width: int = 0
    depth: int = 4
    hidden: int = 1024
    norm: LayerNorm = "auto"

    def __post_init__(self) -> None:
        width_or_followed("width", self.width)
        within("depth", self.depth, 1, 16)
        within("hidden", self.hidden, 8, 4096)
        among("norm", self.norm, LayerNorm)


@dataclass(frozen=True)
class MaskSpec(ModuleSpec):
    """Draws the mask of every object (He et al., "Mask R-CNN", ICCV 2017).

    `width` of the convolutions (0: that of the maps, at most 256; published: 256), `depth` their number; `score` rates
    the masks. A `tower` stands in place of the convolutions, as wide as the maps, at most 256; beside it `width`,
    `depth` and `norm` say nothing and keep their defaults.
    """

    width: int = 0
    depth: int = 4
    norm: LayerNorm = "auto"
    score: MaskIoUSpec | None = None
    tower: CellGroupSpec | None = None

    def __post_init__(self) -> None:
        width_or_followed("width", self.width)
        within("depth", self.depth, 1, 16)
        among("norm", self.norm, LayerNorm)
        replaced_by_tower(self)


MASKS: Final = (
    Descriptor(
        slot="inner",
        token="mask",
        spec=MaskSpec,
        builder="detsearch.nn.heads.mask:build_mask",
        summary="mask head: convolutions on every detection's region, a 28 x 28 mask of its class",
        order={"width": same_or_wider, "depth": operator.le},
    ),
    Descriptor(
        slot="inner",
        token="maskiou",
        spec=MaskIoUSpec,
        builder="detsearch.nn.heads.maskiou:build_maskiou",
        summary="MaskIoU head: rates masks by the IoU that it expects of them",
        order={"width": same_or_wider, "depth": operator.le, "hidden": operator.le},
    ),
)
