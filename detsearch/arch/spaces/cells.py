"""Spaces of cells (`arch.cells`), for searches that draw and mutate them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np

from detsearch.arch.cells import INPUTS, MAX_NODES, CellSpec, Edge, check_operation
from detsearch.arch.spaces.base import draw_change
from detsearch.errors import SpecError

MOST_INPUTS: Final = 2
"""A node's first two sources are all that the first node has."""


@dataclass(frozen=True)
class CellSpace:
    """Every cell of `nodes` nodes, each of them the sum of `inputs` edges from different sources, whose operations are
    any of `operations`.

    With all twelve transformations, three nodes and two inputs: 1 x 3 x 6 choices of sources, 12^6 of operations.
    A mutation changes the operation or the source of one edge. SpecError for what no cell can be.
    """

    operations: tuple[str, ...]
    nodes: int = 3
    inputs: int = 2

    def __post_init__(self) -> None:
        for token in self.operations:
            check_operation("operations", token)
        if not self.operations or len(set(self.operations)) < len(self.operations):
            raise SpecError("operations", "one or more, each once", " ".join(self.operations) or "none")
        for name, most in (("nodes", MAX_NODES), ("inputs", MOST_INPUTS)):
            if not 1 <= (value := getattr(self, name)) <= most:
                raise SpecError(name, f"1 to {most}", str(value))

    @cached_property
    def _sources(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """For each node, the sets of sources that it may have."""
        numbers = range(INPUTS, INPUTS + self.nodes)
        return tuple(tuple(itertools.combinations(range(number), self.inputs)) for number in numbers)

    def size(self) -> int:
        """Exact number of cells."""
        operations: int = len(self.operations) ** (self.inputs * self.nodes)
        return math.prod(map(len, self._sources)) * operations

    def all(self) -> Iterator[CellSpec]:
        """Every cell once, always in the same order; made one by one, since there may be millions."""
        nodes = [
            [
                tuple(map(Edge, tokens, sources))
                for sources in choices
                for tokens in itertools.product(self.operations, repeat=self.inputs)
            ]
            for choices in self._sources
        ]
        return map(CellSpec, itertools.product(*nodes))

    def contains(self, cell: CellSpec) -> bool:
        return len(cell.nodes) == self.nodes and all(
            len(edges) == self.inputs and all(edge.operation in self.operations for edge in edges)
            for edges in cell.nodes
        )

    def sample(self, rng: np.random.Generator) -> CellSpec:
        """A cell drawn uniformly."""
        nodes = []
        for choices in self._sources:
            sources = choices[int(rng.integers(len(choices)))]
            tokens = rng.integers(len(self.operations), size=self.inputs).tolist()
            nodes.append(tuple(Edge(self.operations[token], at) for token, at in zip(tokens, sources, strict=True)))
        return CellSpec(tuple(nodes))

    def neighbours(self, cell: CellSpec) -> Iterator[CellSpec]:
        """Every cell of the space that differs in the operation or in the source of one edge, each once."""
        for changed in self._changed(cell):
            yield from changed

    def mutate(self, cell: CellSpec, rng: np.random.Generator) -> CellSpec:
        """One of the neighbours: first the edge is drawn and what of it changes, then the change, so that the many
        operations do not drown the few sources. The cell itself where it has no neighbours."""
        return draw_change(self._changed(cell), rng) or cell

    def _changed(self, cell: CellSpec) -> Iterator[list[CellSpec]]:
        """The neighbours, by edge and by what of it is changed."""
        for index, edges in enumerate(cell.nodes):
            taken = {edge.source for edge in edges}
            for edge in edges:
                others = [replace(edge, operation=token) for token in self.operations if token != edge.operation]
                moved = [replace(edge, source=at) for at in range(index + INPUTS) if at not in taken]
                for new in (others, moved):
                    cells = [_with_edge(cell, index, edge, one) for one in new]
                    yield list(filter(self.contains, cells))


def _with_edge(cell: CellSpec, index: int, old: Edge, new: Edge) -> CellSpec:
    edges = tuple(new if edge == old else edge for edge in cell.nodes[index])
    return CellSpec((*cell.nodes[:index], edges, *cell.nodes[index + 1 :]))
