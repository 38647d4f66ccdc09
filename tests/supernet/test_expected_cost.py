"""The cost that a search can weigh."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from detsearch.arch.cells import OPERATIONS, SETS
from detsearch.nn.cells.operations import build_operation
from detsearch.supernet.bilevel import Bilevel, alpha_optimiser
from detsearch.supernet.cells import Architecture
from detsearch.supernet.derive import Choice
from detsearch.supernet.expected_cost import ExpectedCost, latencies, macs, shares
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


def test_latencies_are_medians_of_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all operations in turn, after each has been warmed up, in milliseconds; 'none' takes nothing."""
    seconds = iter([9.0, 9.0, 0.001, 0.005, 0.030, 0.007, 0.002, 0.006])
    ran: list[str] = []
    now = [0.0]

    class Pass(nn.Module):
        def __init__(self, token: str) -> None:
            super().__init__()
            self.token = token

        def forward(self, x: Tensor) -> Tensor:
            ran.append(self.token)
            now[0] += next(seconds)
            return x

    monkeypatch.setattr("detsearch.supernet.expected_cost.build_operation", lambda token, *_: Pass(token))
    found = latencies(("std1", "sep1"), 8, [torch.zeros(1, 8, 4, 4)], runs=3, clock=lambda: now[0])
    assert found.tolist() == pytest.approx([2, 6, 0])
    assert ran == ["std1", "sep1"] * 4


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_latencies_are_taken_as_the_search_computes(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype | None, layout: torch.memory_format
) -> None:
    seen: list[tuple[bool, bool, torch.dtype]] = []

    class Seen(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            here = (t.is_contiguous(memory_format=layout) for t in (x, self.weight))
            seen.append((*here, y.dtype))  # type: ignore[arg-type]
            return y

    monkeypatch.setattr("detsearch.supernet.expected_cost.build_operation", lambda _, width, *__: Seen(width, width, 3))
    found = latencies(
        ("std1",), 8, [torch.zeros(2, 8, 5, 7), torch.zeros(2, 8, 3, 4)], dtype=dtype, layout=layout, runs=1
    )
    assert seen == [(True, True, dtype or torch.float32)] * 4
    assert found.shape == (2,)
    assert 0 < found[0] < 10_000


def test_shares_of_the_dearest_cells() -> None:
    architecture = Architecture(["boxes", "classes"], ("std1", "sep1"), nodes=1)
    costs = {"boxes": torch.tensor([4.0, 2.0, 0.0]), "classes": torch.tensor([8.0, 6.0, 0.0])}
    found = shares(costs, architecture)
    assert {group: share.tolist() for group, share in found.items()} == {
        "boxes": [pytest.approx([4 / 24, 2 / 24, 0])] * 2,
        "classes": [pytest.approx([8 / 24, 6 / 24, 0])] * 2,
    }
    with torch.no_grad():
        for alpha in architecture.parameters():
            alpha[:] = torch.tensor([1e4, 0, 0])
    assert ExpectedCost(found, 0.25)(architecture).item() == pytest.approx(0.25), "the dearest cells cost the weight"


class Merits(nn.Module):
    """In place of a detector: the loss falls with the merits of what the edges lean to, on average greater where it
    costs more."""

    def __init__(self, architecture: Architecture, merits: dict[str, Tensor]) -> None:
        super().__init__()
        self.alpha, self.merits = architecture.alpha, merits

    def forward(self) -> dict[str, Tensor]:
        chosen = [(alpha.softmax(dim=-1) * self.merits[group]).sum() for group, alpha in self.alpha.items()]
        return {"loss": -torch.stack(chosen).sum()}


@pytest.mark.parametrize("seed", [0, 3])
def test_a_greater_weight_trades_merit_for_cost(seed: int) -> None:
    """Neither what is derived nor what is expected ever gets dearer, and between the ends there are compromises."""
    costs = {group: macs(SETS["full"], width) for group, width in (("boxes", 8), ("classes", 16))}
    random = torch.Generator().manual_seed(seed)
    merits = {
        group: (cost / cost.max()).sqrt() + 0.5 * torch.rand((9, len(cost)), generator=random)
        for group, cost in costs.items()
    }
    derived, expected, reached = [], [], []
    for weight in (0, 1, 3, 10, 30, 100):
        architecture = Architecture([*costs], SETS["full"], generator=torch.Generator().manual_seed(seed))
        network = Merits(architecture, merits)
        alpha = alpha_optimiser(architecture, lr=0.1, weight_decay=0)
        unused = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)
        term = ExpectedCost(shares(costs, architecture), weight)
        search = Bilevel(network, architecture, unused, alpha, term=term)
        for _ in range(120):
            search.architecture_step(())
        cells = Choice.of(architecture, 0).cells
        prices = {group: dict(zip(SETS["full"], cost.tolist(), strict=False)) for group, cost in costs.items()}
        derived.append(sum(prices[g][e.operation] for g, cell in cells.items() for edges in cell.nodes for e in edges))
        expected.append(sum((share * costs[group]).sum().item() for group, share in architecture.weights().items()))
        reached.append(-network()["loss"].item())
    for found in (derived, expected):
        assert found == sorted(found, reverse=True)
    assert derived[-1] < derived[0] / 10
    assert reached[-1] < reached[0] / 2, "which is the price"
    assert len(set(derived)) > 3
