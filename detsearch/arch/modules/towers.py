"""Searched modules as data: what may stand in place of the convolutions of a head."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Final, Literal

from detsearch.arch.catalogue import Descriptor
from detsearch.arch.cells import MASK_CELL, PUBLISHED_BOXES, PUBLISHED_CLASSES, CellSpec
from detsearch.arch.modules.fields import LayerNorm, among, joined, within
from detsearch.arch.spec import ModuleSpec
from detsearch.errors import SpecError

GroupOrder = Literal["sequential", "parallel", "reversed"]
"""Which group of cells reads the maps first: that of the boxes, both, or that of the classes."""


@dataclass(frozen=True)
class CellTowersSpec(ModuleSpec):
    """Two groups of cells in place of the two towers of a one-stage head, shared by all levels (FAD: Zhong et al.,
    "Representation Sharing for Fast Object Detector Search and Beyond", ECCV 2020).

    `boxes` and `classes` are the groups' cells (published ones by default), `repeats` how many cells a group has in a
    row. Their edges are `width` channels wide: one number for both groups or one for each, boxes first; what goes in
    and out of cells is as wide as the maps. `order`: the group that comes second reads the first one's output beside
    the map; ``sequential`` is boxes, then classes. `norm` behind the convolutions of an edge: under ``auto`` beside
    ``bn``, group norm, as published.
    """

    boxes: CellSpec = PUBLISHED_BOXES
    classes: CellSpec = PUBLISHED_CLASSES
    width: tuple[int, ...] = (96,)
    repeats: int = 2
    order: GroupOrder = "sequential"
    norm: LayerNorm = "auto"

    def __post_init__(self) -> None:
        if not 1 <= len(self.width) <= 2:
            raise SpecError("width", "one number, or one for boxes and one for classes", joined(self.width))
        for width in self.width:
            within("width", width, 8, 2048)
        if len(set(self.width)) == 1:  # one text for one network
            object.__setattr__(self, "width", self.width[:1])
        within("repeats", self.repeats, 1, 8)
        among("order", self.order, GroupOrder)
        among("norm", self.norm, LayerNorm)

    @property
    def widths(self) -> tuple[int, int]:
        """Of the edges of boxes and of classes."""
        return self.width[0], self.width[-1]


@dataclass(frozen=True)
class CellGroupSpec(ModuleSpec):
    """One group of cells in place of the convolutions of a mask head (FAD, as `CellTowersSpec`).

    `repeats` cells in a row, whose edges are `width` channels wide; what goes in and out of cells is as wide as the
    maps. The default `cell` is ours, `arch.cells.MASK_CELL`. At the default size, that of the published detection
    heads, it has 2.1 M parameters; the four convolutions of 256 channels in its place have 2.4 M.
    """

    cell: CellSpec = MASK_CELL
    width: int = 96
    repeats: int = 2
    norm: LayerNorm = "auto"

    def __post_init__(self) -> None:
        within("width", self.width, 8, 2048)
        within("repeats", self.repeats, 1, 8)
        among("norm", self.norm, LayerNorm)


def _as_wide(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """Order of the widths of two groups."""
    return a[0] <= b[0] and a[-1] <= b[-1]


TOWERS: Final = (
    Descriptor(
        slot="inner",
        token="cells",
        spec=CellTowersSpec,
        builder="detsearch.nn.cells.cell:build_cell_towers",
        summary="two groups of searched cells (FAD) in place of the towers of a one-stage head",
        order={"width": _as_wide, "repeats": operator.le},
    ),
    Descriptor(
        slot="inner",
        token="cellgroup",
        spec=CellGroupSpec,
        builder="detsearch.nn.cells.cell:build_cell_group",
        summary="a group of cells (FAD) in place of the convolutions of a mask head",
        order={"width": operator.le, "repeats": operator.le},
    ),
)
