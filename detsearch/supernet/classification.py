"""Classifiers of small images made of cells, and their supernets: where FAD studies what decoupling does (Zhong et al.,
ECCV 2020, ablations), in the setting of DARTS (Liu et al., "DARTS", ICLR 2019, sec. 3.1 and its appendix).

Cells in a row, each reading the outputs of the two before it; two of them, after one and after two thirds, halve the
maps and double their width. Normal cells choose among FAD's t1 to t5 and the identity ("skip-connect"), reduction cells
among max pooling, average pooling and the identity. Unlike in a head there are no 1x1 convolutions around an operation
and none behind the nodes: a cell's output is its nodes side by side. As in a head a convolution comes before its norm
and ReLU; the norm is DARTS's, over the batch. DARTS's auxiliary classifier, cutout and dropped paths are left out.

Shape legend: B images, C channels within a cell, K operations to choose among; weight K + 1 is that of 'none'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detsearch.arch.cells import INPUTS, OPERATIONS, TRANSFORMATIONS, CellSpec, Stream, edges_of
from detsearch.arch.modules.fields import within
from detsearch.nn.cells.operations import Halving, build_operation
from detsearch.nn.norms import Norms
from detsearch.nn.ops.dense import precise
from detsearch.supernet.cells import Architecture
from detsearch.supernet.detector import Sharing
from detsearch.supernet.edges import SharedTransformations, mixed
from detsearch.supernet.grouped import merged

NORMAL: Final = "normal"
REDUCTION: Final = "reduction"
"""Kinds of cells, each with an alpha of its own."""
NODES: Final = 4
"""Of a cell (DARTS)."""
STEM: Final = 3
"""Width of the stem's map, in widths of the first cell (DARTS)."""
NORMS: Final = Norms("bn", "bn")

Entries: TypeAlias = tuple[nn.Module, nn.Module]
"""What brings the outputs of the two cells before to a cell's width and size."""


def choices(stream: Stream) -> dict[str, tuple[str, ...]]:
    """What the edges of both kinds of cells choose among. t1 to t5 are those of one stream; the paper does not name it,
    and DARTS's own convolutions are separable."""
    transformations = [one.token for one in TRANSFORMATIONS if one.stream == stream][:5]
    return {NORMAL: (*transformations, "skip"), REDUCTION: ("max3", "avg3", "skip")}


@dataclass(frozen=True, kw_only=True)
class ClassifierSize:
    """`cells` in a row, `channels` of the first, for so many `classes`. SpecError names what cannot be."""

    cells: int = 8
    channels: int = 16
    classes: int = 10

    def __post_init__(self) -> None:
        within("cells", self.cells, 3, 100)
        within("channels", self.channels, 2, 1024)
        within("classes", self.classes, 2, 100_000)


class EdgeOperations(nn.Module):
    """All operations of an edge: transformations that are `shared`, if there are some, and then those with layers of
    their `own`, by their tokens."""

    def __init__(self, shared: SharedTransformations | None, own: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.shared = shared
        self.own = nn.ModuleDict(own)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) to the K results, of one size."""
        found = [] if self.shared is None else self.shared(x)
        return [*found, *(operation(x) for operation in self.own.values())]

    def path(self, token: str) -> nn.Module:
        """The layers of an operation, as `nn.cells.operations.build_operation` makes them."""
        if self.shared is None or token in self.own:
            return self.own[token]
        return self.shared.path(token)


class SearchedCell(nn.Module):
    """A cell that does all operations of all edges at once, weighted by the softmax of `alpha` (edges, K + 1). `edges`
    in the order of `arch.cells.edges_of`; those that leave the same node are computed together."""

    by_source: Tensor

    def __init__(self, entries: Entries, edges: Sequence[EdgeOperations], alpha: nn.Parameter, nodes: int) -> None:
        super().__init__()
        pairs = list(enumerate(edges_of(nodes)))
        numbers = [[i for i, (_, source) in pairs if source == s] for s in range(INPUTS + nodes - 1)]
        self.nodes, self.alpha = nodes, alpha
        self.targets = [[pairs[i][1][0] for i in some] for some in numbers]
        self.register_buffer("by_source", torch.tensor([i for some in numbers for i in some]), persistent=False)
        self.entries = nn.ModuleList(entries)
        self.leaving = nn.ModuleList(merged([edges[i] for i in some]) for some in numbers)

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        """The outputs of the two cells before to this one's, (B, nodes * C, H, W)."""
        values = [entry(x) for entry, x in zip(self.entries, (before, last), strict=True)]
        weights = self.alpha.softmax(dim=-1).index_select(0, self.by_source)
        shares = torch.split(weights, [len(targets) for targets in self.targets])
        terms: dict[int, list[Tensor]] = {}
        for source, (targets, operations, share) in enumerate(zip(self.targets, self.leaving, shares, strict=True)):
            if source >= INPUTS:
                values.append(_total(terms[source]))
            # One copy of the map for each edge: then every layer has as many groups as there are edges.
            maps = operations(values[source].repeat(1, len(targets), 1, 1))
            for target, part in zip(targets, mixed(maps, share).chunk(len(targets), dim=1), strict=True):
                terms.setdefault(target, []).append(part)
        values.append(_total(terms[INPUTS + self.nodes - 1]))
        return torch.cat(values[INPUTS:], dim=1)


