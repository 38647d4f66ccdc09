"""Edges that leave the same node, computed together: they see the same map, so one convolution with as many groups does
what as many convolutions do. Equal to `cells.SuperCell`, which computes them one by one, and faster.

Shape legend: as in `edges`; E edges leave a node, n edges enter it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detsearch.arch.cells import INPUTS, edges_of
from detsearch.supernet.edges import MixedEdge, mixed

COUNTS: Final[dict[type[nn.Module], tuple[str, ...]]] = {
    nn.Conv2d: ("in_channels", "out_channels", "groups"),
    nn.GroupNorm: ("num_groups", "num_channels"),
    nn.BatchNorm2d: ("num_features",),
}
"""What is counted by a layer that treats channels in groups. Its parameters and buffers have an entry for each channel,
along the first axis."""


def merged(modules: Sequence[nn.Module]) -> nn.Module:
    """One module that does to the joined channels of E maps, (B, E * c', H, W), what each of E `modules` of one kind
    does to its own map (B, c', H, W). Made of the layers in `COUNTS` and of such as have no parameters."""
    whole = copy.deepcopy(modules[0])
    lanes = len(modules)
    for layer, *parts in zip(whole.modules(), *(module.modules() for module in modules), strict=True):
        _count(layer, lambda number: number * lanes)
        _fill(layer, {name: torch.cat([tensor, *(_own(part)[name] for part in parts[1:])])
                      for name, tensor in _own(parts[0]).items()})  # fmt: skip
    return whole


def separated(whole: nn.Module, lanes: int) -> list[nn.Module]:
    """The modules of which `merged` made `whole`."""
    modules = [copy.deepcopy(whole) for _ in range(lanes)]
    for layer, *parts in zip(whole.modules(), *(module.modules() for module in modules), strict=True):
        for lane, part in enumerate(parts):
            _count(part, lambda number: number // lanes)
            _fill(part, {name: tensor.chunk(lanes)[lane].clone() for name, tensor in _own(layer).items()})
    return modules


def _own(layer: nn.Module) -> dict[str, Tensor]:
    """A layer's own parameters and buffers, but a batch norm's counter, which is no channel's."""
    tensors = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
    return {name: tensor.detach() for name, tensor in tensors if tensor.ndim}


def _count(layer: nn.Module, change: Callable[[int], int]) -> None:
    for kind, names in COUNTS.items():
        if isinstance(layer, kind):
            for name in names:
                setattr(layer, name, change(getattr(layer, name)))
            return
    assert not _own(layer), f"{type(layer).__name__} cannot be computed for several edges at once"


def _fill(layer: nn.Module, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        getattr(layer, name).data = tensor


class Gathering(nn.Module):
    """A node's value, the sum of the 1x1 convolutions of its n edges, as one convolution of what they bring: `weight`
    (C, n * c', 1, 1) and a row of `bias` (n, C) for each edge."""

    def __init__(self, edges: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat([edge.weight.detach() for edge in edges], dim=1))
        self.bias = nn.Parameter(torch.stack([edge.bias.detach() for edge in edges if edge.bias is not None]))

    def forward(self, maps: Sequence[Tensor], present: Tensor) -> Tensor:
        """n maps (B, c', H, W), and how far each of the edges is present (n,), to (B, C, H, W)."""
        return F.conv2d(torch.cat(list(maps), dim=1), self.weight, (self.bias * present[:, None]).sum(dim=0))


class GroupedCell(nn.Module):
    """A cell with all its edges: the same function of the same weights as the edges one by one."""

    by_source: Tensor

    def __init__(self, edges: Sequence[MixedEdge], out: nn.Module, nodes: int) -> None:
        super().__init__()
        self.nodes = nodes
        pairs = list(enumerate(edges_of(nodes)))
        self.leaving = [[i for i, (_, source) in pairs if source == s] for s in range(INPUTS + nodes - 1)]
        self.entering = [[i for i, (node, _) in pairs if node == n] for n in range(INPUTS, INPUTS + nodes)]
        order = torch.tensor([i for numbers in self.leaving for i in numbers])
        self.register_buffer("by_source", order, persistent=False)
        self.down = nn.ModuleList(_fork([edges[i].down for i in numbers]) for numbers in self.leaving)
        self.transformations = nn.ModuleList(
            merged([edges[i].transformations for i in numbers]) for numbers in self.leaving
        )
        self.up = nn.ModuleList(Gathering([edges[i].up for i in numbers]) for numbers in self.entering)
        self.out = copy.deepcopy(out)

    def forward(self, before: Tensor, last: Tensor, weights: Tensor) -> Tensor:
        """The outputs of the two cells before, (B, C, H, W) each, and the weights (edges, K + 1), in the order of
        `arch.cells.edges_of`, to (B, C, H, W)."""
        values = [before, last]
        brought: dict[int, Tensor] = {}
        present = weights[:, :-1].sum(dim=1)
        shares = torch.split(weights.index_select(0, self.by_source), [len(numbers) for numbers in self.leaving])
        for source, numbers in enumerate(self.leaving):
            if source >= INPUTS:
                values.append(self._node(source, brought, present))
            maps = self.transformations[source](self.down[source](values[source]))
            brought.update(zip(numbers, mixed(maps, shares[source]).chunk(len(numbers), dim=1), strict=True))
        values.append(self._node(INPUTS + self.nodes - 1, brought, present))
        y: Tensor = self.out(torch.cat(values[INPUTS:], dim=1))
        return y

    def _node(self, node: int, brought: dict[int, Tensor], present: Tensor) -> Tensor:
        numbers = self.entering[node - INPUTS]
        value: Tensor = self.up[node - INPUTS](
            [brought.pop(i) for i in numbers],
            present[numbers[0] : numbers[-1] + 1],  # `edges_of` goes node by node
        )
        return value

    def edges(self) -> list[MixedEdge]:
        """Its edges one by one, with copies of its weights."""
        found: dict[int, list[nn.Module]] = {}
        for numbers, down, transformations in zip(self.leaving, self.down, self.transformations, strict=True):
            assert isinstance(down, nn.Conv2d)
            lanes = len(numbers)
            for i, weight, bias, part in zip(
                numbers,
                down.weight.chunk(lanes),
                _bias(down).chunk(lanes),
                separated(transformations, lanes),
                strict=True,
            ):
                found[i] = [_projection(weight, bias), part]
        for numbers, up in zip(self.entering, self.up, strict=True):
            assert isinstance(up, Gathering)
            for i, weight, bias in zip(numbers, up.weight.chunk(len(numbers), dim=1), up.bias, strict=True):
                found[i].append(_projection(weight, bias))
        return [MixedEdge(*found[i]) for i in sorted(found)]  # type: ignore[arg-type]


def _fork(edges: Sequence[nn.Conv2d]) -> nn.Conv2d:
    """One 1x1 convolution for all edges that see the same map: (B, C, H, W) to (B, E * c', H, W)."""
    return _projection(torch.cat([edge.weight for edge in edges]), torch.cat([_bias(edge) for edge in edges]))


def _projection(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A 1x1 convolution with copies of these parameters."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, device="meta")
    conv.weight, conv.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
    return conv


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
