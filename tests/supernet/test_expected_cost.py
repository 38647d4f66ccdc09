"""The cost that a search can weigh."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from detsearch.arch.cells import OPERATIONS, SETS
from detsearch.nn.cells.operations import build_operation
from detsearch.supernet.cells import Architecture
from detsearch.supernet.expected_cost import ExpectedCost, macs
from tests.supernet.small import NORMS


def test_macs_are_those_that_run():
    counted = []
    for token in OPERATIONS:
        with FlopCounterMode(display=False) as counter:
            build_operation(token, 8, NORMS)(torch.zeros(1, 8, 5, 7))
        counted.append(counter.get_total_flops() / 2 / 35)
    assert macs(tuple(OPERATIONS), 8).tolist() == [*counted, 0]


def test_macs_in_closed_form():
    std, sep = 9 * 96 * 96, 9 * 96 + 96 * 96
    wanted = [
        std,
        2 * std,
        3 * std,
        std + sep,
        2 * std + sep,
        std + sep,
        *(sep * times for times in (1, 2, 3, 2, 3, 2)),
    ]
    assert macs(SETS["full"], 96).tolist() == [*wanted, 0]


def test_expectation():
    architecture = Architecture(["boxes", "classes"], ("std1", "sep1"), nodes=1)
    costs = {"boxes": torch.tensor([[4.0, 2.0, 0.0]] * 2), "classes": torch.tensor([[8.0, 6.0, 1.0], [0.0, 0.0, 0.0]])}
    with torch.no_grad():
        for alpha in architecture.parameters():
            alpha.zero_()
    term = ExpectedCost(costs, 0.5)
    assert term(architecture).item() == pytest.approx(0.5 * (2 + 2 + 5))
    with torch.no_grad():
        architecture.alpha["boxes"][:, 2] = 100
    assert term(architecture).item() == pytest.approx(0.5 * 5)


def test_descent_makes_it_cheaper():
    architecture = Architecture(["mask"], SETS["full"], generator=torch.Generator().manual_seed(0))
    term = ExpectedCost({"mask": macs(SETS["full"], 8).expand(9, -1)}, 1e-3)
    before = term(architecture)
    before.backward()
    with torch.no_grad():
        for alpha in architecture.parameters():
            alpha -= 0.1 * alpha.grad
    assert term(architecture) < before