class DerivedCell(nn.Module):
    """A cell as it is derived, with one of the `operations` for each edge of each node of `cell`."""

    def __init__(self, entries: Entries, cell: CellSpec, operations: Sequence[Sequence[nn.Module]]) -> None:
        super().__init__()
        self.sources = [[edge.source for edge in edges] for edges in cell.nodes]
        self.entries = nn.ModuleList(entries)
        self.operations = nn.ModuleList(nn.ModuleList(some) for some in operations)

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        """As `SearchedCell`."""
        values = [entry(x) for entry, x in zip(self.entries, (before, last), strict=True)]
        for operations, sources in zip(self.operations, self.sources, strict=True):
            assert isinstance(operations, nn.ModuleList)
            values.append(
                _total([operation(values[source]) for operation, source in zip(operations, sources, strict=True)])
            )
        return torch.cat(values[INPUTS:], dim=1)


class CellClassifier(nn.Module):
    """`stem`, `cells`, the mean of the last map, of `width` channels, over all places, a linear layer. Called with
    images and labels it gives losses by name, as a search of cells wants them."""

    def __init__(self, stem: nn.Module, cells: Sequence[nn.Module], *, width: int, classes: int) -> None:
        super().__init__()
        self.stem = stem
        self.cells = nn.ModuleList(cells)
        self.fc = nn.Linear(width, classes)

    def logits(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 to (B, classes), at least float32."""
        before = last = self.stem((pixels.to(self.fc.weight.dtype) / 255 - 0.5) / 0.25)
        for cell in self.cells:
            before, last = last, cell(before, last)
        return precise(self.fc(last.mean(dim=(2, 3))))

    def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The cross entropy with (B,) int64 labels, mean over the images."""
        return {"cross_entropy": F.cross_entropy(self.logits(pixels), labels)}


def build_searched(
    size: ClassifierSize, *, stream: Stream, sharing: Sharing, generator: torch.Generator, nodes: int = NODES
) -> tuple[CellClassifier, Architecture]:
    """A supernet and what decides about it, the groups `NORMAL` and `REDUCTION`, whose values come from `generator`;
    weights come from torch's global generator."""
    kinds = choices(stream)
    architecture = Architecture(list(kinds), kinds, nodes=nodes, generator=generator)

    def cell(kind: str, channels: int, entries: Entries) -> nn.Module:
        edges = [_edge(kinds[kind], channels, sharing, _stride(kind, source)) for _, source in edges_of(nodes)]
        return SearchedCell(entries, edges, architecture.alpha[kind], nodes)

    return _stacked(size, nodes, cell), architecture


def build_derived(size: ClassifierSize, cells: Mapping[str, CellSpec]) -> CellClassifier:
    """A classifier of `cells`, `NORMAL` and `REDUCTION` ones with as many nodes each; weights come from torch's global
    generator."""

    def cell(kind: str, channels: int, entries: Entries) -> nn.Module:
        operations = [
            [build_operation(edge.operation, channels, NORMS, stride=_stride(kind, edge.source)) for edge in edges]
            for edges in cells[kind].nodes
        ]
        return DerivedCell(entries, cells[kind], operations)

    return _stacked(size, len(cells[NORMAL].nodes), cell)


def share_of(cell: CellSpec, tokens: Sequence[str]) -> float:
    """How many of a cell's edges have one of these operations, as a share of all."""
    edges = [edge for node in cell.nodes for edge in node]
    return sum(edge.operation in tokens for edge in edges) / len(edges)


def _stride(kind: str, source: int) -> int:
    """Of an edge: those of a reduction cell's inputs halve them."""
    return 2 if kind == REDUCTION and source < INPUTS else 1


def _edge(tokens: Sequence[str], channels: int, sharing: Sharing, stride: int) -> EdgeOperations:
    together = [token for token in tokens if sharing != "none" and OPERATIONS[token].stream is not None]
    shared = None
    if together:
        shared = SharedTransformations(NORMS, channels, together, decoupled=sharing == "decoupled")
    alone = (token for token in tokens if token not in together)
    return EdgeOperations(shared, {token: build_operation(token, channels, NORMS, stride=stride) for token in alone})


def _stacked(size: ClassifierSize, nodes: int, make: Callable[[str, int, Entries], nn.Module]) -> CellClassifier:
    """The network around cells, each of which `make` gives for its kind, channels and entries."""
    stem = nn.Sequential(NORMS.conv(3, STEM * size.channels, 3), NORMS.norm(STEM * size.channels))
    before = last = STEM * size.channels
    channels, halved, cells = size.channels, False, []
    for number in range(size.cells):
        halves = number in (size.cells // 3, 2 * size.cells // 3)
        channels *= 2 if halves else 1
        # Behind a cell that halves its maps, the output before it is twice as large as its own.
        entries = (Halving(before, channels, NORMS) if halved else _entry(before, channels), _entry(last, channels))
        cells.append(make(REDUCTION if halves else NORMAL, channels, entries))
        before, last, halved = last, nodes * channels, halves
    return CellClassifier(stem, cells, width=last, classes=size.classes)


def _entry(inputs: int, channels: int) -> nn.Module:
    return nn.Sequential(nn.ReLU(), NORMS.conv(inputs, channels, 1), NORMS.norm(channels))


def _total(terms: Sequence[Tensor]) -> Tensor:
    first, *others = terms
    return sum(others, first)
