"""Cells: small graphs of transformations, from which searched heads are made (FAD: Zhong et al., "Representation
Sharing for Fast Object Detector Search and Beyond", ECCV 2020).

A cell has two inputs, numbered 0 and 1, and nodes numbered from 2. A node is the sum of its edges; an edge takes an
input or an earlier node and transforms it by one of the `OPERATIONS`. As text:

    cell = node {"|" node}
    node = edge {"+" edge}
    edge = operation "(" source ")"                         sep3(0)+std3(1)|sep1d2(1)+std1(2)|sep2(2)+std2(3)

`nn.cells` builds them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from detsearch.errors import SpecError

Stream = Literal["std", "sep"]
"""How the 3x3 convolutions of a transformation are made: standard, or depthwise separable."""

INPUTS: Final = 2
"""Inputs of a cell; its first node has this number."""
MAX_NODES: Final = 8


@dataclass(frozen=True)
class Operation:
    """What an edge may do to its source, at the same resolution.

    `receptive_field`: side of the square of places that one place of the result sees. For FAD's transformations,
    `stream` says of which kind its `convs` 3x3 convolutions are; behind them stands a dilated 3x3 one of rate
    `dilation`, depthwise separable in both streams, or none where that is 0. For others (those of DARTS) `stream` is
    None, `convs` and `dilation` are 0.
    """

    token: str
    receptive_field: int
    stream: Stream | None = None
    convs: int = 0
    dilation: int = 0


def _transformation(stream: Stream, convs: int, dilation: int) -> Operation:
    token = f"{stream}{convs}" + (f"d{dilation}" if dilation else "")
    return Operation(token, 1 + 2 * convs + 2 * dilation, stream, convs, dilation)


TRANSFORMATIONS: Final = tuple(
    _transformation(stream, convs, dilation)
    for stream in ("std", "sep")
    for convs, dilation in ((1, 0), (2, 0), (3, 0), (1, 2), (2, 2), (1, 3))
)
"""FAD's twelve: t1 to t6 of the standard stream, then those of the separable one (ECCV 2020, sec. 3)."""

DARTS: Final = (
    Operation("dsep3", 5),
    Operation("dsep5", 9),
    Operation("ddil3", 5),
    Operation("ddil5", 9),
    Operation("max3", 3),
    Operation("avg3", 3),
    Operation("skip", 1),
)
"""Those of DARTS (Liu et al., ICLR 2019), to compare with: 3x3 and 5x5 separable convolutions, each applied twice, the
same dilated by 2, once; 3x3 max and average pooling; identity."""

OPERATIONS: Final[Mapping[str, Operation]] = {one.token: one for one in (*TRANSFORMATIONS, *DARTS)}
"""Every operation by its token."""

SETS: Final[Mapping[str, tuple[str, ...]]] = {
    "full": tuple(one.token for one in TRANSFORMATIONS),
    "rf5": tuple(one.token for one in TRANSFORMATIONS if one.receptive_field <= 5),
    "rf7": tuple(one.token for one in TRANSFORMATIONS if one.receptive_field <= 7),
    "std": tuple(one.token for one in TRANSFORMATIONS if one.stream == "std"),
    "sep": tuple(one.token for one in TRANSFORMATIONS if one.stream == "sep"),
    "darts": tuple(one.token for one in DARTS),
}
"""What a search may choose among, by name: all transformations, those of a receptive field up to 5 or 7, one stream, or
DARTS's operations."""


@dataclass(frozen=True)
class Edge:
    """An operation, by its token, on an input of the cell (0, 1) or on an earlier node (2, ...)."""

    operation: str
    source: int

    def __str__(self) -> str:
        return f"{self.operation}({self.source})"


