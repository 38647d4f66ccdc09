"""Edges of a supernet, one by one: the plain form, which `grouped` computes faster (FAD: Zhong et al., "Representation
Sharing for Fast Object Detector Search and Beyond", ECCV 2020, sec. 3).

Shape legend: B images or regions, C channels of the maps between cells, c' channels within an edge (`width`), E edges
that are computed together (here one), K operations to choose among; weight K + 1 is that of 'none'.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from detsearch.arch.cells import OPERATIONS
from detsearch.nn.cells.cell import projection
from detsearch.nn.cells.operations import build_operation, convolution
from detsearch.nn.norms import Norms

LONGEST = 3
"""3x3 convolutions of the longest stem."""


class SharedTransformations(nn.Module):
    """RepShare: FAD's transformations `operations` of a map on one stem a stream, p1 -> p2 -> p3, as long as they need
    it. t1, t2, t3 are p1, p2, p3; t4 and t6 are a dilated convolution of p1, t5 is one of p2.

    `decoupled`: t1 and t2, which others build on, are functions of their own of p1 and p2 (`own_function`).
    """

    def __init__(self, norms: Norms, width: int, operations: Sequence[str], *, decoupled: bool) -> None:
        super().__init__()
        self.operations = tuple(operations)
        known = [OPERATIONS[token] for token in operations]
        self.stems, self.behind = nn.ModuleDict(), nn.ModuleDict()
        for stream in dict.fromkeys(one.stream for one in known):
            assert stream is not None, "operations without a stem share nothing"
            length = max(one.convs for one in known if one.stream == stream)
            self.stems[stream] = nn.ModuleList(
                convolution(norms, width, separable=stream == "sep") for _ in range(length)
            )
        for one in known:
            if one.dilation:
                self.behind[one.token] = convolution(norms, width, separable=True, dilation=one.dilation)
            elif decoupled and one.convs < LONGEST:
                self.behind[one.token] = own_function(width)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, c', H, W) to the K transformations of it, (B, c', H, W) each."""
        stages: dict[tuple[str | None, int], Tensor] = {}
        for stream, stem in self.stems.items():
            stage = x
            for number, layer in enumerate(stem.children(), 1):
                stages[stream, number] = stage = layer(stage)
        found = []
        for token in self.operations:
            one = OPERATIONS[token]
            stage = stages[one.stream, one.convs]
            found.append(self.behind[token](stage) if token in self.behind else stage)
        return found

    def path(self, token: str) -> nn.Module:
        """The layers of a transformation as `nn.cells.operations.build_operation` makes them: without what `decoupled`
        adds, which is for the search only."""
        one = OPERATIONS[token]
        assert one.stream is not None
        layers = list(self.stems[one.stream].children())[: one.convs]
        return nn.Sequential(*layers, *([self.behind[token]] if one.dilation else []))


class UnsharedTransformations(nn.Module):
    """The `operations` of a map, any of `arch.cells.OPERATIONS`, each with layers of its own."""

    def __init__(self, norms: Norms, width: int, operations: Sequence[str]) -> None:
        super().__init__()
        self.operations = tuple(operations)
        self.paths = nn.ModuleList(build_operation(token, width, norms) for token in operations)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, c', H, W) to the K results, (B, c', H, W) each."""
        return [path(x) for path in self.paths]

    def path(self, token: str) -> nn.Module:
        """The layers of an operation."""
        return self.paths[self.operations.index(token)]


class MixedEdge(nn.Module):
    """An edge that does all operations at once: a 1x1 convolution `down` to c', the `transformations`, their sum by
    weights, a 1x1 convolution `up` to C. 'none' gives zero, so what it is worth goes to nothing, the bias of `up`
    neither.
    """

    def __init__(self, down: nn.Conv2d, transformations: nn.Module, up: nn.Conv2d) -> None:
        super().__init__()
        self.down, self.transformations, self.up = down, transformations, up

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """(B, C, H, W) and the weights (K + 1,) of the operations and of 'none' to (B, C, H, W)."""
        y = mixed(self.transformations(self.down(x)), weights[None])
        assert self.up.bias is not None
        return F.conv2d(y, self.up.weight, self.up.bias * weights[:-1].sum())


class SharedEdge(MixedEdge):
    """An edge whose transformations share a stem: 12 representations for all of them."""

    def __init__(
        self, norms: Norms, channels: int, width: int, operations: Sequence[str], *, decoupled: bool = True
    ) -> None:
        transformations = SharedTransformations(norms, width, operations, decoupled=decoupled)
        super().__init__(projection(channels, width), transformations, projection(width, channels))


class UnsharedEdge(MixedEdge):
    """An edge whose operations share nothing: 26 representations for FAD's twelve."""

    def __init__(self, norms: Norms, channels: int, width: int, operations: Sequence[str]) -> None:
        transformations = UnsharedTransformations(norms, width, operations)
        super().__init__(projection(channels, width), transformations, projection(width, channels))


def mixed(maps: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The sum of K `maps` (B, E * c', H, W), each scaled edge by edge by its column of `weights` (E, K + 1)."""
    width = maps[0].shape[1] // len(weights)
    scales = weights.t()[..., None].expand(-1, -1, width).reshape(len(maps) + 1, 1, -1, 1, 1)
    total = maps[0] * scales[0]
    for one, scale in zip(maps[1:], scales[1:-1], strict=True):
        total.addcmul_(one, scale)  # in place: the sum itself is needed by no gradient
    return total


def own_function(width: int) -> nn.Module:
    """H of the paper (sec. 3): a 1x1 convolution and a ReLU.

    Its input, behind a ReLU, is not negative. It begins as the identity, so that t1 and t2 are at first what they will
    be in the derived module; a random convolution would hold them back against transformations that need none. The
    paper does not say how it begins.
    """
    conv = nn.Conv2d(width, width, 1)
    nn.init.dirac_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, nn.ReLU(inplace=True))
