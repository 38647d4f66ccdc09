"""The modules as data; torch is imported by the builders' module only."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Final

from detsearch.arch.catalogue import ABSENT, Descriptor
from detsearch.arch.spec import ModuleSpec
from detsearch.errors import SpecError

LEVELS: Final = (3, 4, 5)


@dataclass(frozen=True)
class ToyNetSpec(ModuleSpec):
    """A plain stack of convolutions with maps P3..P5 of `width` channels each."""

    width: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.width <= 256:
            raise SpecError("width", "1 to 256", str(self.width))


@dataclass(frozen=True)
class CentreHeadSpec(ModuleSpec):
    """A class and a box at every place, without anchors."""

    depth: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.depth <= 8:
            raise SpecError("depth", "0 to 8", str(self.depth))


MODULES: Final = (
    Descriptor(
        slot="backbone",
        token="toynet",
        spec=ToyNetSpec,
        builder="toy_detectors.networks:build_toynet",
        summary="a plain stack of convolutions",
        order={"width": operator.le},
        names={"toynet_small": ToyNetSpec(8)},
        levels=lambda _spec, _below: LEVELS,
    ),
    Descriptor(
        slot="head",
        token="centre",
        spec=CentreHeadSpec,
        builder="toy_detectors.networks:build_centre",
        summary="a class and a box at every place",
        beside={"proposals": (ABSENT,)},
        order={"depth": operator.le},
    ),
)
