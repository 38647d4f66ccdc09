"""Detectors whose head is a supernet, and the detectors that a search makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

import torch

from detsearch.arch import head_cells
from detsearch.arch.cells import OPERATIONS, SETS, CellSpec
from detsearch.arch.head_cells import with_tower
from detsearch.arch.modules.fields import within
from detsearch.arch.modules.towers import CellGroupSpec, CellTowersSpec
from detsearch.arch.spec import NetworkSpec
from detsearch.build import build
from detsearch.errors import SpecError
from detsearch.nn.cells.cell import CellTower, CellTowers
from detsearch.nn.detector import Detector
from detsearch.nn.norms import Norms
from detsearch.nn.ops.masks import REGION
from detsearch.supernet.cells import NODES, Architecture, SuperGroup, make_group
from detsearch.supernet.edges import MixedEdge, SharedEdge, UnsharedEdge
from detsearch.types import InputSize

Sharing = Literal["decoupled", "direct", "none"]
"""What the operations of an edge share: stems, with functions of their own for those that others build on; stems;
nothing."""

BOXES: Final = "boxes"
CLASSES: Final = "classes"
MASK: Final = "mask"
"""Names of the groups of cells."""
REGIONS: Final = 100
"""Detections of an image, at most, each of which gets a mask."""
PLACES: Final = {BOXES: "tower.boxes", CLASSES: "tower.classes", MASK: "mask.tower.cell"}
"""Of their cells in the spec of a head."""


@dataclass(frozen=True, kw_only=True)
class SupernetSettings:
    """`operations` to choose among and what they share; `nodes` of a cell, and `repeats` cells in a group while
    searching (M of the paper); `grouped`: whether edges that leave a node are computed together, which changes nothing
    but time. SpecError names what cannot be."""

    operations: tuple[str, ...] = SETS["full"]
    sharing: Sharing = "decoupled"
    nodes: int = NODES
    repeats: int = 1
    grouped: bool = True

    def __post_init__(self) -> None:
        given = self.operations
        if not given or not set(given) <= set(OPERATIONS) or len(set(given)) < len(given):
            raise SpecError("operations", f"some of {', '.join(OPERATIONS)}, each once", ", ".join(given) or "none")
        if self.sharing not in get_args(Sharing):
            raise SpecError("sharing", " or ".join(get_args(Sharing)), repr(self.sharing))
        if self.sharing != "none" and (alone := [token for token in given if OPERATIONS[token].stream is None]):
            raise SpecError("sharing", f"none beside {alone[0]}, which shares no stem", self.sharing)
        within("nodes", self.nodes, 1, 8)
        within("repeats", self.repeats, 1, 8)

    def edge(self, norms: Norms, channels: int, width: int) -> MixedEdge:
        """A fresh edge, with weights from torch's global generator."""
        if self.sharing == "none":
            return UnsharedEdge(norms, channels, width, self.operations)
        return SharedEdge(norms, channels, width, self.operations, decoupled=self.sharing == "decoupled")


@dataclass(frozen=True)
class Supernet:
    """A `detector` with a supernet in its head, the `architecture` that decides about it, and its `groups` of cells by
    the names that the architecture has for them, with the `widths` of their edges."""

    detector: Detector
    architecture: Architecture
    groups: Mapping[str, SuperGroup]
    widths: Mapping[str, int]

    def maps(self, size: InputSize) -> list[tuple[int, int, int]]:
        """(B, H, W) of all maps that go through the groups where the detector answers an image of `size`: those of its
        levels, or as many regions as there may be detections."""
        if MASK in self.groups:
            return [(REGIONS, REGION, REGION)]
        padded, part = size.padded(), self.detector.backbone if self.detector.neck is None else self.detector.neck
        return [(1, -(-padded.height // stride), -(-padded.width // stride)) for stride in part.out.strides]


def tower_of(network: NetworkSpec) -> CellTowersSpec | CellGroupSpec | None:
    """The tower of cells in a head that has one."""
    head: Any = network.head
    place = head if hasattr(head, "tower") else getattr(head, "mask", None)
    tower: CellTowersSpec | CellGroupSpec | None = getattr(place, "tower", None)
    return tower


def widths_of(network: NetworkSpec) -> dict[str, int]:
    """The groups of cells in a head by their names, with the widths of their edges; none where it has no tower."""
    match tower_of(network):
        case None:
            return {}
        case CellTowersSpec() as towers:
            return dict(zip((BOXES, CLASSES), towers.widths, strict=True))
        case CellGroupSpec() as group:
            return {MASK: group.width}


def with_cells(network: NetworkSpec, cells: Mapping[str, CellSpec]) -> NetworkSpec:
    """The network with `cells`, by group, in its head: what a search has found, as a detector like any other. SpecError
    where there is no place for them."""
    network = with_tower(network)
    head = head_cells.with_cells(network.head, {PLACES[group]: cell for group, cell in cells.items()})
    return replace(network, head=head)


def build_supernet(
    network: NetworkSpec, num_classes: int, settings: SupernetSettings, *, generator: torch.Generator | None = None
) -> Supernet:
    """A detector as `network` describes it with a supernet for its searched module, in which widths, norms and the
    order of groups are those of the tower in its head, or of a default tower. Weights come from torch's global
    generator, architecture parameters from `generator`. SpecError where there is no place for a searched module."""
    network = with_tower(network)
    detector = build(network, num_classes)
    tower = next(module for module in detector.modules() if isinstance(module, (CellTowers, CellTower)))
    spec, widths = tower_of(network), widths_of(network)
    assert spec is not None
    norms = Norms.of(network.norm, spec.norm, beside_bn="gn")
    architecture = Architecture(list(widths), settings.operations, nodes=settings.nodes, generator=generator)
    groups = {}
    for name, width in widths.items():
        cells = [
            [settings.edge(norms, tower.width, width) for _ in range(architecture.edges)]
            for _ in range(settings.repeats)
        ]
        groups[name] = make_group(architecture, name, cells, tower.width, grouped=settings.grouped)
    if isinstance(tower, CellTowers):
        tower.boxes, tower.classes = groups[BOXES], groups[CLASSES]
    else:
        tower.group = groups[MASK]
    return Supernet(detector, architecture, groups, widths)
