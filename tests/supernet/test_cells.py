"""A supernet without decoupling is, at one-hot alpha, the derived module with the same weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from detsearch.arch.cells import INPUTS, PUBLISHED_BOXES, PUBLISHED_CLASSES, SETS, CellSpec, Edge, edges_of
from detsearch.nn.cells.cell import CellGroup, CellTower, CellTowers
from detsearch.supernet.cells import SPREAD, Architecture
from detsearch.supernet.derive import derive
from detsearch.supernet.detector import SupernetSettings
from tests.supernet.small import CHANNELS, NORMS, WIDTH, group, maps, one_hot, stirred

FULL = SETS["full"]


def derived(made, cell) -> CellGroup:
    """A group of derived cells with the weights of a supernet's."""
    plain = stirred(CellGroup(NORMS, cell, CHANNELS, WIDTH, len(made.cells)), seed=9)
    for source, own in zip(made.cells, plain.cells, strict=True):
        edges = dict(zip(edges_of(source.nodes), source.edges(), strict=True))
        for node, (chosen, built) in enumerate(zip(cell.nodes, own.nodes, strict=True), INPUTS):
            for edge, place in zip(chosen, built, strict=True):
                found = edges[node, edge.source]
                place.down.load_state_dict(found.down.state_dict())
                place.operation.load_state_dict(found.transformations.path(edge.operation).state_dict())
                place.up.load_state_dict(found.up.state_dict())
        own.out.load_state_dict(source.out.state_dict())
    return plain


def pair(settings, cell, seed=0):
    made, _ = group(settings, seed=seed)
    one_hot(made.alpha, cell, settings.operations)
    assert derive(made.alpha, settings.operations, settings.nodes) == cell
    return made, derived(made, cell)


def cells_with_all_operations() -> list[CellSpec]:
    """Every operation in every node of one of them, and every edge in some."""
    found = []
    for shift in range(len(FULL)):
        nodes = []
        for node in (2, 3, 4):
            sources = range(node)[shift % (node - 1) :][:2]
            nodes.append(tuple(Edge(FULL[(5 * node + 7 * s + shift) % len(FULL)], s) for s in sources))
        found.append(CellSpec(tuple(nodes)))
    return found


@pytest.mark.parametrize(
    ("sharing", "grouped", "cells"),
    [
        ("direct", False, slice(None)),
        ("none", False, slice(None)),
        ("direct", True, slice(3)),
        ("none", True, slice(2)),
    ],
)
def test_groups_equal_what_is_derived(sharing, grouped, cells):
    made, _ = group(SupernetSettings(sharing=sharing, grouped=grouped))
    before, last = maps(1, CHANNELS, 6, 5), maps(1, CHANNELS, 6, 5, seed=1)
    for cell in cells_with_all_operations()[cells]:
        one_hot(made.alpha, cell, FULL)
        torch.testing.assert_close(made(before, last), derived(made, cell)(before, last), rtol=0, atol=1e-10)


def test_those_cells_have_everything():
    cells = cells_with_all_operations()
    for node in range(3):
        assert {edge.operation for cell in cells for edge in cell.nodes[node]} == set(FULL)
    assert {(n, edge.source) for cell in cells for n, edges in enumerate(cell.nodes, 2) for edge in edges} == set(
        edges_of(3)
    )


@pytest.mark.parametrize("operations", ["rf5", "rf7", "std", "sep"])
def test_subsets_equal_what_is_derived(operations):
    settings, x = SupernetSettings(sharing="direct", operations=SETS[operations]), maps(1, CHANNELS, 6, 5)
    names = SETS[operations]
    cell = CellSpec(
        ((Edge(names[0], 0), Edge(names[1], 1)), (Edge(names[2], 0), Edge(names[3], 2)), (Edge(names[-1], 3),))
    )
    made, _ = group(settings)
    one_hot(made.alpha, cell, names)
    torch.testing.assert_close(made(x, x), derived(made, cell)(x, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("order", ["sequential", "parallel", "reversed"])
def test_towers_equal_what_is_derived(order, repeats):
    settings = SupernetSettings(sharing="direct", repeats=repeats, grouped=order == "sequential")
    boxes, plain_boxes = pair(settings, PUBLISHED_BOXES)
    classes, plain_classes = pair(settings, PUBLISHED_CLASSES, seed=1)
    towers = CellTowers(boxes, classes, inputs=CHANNELS, width=CHANNELS, order=order)
    plain = CellTowers(plain_boxes, plain_classes, inputs=CHANNELS, width=CHANNELS, order=order)
    level = maps(2, CHANNELS, 7, 9)
    for one, other in zip(towers(level), plain(level), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_mask_tower_equals_what_is_derived():
    made, plain = pair(SupernetSettings(sharing="direct"), PUBLISHED_BOXES)
    regions = maps(4, CHANNELS, 14, 14)
    one, other = (CellTower(part, inputs=CHANNELS, width=CHANNELS)(regions) for part in (made, plain))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_decoupled_groups_differ_by_their_own_functions_only():
    made, _ = group(SupernetSettings(grouped=False))
    cell, x = CellSpec.parse("std3(0)+sep1d2(1)|sep3(0)+std2d2(2)|std1d3(1)+sep2d2(3)"), maps(2, CHANNELS, 6, 6)
    one_hot(made.alpha, cell, FULL)
    torch.testing.assert_close(made(x, x), derived(made, cell)(x, x), rtol=0, atol=1e-10)
    cell = PUBLISHED_BOXES  # with std1 and sep2
    one_hot(made.alpha, cell, FULL)
    assert not torch.allclose(made(x, x), derived(made, cell)(x, x))
    for module in made.modules():
        if hasattr(module, "behind"):
            for token in ("std1", "std2", "sep1", "sep2"):
                module.behind[token] = nn.Identity()
    torch.testing.assert_close(made(x, x), derived(made, cell)(x, x), rtol=0, atol=1e-10)


def test_architecture():
    def make(seed):
        return Architecture(["boxes", "classes"], FULL, generator=torch.Generator().manual_seed(seed))

    one = make(0)
    assert {name: alpha.shape for name, alpha in one.alpha.items()} == dict.fromkeys(["boxes", "classes"], (9, 13))
    values = torch.cat([alpha.flatten() for alpha in one.parameters()])
    assert 0.8 * SPREAD < values.std() < 1.2 * SPREAD
    assert torch.equal(one.alpha["boxes"], make(0).alpha["boxes"])
    assert not torch.equal(one.alpha["boxes"], make(1).alpha["boxes"])
    assert not torch.equal(one.alpha["boxes"], one.alpha["classes"])
    for weights in one.weights().values():
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(9))


def test_alpha_is_of_the_group_and_of_the_architecture():
    made, architecture = group(SupernetSettings())
    assert made.alpha is architecture.alpha["boxes"]
    assert "alpha" in made.state_dict()
    assert math.prod(made.alpha.shape) == len(edges_of(3)) * 13