@dataclass(frozen=True)
class CellSpec:
    """A cell: `nodes[i]` holds the edges into node i + 2, of one source each, in the order of the sources.

    A node is a sum, so edges given in another order make the same cell and are put in order. SpecError names what is
    wrong with a node.
    """

    nodes: tuple[tuple[Edge, ...], ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.nodes) <= MAX_NODES:
            raise SpecError("cell", f"1 to {MAX_NODES} nodes", str(len(self.nodes)))
        for number, edges in enumerate(self.nodes, INPUTS):
            _check_node(f"node {number} of the cell", number, edges)
        ordered = tuple(tuple(sorted(edges, key=lambda edge: edge.source)) for edges in self.nodes)
        object.__setattr__(self, "nodes", ordered)

    @classmethod
    def parse(cls, text: str) -> CellSpec:
        """Read a cell; SpecError with the place in the text and, for an unknown operation, a suggestion."""
        nodes: list[tuple[Edge, ...]] = []
        start = 0
        for part in text.split("|"):
            where = f"cell at character {start + 1}"
            edges = []
            at = start
            for piece in part.split("+"):
                edges.append(_edge(piece, at))
                at += len(piece) + 1
            _check_node(f"{where}, node {len(nodes) + INPUTS}", len(nodes) + INPUTS, tuple(edges))
            nodes.append(tuple(edges))
            start += len(part) + 1
        return cls(tuple(nodes))

    def __str__(self) -> str:
        return "|".join("+".join(map(str, edges)) for edges in self.nodes)

    def receptive_fields(self) -> tuple[tuple[int, ...], ...]:
        """The receptive field of every edge, in places of the map, as `nodes` lists them."""
        return tuple(tuple(OPERATIONS[edge.operation].receptive_field for edge in edges) for edges in self.nodes)


def edges_of(nodes: int) -> tuple[tuple[int, int], ...]:
    """Every (node, source) that a cell of `nodes` nodes may have, node by node: (2, 0), (2, 1), (3, 0), (3, 1), ..."""
    return tuple((node, source) for node in range(INPUTS, INPUTS + nodes) for source in range(node))


def _edge(text: str, start: int) -> Edge:
    """An edge whose text begins at `start` of the cell's."""
    where = f"cell at character {start + len(text) - len(text.lstrip()) + 1}"
    match = re.fullmatch(r"\s*([A-Za-z0-9_]+)\s*\(\s*([0-9]{1,3})\s*\)\s*", text)
    if match is None:
        shown = text.strip()[:24]
        raise SpecError(where, "an edge such as sep3(0)", repr(shown) if shown else "nothing")
    token, source = match[1], int(match[2])
    check_operation(where, token)
    return Edge(token, source)


def check_operation(where: str, token: str) -> None:
    """SpecError with a suggestion, about the place `where`, for a token that is no operation's."""
    if token not in OPERATIONS:
        near = difflib.get_close_matches(token, OPERATIONS, 1)
        hint = f"did you mean {near[0]}?" if near else None
        raise SpecError(where, f"an operation ({', '.join(OPERATIONS)})", repr(token), hint)


def _check_node(where: str, number: int, edges: tuple[Edge, ...]) -> None:
    """SpecError unless there are edges, of known operations, each from an input or an earlier node of its own."""
    if not edges:
        raise SpecError(where, "one or more edges", "none")
    for edge in edges:
        check_operation(where, edge.operation)
        if not 0 <= edge.source < number:
            raise SpecError(where, f"edges from 0 to {number - 1}, the inputs and earlier nodes", str(edge))
    sources = [edge.source for edge in edges]
    if len(set(sources)) < len(sources):
        twice = next(source for source in sources if sources.count(source) > 1)
        raise SpecError(where, "every source once", f"{twice} {sources.count(twice)} times")


PUBLISHED_BOXES: Final = CellSpec.parse("sep3(0)+std3(1)|sep1d2(1)+std1(2)|sep2(2)+std2(3)")
"""The published cell of the group whose output predicts boxes (found on FCOS, VOC 2012)."""
PUBLISHED_CLASSES: Final = CellSpec.parse("std3(0)+sep2d2(1)|sep2d2(0)+sep1(2)|sep2(2)+std1(3)")
"""The published cell of the group whose output predicts classes."""
MASK_CELL: Final = CellSpec.parse("sep1d3(0)+std2d2(1)|std1(0)+sep1(2)|std3(0)+sep2(2)")
MASK_CELL_ORIGIN: Final = "ours, found with recipes/head-masks.yaml on drawn shapes"
"""The cell of mask heads, and where it comes from: the published one exists only as a drawing. This one was found by
`detsearch search head --recipe recipes/head-masks.yaml`, seed 0, commit 82f72d3, on 600 drawn images of 128x96, a short
search that left its choices undecided: docs/results/head-masks.md."""
ORIGINS: Final[Mapping[CellSpec, str]] = {
    PUBLISHED_BOXES: "published (FAD, boxes)",
    PUBLISHED_CLASSES: "published (FAD, classes)",
    MASK_CELL: MASK_CELL_ORIGIN,
}
"""Where known cells come from, in words."""
