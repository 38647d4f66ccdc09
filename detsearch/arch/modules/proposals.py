"""What proposes regions to a two-stage head, as data."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Final

from detsearch.arch.catalogue import Descriptor
from detsearch.arch.modules.fields import LayerNorm, among, same_or_wider, width_or_followed, within
from detsearch.arch.spec import ModuleSpec

MOST_KEPT: Final = 10_000


@dataclass(frozen=True)
class RPNSpec(ModuleSpec):
    """Region proposal network (Ren et al., NeurIPS 2015).

    `width` of the convolutions over every level (0: that of the maps, at most 512), `depth` their number,
    `anchor_scale` the anchors' side in units of the stride (published: 8, so 32 pixels on P2), `keep` the proposals of
    an image that the head gets, chosen among at most 1,000 and four times as many of each level; in training twice as
    many.
    """

    width: int = 0
    depth: int = 1
    anchor_scale: float = 8.0
    keep: int = 1000
    norm: LayerNorm = "auto"

    def __post_init__(self) -> None:
        width_or_followed("width", self.width)
        within("depth", self.depth, 1, 16)
        within("anchor_scale", self.anchor_scale, 0.5, 32)
        within("keep", self.keep, 1, MOST_KEPT)
        among("norm", self.norm, LayerNorm)


@dataclass(frozen=True)
class GARPNSpec(RPNSpec):
    """Guided-Anchoring RPN (Wang et al., CVPR 2019). The fields are those of an RPN, but `anchor_scale` is the side, in
    units of the stride, of the square from which each place's predicted anchor departs.

    The head behind it trains as behind an RPN, so that a search compares proposals and nothing else; the paper also
    trains it on fewer regions of a higher overlap.
    """


PROPOSALS: Final = (
    Descriptor(
        slot="proposals",
        token="rpn",
        spec=RPNSpec,
        builder="detsearch.nn.proposals.rpn:build_rpn",
        summary="region proposal network: three anchors a place, the best after suppression per level",
        order={"width": same_or_wider, "depth": operator.le},
    ),
    Descriptor(
        slot="proposals",
        token="ga_rpn",
        spec=GARPNSpec,
        builder="detsearch.nn.proposals.ga_rpn:build_ga_rpn",
        summary="guided anchoring: one anchor of predicted shape a place, features fitted to it",
        order={"width": same_or_wider, "depth": operator.le},
    ),
)
