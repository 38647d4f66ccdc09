"""Heads as data."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Final

from detsearch.arch.catalogue import ABSENT, Descriptor
from detsearch.arch.modules.fields import LayerNorm, among, same_or_wider, width_or_followed, within
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
)
