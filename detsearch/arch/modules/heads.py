"""Heads as data."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Final, Literal

from detsearch.arch.catalogue import ABSENT, Descriptor
from detsearch.arch.modules.fields import (
    LayerNorm,
    among,
    replaced_by_tower,
    same_or_wider,
    some_or_none,
    width_or_followed,
    within,
)
from detsearch.arch.modules.masks import MaskSpec
from detsearch.arch.modules.towers import CellTowersSpec
from detsearch.arch.spec import ModuleSpec
from detsearch.errors import SpecError

BoxLoss = Literal["l1", "giou"]


@dataclass(frozen=True)
class RetinaNetHeadSpec(ModuleSpec):
    """Two towers of convolutions over every level, for classes and boxes (Lin et al., ICCV 2017).

    `width` of the towers (0: that of the maps, at most 512), `depth` their number of convolutions, `anchor_scale` the
    smallest anchor's side in units of the stride (published: 4, so 32 pixels on P3). `loss` of boxes: L1 of their
    deltas, or one minus their generalised IoU. A `tower` stands in place of the convolutions, as wide as the maps;
    beside it `width`, `depth` and `norm` say nothing and keep their defaults.
    """

    width: int = 0
    depth: int = 4
    anchor_scale: float = 4.0
    norm: LayerNorm = "auto"
    loss: BoxLoss = "l1"
    tower: CellTowersSpec | None = None

    def __post_init__(self) -> None:
        width_or_followed("width", self.width)
        within("depth", self.depth, 1, 16)
        within("anchor_scale", self.anchor_scale, 0.5, 32)
        among("norm", self.norm, LayerNorm)
        among("loss", self.loss, BoxLoss)
        replaced_by_tower(self)


@dataclass(frozen=True)
class FCOSHeadSpec(ModuleSpec):
    """Anchor-free head: two towers of convolutions over every level; at each place classes, the distances to the four
    sides of a box, and its centre-ness, which stands on the box tower (Tian et al., "FCOS: A Simple and Strong
    Anchor-Free Object Detector", TPAMI 2020).

    `width` of the towers (0: that of the maps, at most 512), `depth` their number of convolutions. `norm` of the
    towers: under ``auto`` beside ``bn``, group norm, as published. A `tower` stands in place of the convolutions, as
    wide as the maps; beside it the other fields say nothing and keep their defaults.
    """

    width: int = 0
    depth: int = 4
    norm: LayerNorm = "auto"
    tower: CellTowersSpec | None = None

    def __post_init__(self) -> None:
        width_or_followed("width", self.width)
        within("depth", self.depth, 1, 16)
        among("norm", self.norm, LayerNorm)
        replaced_by_tower(self)


@dataclass(frozen=True)
class TwoFCSpec(ModuleSpec):
    """R-CNN head: class and box of each proposal (Girshick, ICCV 2015; Lin et al., "Feature Pyramid Networks", CVPR
    2017, sec. 4.2).

    `fcs` fully connected layers of `width` units behind `convs` 3x3 convolutions of `conv_width` channels, each with
    `norm` (the fully connected ones have none; without convolutions both say nothing and keep their defaults); `mask`
    draws the objects' masks.
    """

    width: int = 1024
    fcs: int = 2
    convs: int = 0
    conv_width: int = 256
    norm: LayerNorm = "auto"
    mask: MaskSpec | None = None

    def __post_init__(self) -> None:
        within("width", self.width, 8, 8192)
        within("fcs", self.fcs, 1, 8)
        within("convs", self.convs, 0, 16)
        within("conv_width", self.conv_width, 8, 2048)
        among("norm", self.norm, LayerNorm)
        for name in ("conv_width", "norm") if not self.convs else ():
            if (value := getattr(self, name)) != (default := getattr(TwoFCSpec, name)):
                raise SpecError(name, f"{default} without convolutions", str(value), "leave it out, or set convs")


@dataclass(frozen=True)
class CascadeSpec(ModuleSpec):
    """R-CNN heads in a row, each of which begins with the boxes of the one before (Cai and Vasconcelos, CVPR 2018).

    `stages` heads, each with two fully connected layers of `width` units; `mask` draws the objects' masks.
    """

    stages: int = 3
    width: int = 1024
    mask: MaskSpec | None = None

    def __post_init__(self) -> None:
        within("stages", self.stages, 2, 4)
        within("width", self.width, 8, 8192)


HEADS: Final = (
    Descriptor(
        slot="head",
        token="retinanet",
        spec=RetinaNetHeadSpec,
        builder="detsearch.nn.heads.retinanet:build_retinanet",
        summary="one-stage head: two towers, nine anchors a place, focal loss",
        beside={"proposals": (ABSENT,)},
        order={"width": same_or_wider, "depth": operator.le},
    ),
    Descriptor(
        slot="head",
        token="fcos",
        spec=FCOSHeadSpec,
        builder="detsearch.nn.heads.fcos:build_fcos",
        summary="one-stage head without anchors: two towers, sides of a box at each place, centre-ness",
        beside={"proposals": (ABSENT,)},
        order={"width": same_or_wider, "depth": operator.le},
    ),
    Descriptor(
        slot="head",
        token="2fc",
        spec=TwoFCSpec,
        builder="detsearch.nn.heads.rcnn:build_2fc",
        summary="two-stage head: fully connected layers on every proposal's region, masks if wanted",
        beside={"proposals": ("*",)},
        order={"width": operator.le, "fcs": operator.le, "convs": some_or_none, "conv_width": operator.le},
    ),
    Descriptor(
        slot="head",
        token="cascade",
        spec=CascadeSpec,
        builder="detsearch.nn.heads.cascade:build_cascade",
        summary="two-stage head: two to four R-CNN heads in a row, each refining the boxes of the one before",
        beside={"proposals": ("*",)},
        order={"stages": operator.le, "width": operator.le},
    ),
)
