"""Cells with every edge that a cell may have, groups of them, and what decides between their operations (FAD: Zhong et
al., "Representation Sharing for Fast Object Detector Search and Beyond", ECCV 2020, sec. 3).

Groups stand in `nn.cells.cell.CellTowers` and `CellTower`, where derived ones stand later. Shape legend: as in `edges`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from detsearch.arch.cells import INPUTS, edges_of
from detsearch.nn.cells.cell import projection
from detsearch.supernet.edges import MixedEdge
from detsearch.supernet.grouped import GroupedCell

NODES: Final = 3
"""Of a cell (sec. 3)."""
SPREAD: Final = 1e-3
"""Standard deviation of fresh architecture parameters, as in DARTS (Liu et al., ICLR 2019)."""


class Architecture(nn.Module):
    """What a search decides: for every group of cells `alpha`, (edges, K + 1), whose softmax over the group's `choices`
    of operations and 'none', which comes last, says how much of each an edge does. Edges are in the order of
    `arch.cells.edges_of`. `operations` are those of all groups, or of each by its name.

    The groups of a supernet hold the same parameters, so that they lie in its state; here they are together.
    """

    def __init__(
        self,
        groups: Sequence[str],
        operations: Sequence[str] | Mapping[str, Sequence[str]],
        *,
        nodes: int = NODES,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.nodes = nodes
        self.choices = {
            group: tuple(operations[group] if isinstance(operations, Mapping) else operations) for group in groups
        }
        self.alpha = nn.ParameterDict(
            {
                group: nn.Parameter(SPREAD * torch.randn((self.edges, len(tokens) + 1), generator=generator))
                for group, tokens in self.choices.items()
            }
        )

    @property
    def edges(self) -> int:
        """Of a cell."""
        return len(edges_of(self.nodes))

    def weights(self) -> dict[str, Tensor]:
        """By group, the softmax (edges, K + 1)."""
        return {group: alpha.softmax(dim=-1) for group, alpha in self.alpha.items()}


class SuperCell(nn.Module):
    """A cell with all its edges, computed one by one: the plain form of `grouped.GroupedCell`."""

    def __init__(self, edges: Sequence[MixedEdge], out: nn.Module, nodes: int) -> None:
        super().__init__()
        self.nodes = nodes
        self.all = nn.ModuleList(edges)
        self.out = out

    def forward(self, before: Tensor, last: Tensor, weights: Tensor) -> Tensor:
        """The outputs of the two cells before, (B, C, H, W) each, and the weights (edges, K + 1) to (B, C, H, W)."""
        values = [before, last]
        terms: list[list[Tensor]] = [[] for _ in range(self.nodes)]
        for (node, source), edge, share in zip(edges_of(self.nodes), self.all, weights, strict=True):
            terms[node - INPUTS].append(edge(values[source], share))
            if source == node - 1:  # its last edge
                first, *others = terms[node - INPUTS]
                values.append(sum(others, first))
        y: Tensor = self.out(torch.cat(values[INPUTS:], dim=1))
        return y

    def edges(self) -> list[MixedEdge]:
        """Its edges."""
        return list(self.all)  # type: ignore[arg-type]


class SuperGroup(nn.Module):
    """Cells in a row, which share `alpha` and no weights; every one reads the outputs of the two before it."""

    def __init__(self, cells: Sequence[SuperCell | GroupedCell], alpha: nn.Parameter) -> None:
        super().__init__()
        self.cells = nn.ModuleList(cells)
        self.alpha = alpha

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        """What the first cell takes for the outputs before it, (B, C, H, W) each, to the last cell's."""
        weights = self.alpha.softmax(dim=-1)
        for cell in self.cells:
            before, last = last, cell(before, last, weights)
        return last


def make_group(
    architecture: Architecture,
    name: str,
    cells: Sequence[Sequence[MixedEdge]],
    channels: int,
    *,
    grouped: bool = True,
) -> SuperGroup:
    """The group that `architecture` knows by this `name`: for each cell its edges, in the order of
    `arch.cells.edges_of`, computed together where they leave the same node if `grouped`."""
    kind = GroupedCell if grouped else SuperCell
    nodes = architecture.nodes
    made = [kind(edges, projection(channels * nodes, channels), nodes) for edges in cells]
    return SuperGroup(made, architecture.alpha[name])
