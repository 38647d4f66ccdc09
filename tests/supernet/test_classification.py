"""Classifiers of cells: their sizes, a supernet at one-hot alpha against what is derived, and edges one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from detsearch.arch.cells import INPUTS, CellSpec, edges_of
from detsearch.errors import SpecError
from detsearch.nn.cells.operations import Halving, build_operation
from detsearch.supernet.bilevel import Bilevel, alpha_optimiser
from detsearch.supernet.classification import (
    NORMAL,
    NORMS,
    REDUCTION,
    CellClassifier,
    ClassifierSize,
    DerivedCell,
    EdgeOperations,
    SearchedCell,
    build_derived,
    build_searched,
    choices,
    share_of,
)
from detsearch.supernet.derive import Choice
from detsearch.supernet.grouped import separated
from tests.supernet.small import maps, one_hot, stirred

SIZE = ClassifierSize(cells=4, channels=4, classes=3)
NODES = 2
CELLS = [
    {NORMAL: "sep3(0)+skip(1)|sep1d2(0)+sep2d2(2)", REDUCTION: "max3(0)+avg3(1)|skip(0)+skip(2)"},
    {NORMAL: "sep1(0)+sep2(1)|sep2(1)+skip(2)", REDUCTION: "skip(0)+max3(1)|avg3(1)+max3(2)"},
]
"""Every operation, on inputs and on a node; in the first none that decoupling changes."""


def parsed(cells: dict[str, str], stream: str = "sep") -> dict[str, CellSpec]:
    return {kind: CellSpec.parse(cell.replace("sep", stream)) for kind, cell in cells.items()}


def images(count: int = 3, height: int = 9, width: int = 11) -> torch.Tensor:
    return torch.randint(256, (count, 3, height, width), generator=torch.Generator().manual_seed(3)).to(torch.uint8)


def searched(sharing="direct", stream="sep", size=SIZE, nodes=NODES):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network, architecture = build_searched(size, stream=stream, sharing=sharing, nodes=nodes, generator=generator)
    stirred(network)
    return network, architecture


def edges_in(cell: SearchedCell) -> list[EdgeOperations]:
    """One by one, in the order of `edges_of`."""
    found = {}
    for source, (targets, whole) in enumerate(zip(cell.targets, cell.leaving, strict=True)):
        for target, edge in zip(targets, separated(whole, len(targets)), strict=True):
            found[target, source] = edge
    return [found[pair] for pair in edges_of(cell.nodes)]  # type: ignore[misc]


def derived(network: CellClassifier, cells: dict[str, CellSpec]) -> CellClassifier:
    """What is built for the cells, with the supernet's weights."""
    built = build_derived(SIZE, cells).double()
    built.stem.load_state_dict(network.stem.state_dict())
    built.fc.load_state_dict(network.fc.state_dict())
    halves = {SIZE.cells // 3, 2 * SIZE.cells // 3}
    for number, (own, other) in enumerate(zip(built.cells, network.cells, strict=True)):
        assert isinstance(own, DerivedCell)
        assert isinstance(other, SearchedCell)
        own.entries.load_state_dict(other.entries.state_dict())
        edges = dict(zip(edges_of(NODES), edges_in(other), strict=True))
        for node, (chosen, places) in enumerate(
            zip(cells[REDUCTION if number in halves else NORMAL].nodes, own.operations, strict=True), INPUTS
        ):
            for edge, place in zip(chosen, places, strict=True):  # type: ignore[call-overload]
                place.load_state_dict(edges[node, edge.source].path(edge.operation).state_dict())
    return built


def test_what_edges_choose_among() -> None:
    assert choices("sep") == {
        "normal": ("sep1", "sep2", "sep3", "sep1d2", "sep2d2", "skip"),
        "reduction": ("max3", "avg3", "skip"),
    }
    assert choices("std")["normal"][:5] == ("std1", "std2", "std3", "std1d2", "std2d2")
    _, architecture = searched(nodes=4)
    assert {kind: tuple(alpha.shape) for kind, alpha in architecture.alpha.items()} == {
        "normal": (14, 7),
        "reduction": (14, 4),
    }


@pytest.mark.parametrize("cells", [3, 4, 6])
def test_reduction_cells_halve_maps_and_double_channels(cells: int) -> None:
    size = ClassifierSize(cells=cells, channels=2, classes=3)
    for network in (searched(size=size)[0], build_derived(size, parsed(CELLS[0])).double()):
        shapes: list[tuple[int, ...]] = []
        for cell in network.cells:
            cell.register_forward_hook(lambda *found, shapes=shapes: shapes.append(tuple(found[-1].shape)))
        assert network.logits(images()).shape == (3, 3)
        wanted, channels, height, width = [], 2, 9, 11
        for number in range(cells):
            if number in (cells // 3, 2 * cells // 3):
                channels, height, width = 2 * channels, -(-height // 2), -(-width // 2)
            wanted.append((3, NODES * channels, height, width))
        assert shapes == wanted
        assert shapes[-1][1:] == (NODES * 8, 3, 3)


def test_halving_sees_every_second_place_and_those_beside() -> None:
    module = Halving(1, 2, NORMS).double()
    module.norm = nn.Identity()
    for conv in (module.even, module.odd):
        nn.init.ones_(conv.weight)
    x = torch.arange(-1.0, 14.0, dtype=torch.float64).view(1, 1, 3, 5)
    even, odd = module(x)[0]
    assert even.tolist() == [[0, 1, 3], [9, 11, 13]]  # of -1, 1, 3 behind a ReLU; rows 0 and 2
    assert odd.tolist() == [[5, 7, 0], [0, 0, 0]]  # rows 1 and 3, columns 1, 3 and 5, zero beyond the edge


@pytest.mark.parametrize("token", ["max3", "avg3", "skip"])
@pytest.mark.parametrize("side", [1, 6, 7])
def test_operations_that_halve(token: str, side: int) -> None:
    operation = build_operation(token, 4, NORMS, stride=2).double()
    found = operation(maps(2, 4, side, side + 1))
    assert found.shape == (2, 4, -(-side // 2), -(-(side + 1) // 2))
    if token != "skip":
        whole = build_operation(token, 4, NORMS)(maps(2, 4, side, side + 1))
        torch.testing.assert_close(found, whole[..., ::2, ::2])


def test_convolutions_have_no_form_that_halves() -> None:
    with pytest.raises(AssertionError, match="std1 keeps the size"):
        build_operation("std1", 4, NORMS, stride=2)


@pytest.mark.parametrize("cells", CELLS)
@pytest.mark.parametrize(("sharing", "stream"), [("direct", "sep"), ("none", "sep"), ("direct", "std")])
def test_one_hot_supernets_equal_what_is_derived(sharing: str, stream: str, cells: dict[str, str]) -> None:
    chosen = parsed(cells, stream)
    network, architecture = searched(sharing, stream)
    for kind, cell in chosen.items():
        one_hot(architecture.alpha[kind], cell, choices(stream)[kind])  # type: ignore[arg-type, index]
    assert dict(Choice.of(architecture, 0).cells) == chosen
    torch.testing.assert_close(network.logits(images()), derived(network, chosen).logits(images()), rtol=0, atol=1e-10)


def test_decoupling_changes_the_first_two_transformations_only() -> None:
    network, architecture = searched("decoupled")
    same = []
    for cells in CELLS:
        chosen = parsed(cells)
        for kind, cell in chosen.items():
            one_hot(architecture.alpha[kind], cell, choices("sep")[kind])
        same.append(torch.allclose(network.logits(images()), derived(network, chosen).logits(images()), atol=1e-10))
    assert same == [True, False]


@pytest.mark.parametrize("sharing", ["decoupled", "direct", "none"])
@pytest.mark.parametrize("position", [0, 1], ids=["normal", "reduction"])
def test_edges_together_equal_edges_one_by_one(sharing: str, position: int) -> None:
    network, _ = searched(sharing)
    cell = network.cells[position]
    assert isinstance(cell, SearchedCell)
    with torch.no_grad():
        cell.alpha.copy_(maps(*cell.alpha.shape, seed=4))
    stem = 3 * SIZE.channels
    before, last = maps(2, stem, 7, 8), maps(2, stem if position == 0 else NODES * SIZE.channels, 7, 8, seed=1)
    values = [entry(x) for entry, x in zip(cell.entries, (before, last), strict=True)]
    nodes: dict[int, torch.Tensor] = {}
    for (node, source), edge, row in zip(edges_of(NODES), edges_in(cell), cell.alpha.softmax(dim=-1), strict=True):
        value = values[source] if source < INPUTS else nodes[source]
        for result, share in zip(edge(value), row[:-1], strict=True):
            nodes[node] = nodes.get(node, 0) + share * result
    torch.testing.assert_close(cell(before, last), torch.cat(list(nodes.values()), dim=1), rtol=0, atol=1e-10)


def test_steps_of_a_search_change_one_thing_each() -> None:
    network, architecture = searched("decoupled")
    alphas = {id(alpha) for alpha in architecture.parameters()}
    learning = [parameter for parameter in network.parameters() if id(parameter) not in alphas]
    search = Bilevel(network, architecture, torch.optim.SGD(learning, lr=0.1), alpha_optimiser(architecture))
    batch = images(4), torch.tensor([0, 1, 2, 0])
    before = copy.deepcopy(network.state_dict())

    def changed() -> set[str]:
        return {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}

    losses = search.architecture_step(batch)
    assert set(losses) == {"cross_entropy", "grad_norm"}
    of_alpha = {name for name in before if name.endswith("alpha")}
    assert changed() == of_alpha != set()
    before = copy.deepcopy(network.state_dict())
    search.weights_step(batch)
    assert changed() & of_alpha == set()
    assert changed() >= {"stem.0.weight", "cells.0.leaving.0.shared.stems.sep.0.0.weight", "fc.weight"}


def test_a_derived_classifier_answers_a_single_image_and_learns_with_all_it_has() -> None:
    network = build_derived(SIZE, parsed(CELLS[0]))
    network(images(2), torch.tensor([0, 2]))["cross_entropy"].backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    with torch.inference_mode():
        alone = network.eval().logits(images()[:1])
        torch.testing.assert_close(alone, network.logits(images())[:1], rtol=1e-4, atol=1e-5)


def test_shares_by_hand() -> None:
    cell = CellSpec.parse("sep1(0)+skip(1)|sep2(0)+sep1(2)|sep3(0)+sep2d2(1)|sep1d2(0)+sep2(1)")
    assert share_of(cell, ("sep1", "sep2")) == 4 / 8
    assert share_of(cell, ("skip",)) == 1 / 8
    assert share_of(cell, ("sep9",)) == 0


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"cells": 2}, "cells: expected 3 to 100"), ({"channels": 1}, "channels"), ({"classes": 1}, "classes")],
)
def test_sizes_that_cannot_be(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ClassifierSize(**sizes)
