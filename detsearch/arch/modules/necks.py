"""Necks as data."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Final, Literal

from detsearch.arch.catalogue import Descriptor
from detsearch.arch.modules.fields import BACKBONE_LEVELS, HIGHEST_LEVEL, LayerNorm, among, joined, within
from detsearch.arch.spec import ModuleSpec
from detsearch.errors import SpecError

ExtraFrom = Literal["p5", "c5", "pool"]


@dataclass(frozen=True)
class FPNSpec(ModuleSpec):
    """Feature pyramid over any set of levels (Lin et al., CVPR 2017).

    Levels above P5 come by stride-2 convolutions as in RetinaNet, from the last FPN map (``p5``) or the last backbone
    map (``c5``), or by max-pooling of the last FPN map as in Faster R-CNN (``pool``).
    """

    levels: tuple[int, ...] = (3, 4, 5, 6, 7)
    width: int = 256
    extra_from: ExtraFrom = "p5"
    norm: LayerNorm = "auto"

    def __post_init__(self) -> None:
        if not self.levels or list(self.levels) != sorted(set(self.levels)):
            raise SpecError("levels", "ascending levels without repetition such as 3-4-5", joined(self.levels))
        if self.levels[0] < BACKBONE_LEVELS[0] or self.levels[-1] > HIGHEST_LEVEL:
            raise SpecError("levels", f"levels from {BACKBONE_LEVELS[0]} to {HIGHEST_LEVEL}", joined(self.levels))
        within("width", self.width, 8, 2048)
        among("extra_from", self.extra_from, ExtraFrom)
        among("norm", self.norm, LayerNorm)


@dataclass(frozen=True)
class PAFPNSpec(FPNSpec):
    """Feature pyramid with a second path from the finest level to the coarsest (Liu et al., CVPR 2018), over any set of
    levels. Levels above the backbone's come as in `FPNSpec`, from the second path's last map (``p5``, ``pool``) or the
    last backbone map (``c5``)."""


def _fpn_levels(spec: FPNSpec, below: tuple[int, ...]) -> tuple[int, ...]:
    """Levels that a pyramid gives out: its lateral ones must be among the backbone's, where those are known."""
    missing = [level for level in spec.levels if below and level <= below[-1] and level not in below]
    if missing:
        raise SpecError("levels of the neck", f"levels of the backbone ({joined(below)}) or above", joined(spec.levels))
    return spec.levels


NECKS: Final = (
    Descriptor(
        slot="neck",
        token="fpn",
        spec=FPNSpec,
        builder="detsearch.nn.necks.fpn:build_fpn",
        summary="feature pyramid over any set of levels P2..P7",
        order={"width": operator.le},
        levels=_fpn_levels,
    ),
    Descriptor(
        slot="neck",
        token="pafpn",
        spec=PAFPNSpec,
        builder="detsearch.nn.necks.pafpn:build_pafpn",
        summary="feature pyramid with a second, bottom-up path over any set of levels P2..P7",
        order={"width": operator.le},
        levels=_fpn_levels,
    ),
)
