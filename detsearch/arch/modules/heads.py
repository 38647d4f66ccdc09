"""Heads as data."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Final

from detsearch.arch.catalogue import ABSENT, Descriptor
from detsearch.arch.modules.fields import LayerNorm, among, same_or_wider, width_or_followed, within
from detsearch.arch.modules.masks import MaskSpec
from detsearch.arch.spec import ModuleSpec


@dataclass(frozen=True)
class RetinaNetHeadSpec(ModuleSpec):
    """Two towers of convolutions over every level, for classes and boxes (Lin et al., ICCV 2017).

    `width` of the towers (0: that of the maps, at most 512), `depth` their number of convolutions, `anchor_scale` the
    smallest anchor's side in units of the stride (published: 4, so 32 pixels on P3).
    """

    width: int = 0
    depth: int = 4
    anchor_scale: float = 4.0
    norm: LayerNorm = "auto"

    def __post_init__(self) -> None:
        width_or_followed("width", self.width)
        within("depth", self.depth, 1, 16)
        within("anchor_scale", self.anchor_scale, 0.5, 32)
        among("norm", self.norm, LayerNorm)


@dataclass(frozen=True)
class TwoFCSpec(ModuleSpec):
    """R-CNN head: class and box of each proposal (Girshick, ICCV 2015; Lin et al., "Feature Pyramid Networks", CVPR
    2017, sec. 4.2).

    `fcs` fully connected layers of `width` units behind `convs` 3x3 convolutions of `conv_width` channels, each with
    `norm` (the fully connected ones have none); `mask` draws the objects' masks.
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
        token="2fc",
        spec=TwoFCSpec,
        builder="detsearch.nn.heads.rcnn:build_2fc",
        summary="two-stage head: fully connected layers on every proposal's region, masks if wanted",
        beside={"proposals": ("*",)},
        order=dict.fromkeys(("width", "fcs", "convs", "conv_width"), operator.le),
    ),
)
