"""From what a search has learnt to a cell, and what is recorded of it on the way (FAD, ECCV 2020, sec. 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from detsearch.arch.cells import CellSpec, Edge, edges_of
from detsearch.errors import TrainingError
from detsearch.supernet.cells import Architecture

KEPT = 2
"""Edges of a node that are kept."""


def derive(alpha: Tensor, operations: Sequence[str], nodes: int) -> CellSpec:
    """The cell that `alpha` (edges, K + 1) favours: on every edge the strongest choice other than 'none', in every node
    the two edges whose choice weighs most. Of equals, the earlier operation and the earlier source.

    TrainingError where alpha is not finite.
    """
    if not alpha.isfinite().all():
        raise TrainingError("alpha is no longer finite; lower its learning rate, alpha_lr")
    weights = alpha.detach().double().cpu().softmax(dim=-1).tolist()
    found: dict[int, list[tuple[float, Edge]]] = {}
    for (node, source), row in zip(edges_of(nodes), weights, strict=True):
        best = max(range(len(operations)), key=lambda k: (row[k], -k))
        found.setdefault(node, []).append((row[best], Edge(operations[best], source)))
    kept = [sorted(edges, key=lambda edge: (-edge[0], edge[1].source))[:KEPT] for edges in found.values()]
    return CellSpec(tuple(tuple(edge for _, edge in edges) for edges in kept))


def entropy(alpha: Tensor) -> float:
    """How undecided the edges are: the entropy of their softmax, mean over edges, in nats; ln(K + 1) at first."""
    logs = alpha.detach().double().log_softmax(dim=-1)
    return float(-(logs.exp() * logs).sum(dim=-1).mean())


@dataclass(frozen=True)
class Choice:
    """What a search would choose after `iteration` iterations: by group, its cell, its entropy and the softmax (edges,
    K + 1) behind them."""

    iteration: int
    cells: Mapping[str, CellSpec]
    entropy: Mapping[str, float]
    weights: Mapping[str, Sequence[Sequence[float]]]

    @classmethod
    def of(cls, architecture: Architecture, iteration: int) -> Self:
        """TrainingError where alpha is not finite."""
        alphas = dict(architecture.alpha.items())
        return cls(
            iteration,
            {name: derive(alpha, architecture.choices[name], architecture.nodes) for name, alpha in alphas.items()},
            {name: entropy(alpha) for name, alpha in alphas.items()},
            {name: weights.detach().cpu().tolist() for name, weights in architecture.weights().items()},
        )

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        cells = {name: str(cell) for name, cell in self.cells.items()}
        return {
            "iteration": self.iteration,
            "cells": cells,
            "entropy": dict(self.entropy),
            "weights": {name: [list(row) for row in rows] for name, rows in self.weights.items()},
        }

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Self:
        """What `record` gave; KeyError, TypeError, ValueError or SpecError for anything else."""
        cells = {str(name): CellSpec.parse(cell) for name, cell in record["cells"].items()}
        entropy = {str(name): float(value) for name, value in record["entropy"].items()}
        weights = {
            str(name): [[float(value) for value in row] for row in rows] for name, rows in record["weights"].items()
        }
        return cls(int(record["iteration"]), cells, entropy, weights)


def settled(history: Sequence[Choice]) -> bool:
    """Whether the last two choices are the same cells: the rule by which a search stops."""
    return len(history) > 1 and history[-1].cells == history[-2].cells
