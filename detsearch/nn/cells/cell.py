"""Cells in place of a head's convolutions (FAD: Zhong et al., "Representation Sharing for Fast Object Detector Search
and Beyond", ECCV 2020, sec. 3).

Shape legend: B images or regions, C channels of the maps between cells, c' channels within an edge (`width`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detsearch.arch.cells import INPUTS, CellSpec
from detsearch.arch.modules.towers import CellGroupSpec, CellTowersSpec, GroupOrder
from detsearch.arch.spec import Norm
from detsearch.nn.cells.operations import build_operation, keep_variance
from detsearch.nn.heads.mask import WIDEST
from detsearch.nn.heads.towers import width_on
from detsearch.nn.norms import Norms
from detsearch.types import FeatureSpec


class Edge(nn.Module):
    """A 1x1 convolution to c' channels, an operation, a 1x1 convolution back to C: (B, C, H, W) -> the same."""

    def __init__(self, norms: Norms, operation: str, channels: int, width: int) -> None:
        super().__init__()
        self.down = projection(channels, width)
        self.operation = build_operation(operation, width, norms)
        self.up = projection(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(self.operation(self.down(x)))
        return y


class Cell(nn.Module):
    """The outputs of the two cells before it, (B, C, H, W) each, to another (B, C, H, W): nodes that are sums of edges,
    all of them joined and brought back to C channels by a 1x1 convolution."""

    def __init__(self, norms: Norms, cell: CellSpec, channels: int, width: int) -> None:
        super().__init__()
        self.sources = [[edge.source for edge in edges] for edges in cell.nodes]
        self.nodes = nn.ModuleList(
            nn.ModuleList(Edge(norms, edge.operation, channels, width) for edge in edges) for edges in cell.nodes
        )
        self.out = projection(channels * len(cell.nodes), channels)

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        values = [before, last]
        for edges, sources in zip(self.nodes, self.sources, strict=True):
            assert isinstance(edges, nn.ModuleList)
            terms = [edge(values[source]) for edge, source in zip(edges, sources, strict=True)]
            values.append(sum(terms[1:], terms[0]))
        y: Tensor = self.out(torch.cat(values[INPUTS:], dim=1))
        return y


class CellGroup(nn.Module):
    """`repeats` cells of one design, each with weights of its own; every one reads the outputs of the two before it."""

    def __init__(self, norms: Norms, cell: CellSpec, channels: int, width: int, repeats: int) -> None:
        super().__init__()
        self.cells = nn.ModuleList(Cell(norms, cell, channels, width) for _ in range(repeats))

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        """What the first cell takes for the outputs before it, (B, C, H, W) each, to the last cell's."""
        for cell in self.cells:
            before, last = last, cell(before, last)
        return last


class CellTowers(nn.Module):
    """Two groups of cells in place of a one-stage head's `nn.heads.towers.Towers`: a level (B, inputs, H, W) to maps of
    `width` channels for classes and for boxes.

    The group that is not the first in `order` reads [output of the first, level]; a first one reads the level twice.
    """

    def __init__(self, boxes: nn.Module, classes: nn.Module, *, inputs: int, width: int, order: GroupOrder) -> None:
        super().__init__()
        self.width, self.order = width, order
        self.enter = entry(inputs, width)
        self.boxes, self.classes = boxes, classes

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        level = self.enter(level)
        if self.order == "parallel":
            return self.classes(level, level), self.boxes(level, level)
        if self.order == "sequential":
            boxes = self.boxes(level, level)
            return self.classes(boxes, level), boxes
        classes = self.classes(level, level)
        return classes, self.boxes(classes, level)


class CellTower(nn.Module):
    """One group of cells in place of a mask head's convolutions: (R, inputs, S, S) to (R, width, S, S)."""

    def __init__(self, group: nn.Module, *, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.enter = entry(inputs, width)
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        y: Tensor = self.group(x, x)
        return y


def projection(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1x1 convolution without norm or ReLU."""
    return keep_variance(nn.Conv2d(inputs, outputs, 1), "linear")


def entry(inputs: int, width: int) -> nn.Module:
    """What brings maps to the width of the cells: nothing, but where they are wider than a head follows them."""
    return nn.Identity() if inputs == width else projection(inputs, width)


def build_cell_towers(
    spec: CellTowersSpec,
    *,
    features: FeatureSpec,
    num_classes: int,  # noqa: ARG001  the predictions are the head's
    norm: Norm,
) -> CellTowers:
    """Towers for the head of a detector on maps of one width."""
    inputs, width = features.channels[0], width_on(features, 0)
    norms = Norms.of(norm, spec.norm, beside_bn="gn")
    boxes, classes = (
        CellGroup(norms, cell, width, inner, spec.repeats)
        for cell, inner in zip((spec.boxes, spec.classes), spec.widths, strict=True)
    )
    return CellTowers(boxes, classes, inputs=inputs, width=width, order=spec.order)


def build_cell_group(
    spec: CellGroupSpec,
    *,
    features: FeatureSpec,
    num_classes: int,  # noqa: ARG001  the predictions are the head's
    norm: Norm,
) -> CellTower:
    """Convolutions for the mask head on maps of one width."""
    inputs, width = features.channels[0], width_on(features, 0, most=WIDEST)
    group = CellGroup(Norms.of(norm, spec.norm, beside_bn="gn"), spec.cell, width, spec.width, spec.repeats)
    return CellTower(group, inputs=inputs, width=width)
