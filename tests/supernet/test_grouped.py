"""Edges computed together are the edges one by one: the same function, the same gradients, the same training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from detsearch.arch.cells import OPERATIONS, SETS
from detsearch.nn.cells.operations import build_operation
from detsearch.supernet.cells import SuperCell
from detsearch.supernet.detector import SupernetSettings
from detsearch.supernet.grouped import GroupedCell, merged, separated
from tests.supernet.small import CHANNELS, NORMS, OTHERS, WIDTH, group, maps, stirred

KINDS = [
    SupernetSettings(),
    SupernetSettings(sharing="direct", operations=SETS["rf7"]),
    SupernetSettings(sharing="none", operations=("std1d2", "sep2", "dsep3", "max3", "skip")),
    SupernetSettings(operations=("sep1d3",), nodes=1),
]
NAMES = ["decoupled", "direct", "unshared", "least"]


def pair(settings, norms=NORMS) -> tuple[SuperCell, GroupedCell, torch.Tensor]:
    made, _ = group(SupernetSettings(**{**vars(settings), "grouped": False}), norms=norms)
    plain = made.cells[0]
    alpha = maps(*made.alpha.shape, seed=3)
    return plain, GroupedCell(plain.edges(), plain.out, plain.nodes), alpha


@pytest.mark.parametrize(
    ("token", "norms"), [*((token, NORMS) for token in OPERATIONS), *(("std2d2", norms) for norms in OTHERS)], ids=str
)
def test_merged_modules_do_what_each_does(token, norms):
    modules = [stirred(build_operation(token, WIDTH, norms), seed) for seed in range(3)]
    inputs = [maps(2, WIDTH, 7, 5, seed=seed) for seed in range(3)]
    whole = merged(modules)
    joined = whole(torch.cat(inputs, dim=1)).chunk(3, dim=1)
    for module, x, found in zip(modules, inputs, joined, strict=True):
        torch.testing.assert_close(found, module(x), rtol=0, atol=1e-10)
    for module, again in zip(modules, separated(whole, 3), strict=True):
        assert repr(again) == repr(module)
        assert again.state_dict().keys() == module.state_dict().keys()
        for name, tensor in module.state_dict().items():
            torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)


def test_what_mixes_channels_is_not_merged():
    with pytest.raises(AssertionError, match="Linear cannot"):
        merged([nn.Linear(2, 2), nn.Linear(2, 2)])


@pytest.mark.parametrize("settings", KINDS, ids=NAMES)
def test_equal_outputs_and_gradients(settings):
    plain, together, alpha = pair(settings)
    results = []
    for cell in (plain, together):
        own, before, last = alpha.clone().requires_grad_(), maps(2, CHANNELS, 7, 6), maps(2, CHANNELS, 7, 6, seed=1)
        before.requires_grad_()
        last.requires_grad_()
        y = cell(before, last, own.softmax(dim=-1))
        (y * maps(*y.shape, seed=2)).sum().backward()
        results.append([y.detach(), own.grad, before.grad, last.grad])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("settings", KINDS, ids=NAMES)
def test_equal_training(settings):
    plain, together, alpha = pair(settings)
    weights, x = alpha.softmax(dim=-1), maps(2, CHANNELS, 6, 6)
    for cell in (plain, together):
        optimiser = torch.optim.SGD(cell.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
        for _ in range(2):
            optimiser.zero_grad()
            cell(x, x, weights).square().mean().backward()
            optimiser.step()
    for one, other in zip(plain.edges(), together.edges(), strict=True):
        state = other.state_dict()
        for name, tensor in one.state_dict().items():
            torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("settings", KINDS, ids=NAMES)
def test_edges_come_back_unchanged(settings):
    plain, together, _ = pair(settings)
    for one, other in zip(plain.edges(), together.edges(), strict=True):
        assert one.state_dict().keys() == other.state_dict().keys()
        for name, tensor in one.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], tensor, rtol=0, atol=0)


def test_edges_are_copies():
    plain, together, alpha = pair(KINDS[0])
    before = together(*[maps(1, CHANNELS, 4, 4)] * 2, alpha.softmax(dim=-1))
    with torch.no_grad():
        for edge in (*together.edges(), *plain.edges()):
            for parameter in edge.parameters():
                parameter.zero_()
    torch.testing.assert_close(together(*[maps(1, CHANNELS, 4, 4)] * 2, alpha.softmax(dim=-1)), before, rtol=0, atol=0)


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("shape", [(1, CHANNELS, 1, 1), (0, CHANNELS, 14, 14), (3, CHANNELS, 1, 9)])
def test_any_maps(shape, grouped):
    made, _ = group(SupernetSettings(grouped=grouped))
    x = maps(*shape).requires_grad_()
    y = made(x, x)
    assert y.shape == x.shape
    y.sum().backward()
    assert y.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


@pytest.mark.parametrize("grouped", [True, False])
def test_channels_last_inference_and_autocast(grouped):
    made, _ = group(SupernetSettings(grouped=grouped), width=8)
    made.float()
    x = maps(2, CHANNELS, 8, 8).float()
    with torch.inference_mode():
        wanted = made(x, x)
        last = copy.deepcopy(made).to(memory_format=torch.channels_last)
        found = last(*[x.contiguous(memory_format=torch.channels_last)] * 2)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = made(x, x)
    low.float().sum().backward()
    torch.testing.assert_close(low.float(), wanted, rtol=0.2, atol=0.2 * float(wanted.abs().max()))
    assert made.alpha.grad is not None
    assert made.alpha.grad.dtype == torch.float32
