"""Small supernets in float64 with weights that are nowhere at their initial zeros."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detsearch.arch.cells import CellSpec, edges_of
from detsearch.nn.norms import Norms
from detsearch.supernet.cells import Architecture, SuperGroup, make_group
from detsearch.supernet.detector import SupernetSettings

CHANNELS, WIDTH = 6, 4
NORMS = Norms("gn", "gn")
OTHERS = (Norms("bn", "bn"), Norms("gn_ws", "gn_ws"), Norms("bn", None))
"""What else may stand behind the convolutions of an edge."""


def stirred(module: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, every parameter but alpha moved by some noise: biases and shifts, which begin at zero, too."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.endswith("alpha"):
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def group(
    settings: SupernetSettings, *, norms: Norms = NORMS, seed: int = 0, width: int = WIDTH
) -> tuple[SuperGroup, Architecture]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    architecture = Architecture(["boxes"], settings.operations, nodes=settings.nodes, generator=generator)
    cells = [
        [settings.edge(norms, CHANNELS, width) for _ in range(architecture.edges)] for _ in range(settings.repeats)
    ]
    made = make_group(architecture, "boxes", cells, CHANNELS, grouped=settings.grouped)
    stirred(made, seed)
    return made, architecture


def one_hot(alpha: nn.Parameter, cell: CellSpec, operations: Sequence[str]) -> None:
    """Make exactly the edges of `cell` present, with its operations, and all others 'none'."""
    chosen = {(node, edge.source): edge.operation for node, edges in enumerate(cell.nodes, 2) for edge in edges}
    with torch.no_grad():
        alpha.fill_(-1e4)
        for row, pair in zip(alpha, edges_of(len(cell.nodes)), strict=True):
            row[list(operations).index(chosen[pair]) if pair in chosen else -1] = 1e4
    assert set(alpha.softmax(dim=-1).flatten().tolist()) == {0.0, 1.0}
