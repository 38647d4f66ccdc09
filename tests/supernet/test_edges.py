"""Edges one by one: what is shared, what decoupling adds, and what an edge is at one-hot weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detsearch.arch.cells import OPERATIONS, SETS
from detsearch.nn.cells.cell import Edge
from detsearch.supernet.edges import SharedEdge, UnsharedEdge, mixed
from tests.supernet.small import CHANNELS, NORMS, OTHERS, WIDTH, maps, stirred

FULL = SETS["full"]
DECOUPLED = {"std1", "std2", "sep1", "sep2"}


def shared(operations=FULL, *, decoupled=False, norms=NORMS) -> SharedEdge:
    return stirred(SharedEdge(norms, CHANNELS, WIDTH, operations, decoupled=decoupled))


def unshared(operations=FULL, *, norms=NORMS) -> UnsharedEdge:
    return stirred(UnsharedEdge(norms, CHANNELS, WIDTH, operations))


def only(operations, token, scale=1.0):
    weights = torch.zeros(len(operations) + 1, dtype=torch.float64)
    weights[list(operations).index(token)] = scale
    return weights


def derived(edge, token, norms=NORMS) -> Edge:
    """The edge of a derived cell with the same weights."""
    plain = Edge(norms, token, CHANNELS, WIDTH).double()
    plain.down.load_state_dict(edge.down.state_dict())
    plain.operation.load_state_dict(edge.transformations.path(token).state_dict())
    plain.up.load_state_dict(edge.up.state_dict())
    return plain


def representations(edge) -> int:
    """Maps that an edge computes by a convolution, its norm and a ReLU: what sharing saves."""
    return sum(isinstance(module, (nn.GroupNorm, nn.BatchNorm2d)) for module in edge.modules())


def counted(edge) -> int:
    """Norms that run in one forward pass."""
    runs = []
    for module in edge.modules():
        if isinstance(module, (nn.GroupNorm, nn.BatchNorm2d)):
            module.register_forward_hook(lambda *_: runs.append(1))
    edge(maps(1, CHANNELS, 5, 5), torch.full((len(edge.transformations.operations) + 1,), 0.1, dtype=torch.float64))
    return len(runs)


@pytest.mark.parametrize(
    ("operations", "together", "apart"),
    [("full", 12, 26), ("std", 6, 13), ("sep", 6, 13), ("rf5", 4, 6), ("rf7", 8, 16)],
)
def test_sharing_saves_representations(operations, together, apart):
    operations = SETS[operations]
    for edge, number in (
        (shared(operations), together),
        (shared(operations, decoupled=True), together),
        (unshared(operations), apart),
    ):
        assert representations(edge) == counted(edge) == number


@pytest.mark.parametrize(
    ("token", "norms"), [*((token, NORMS) for token in FULL), *(("std2d2", norms) for norms in OTHERS)], ids=str
)
def test_shared_is_the_transformation_at_one_hot_weights(token, norms):
    edge, x = shared(norms=norms), maps(2, CHANNELS, 9, 8)
    torch.testing.assert_close(edge(x, only(FULL, token)), derived(edge, token, norms)(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("token", OPERATIONS)
def test_unshared_is_the_operation_at_one_hot_weights(token):
    edge, x = unshared(tuple(OPERATIONS)), maps(2, CHANNELS, 9, 8)
    torch.testing.assert_close(edge(x, only(OPERATIONS, token)), derived(edge, token)(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("token", FULL)
def test_decoupling_adds_a_function_behind_what_others_build_on(token):
    edge, x = shared(decoupled=True), maps(2, CHANNELS, 9, 8)
    plain, found = derived(edge, token), edge(x, only(FULL, token))
    if token in DECOUPLED:
        own = edge.transformations.behind[token]
        assert [type(layer) for layer in own] == [nn.Conv2d, nn.ReLU]
        torch.testing.assert_close(found, plain.up(own(plain.operation(plain.down(x)))), rtol=0, atol=1e-10)
        with torch.no_grad():  # of what a ReLU gives, the identity is such a function
            own[0].weight.copy_(torch.eye(WIDTH)[:, :, None, None])
            own[0].bias.zero_()
        found = edge(x, only(FULL, token))
    torch.testing.assert_close(found, plain(x), rtol=0, atol=1e-10)


def test_decoupled_functions_begin_as_the_identity():
    """So that before any step both forms of an edge are one."""
    torch.manual_seed(3)
    decoupled = SharedEdge(NORMS, CHANNELS, WIDTH, FULL, decoupled=True).double()
    direct = SharedEdge(NORMS, CHANNELS, WIDTH, FULL, decoupled=False).double()
    direct.load_state_dict({name: decoupled.state_dict()[name] for name in direct.state_dict()})
    x, weights = maps(2, CHANNELS, 9, 8), torch.randn(len(FULL) + 1, dtype=torch.float64).softmax(0)
    assert torch.equal(decoupled(x, weights), direct(x, weights))


def test_decoupled_functions_are_the_only_difference():
    direct, decoupled = shared(), shared(decoupled=True)
    more = set(decoupled.state_dict()) - set(direct.state_dict())
    assert set(direct.state_dict()) <= set(decoupled.state_dict())
    assert {name.split(".")[2] for name in more} == DECOUPLED


@pytest.mark.parametrize("make", [shared, unshared])
def test_none_gives_zero(make):
    nothing = torch.zeros(len(FULL) + 1, dtype=torch.float64)
    nothing[-1] = 1
    assert make()(maps(2, CHANNELS, 4, 4), nothing).abs().max() == 0


@pytest.mark.parametrize("make", [shared, unshared])
def test_an_edge_is_linear_in_its_weights(make):
    edge, x = make(), maps(2, CHANNELS, 4, 5)
    weights = torch.linspace(0.02, 0.2, len(FULL) + 1, dtype=torch.float64)
    parts = sum(edge(x, only(FULL, token, float(weight))) for token, weight in zip(FULL, weights, strict=False))
    torch.testing.assert_close(edge(x, weights), parts, rtol=0, atol=1e-10)


def test_every_parameter_gets_a_gradient():
    for edge in (shared(), shared(decoupled=True), unshared(tuple(OPERATIONS))):
        count = len(edge.transformations.operations) + 1
        edge(maps(2, CHANNELS, 6, 6), torch.full((count,), 1 / count, dtype=torch.float64)).square().sum().backward()
        assert [name for name, p in edge.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_maps_are_scaled_edge_by_edge():
    first, second = maps(2, 6, 3, 3), maps(2, 6, 3, 3, seed=1)
    weights = torch.tensor([[1.0, 2.0, 9.0], [3.0, 4.0, 9.0]], dtype=torch.float64)
    found = mixed([first, second], weights)
    torch.testing.assert_close(found[:, :3], first[:, :3] + 2 * second[:, :3])
    torch.testing.assert_close(found[:, 3:], 3 * first[:, 3:] + 4 * second[:, 3:])
