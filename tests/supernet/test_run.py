"""One iteration of a search, and what is saved of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from detsearch.arch.code import parse_network
from detsearch.errors import CheckpointError, TrainingError
from detsearch.supernet.bilevel import Bilevel
from detsearch.supernet.detector import SupernetSettings, build_supernet
from detsearch.supernet.run import CellSearchRun, Pair, memory_peak
from detsearch.supernet.settings import CellSearchSettings
from detsearch.training.archive import read_archive, write_archive
from tests.nn.scenes import random_images, random_targets

NETWORK = "basicblock_4_1-1-2-2/fpn(levels=4-5,width=8)/fcos(tower=cells(width=8,repeats=1))"
SIZES = [(64, 64), (50, 64)]
COSTS = {"boxes": torch.tensor([3.0, 1.0, 0.0]), "classes": torch.tensor([5.0, 2.0, 0.0])}
OPERATIONS = ("std1", "sep1")


def pair(seed: int) -> Pair:
    return random_images(SIZES, (64, 64), seed), random_targets([2, 1], SIZES, 3, seed)


def made(measured: list[str] | None = None, **changes: object) -> CellSearchRun:
    settings = CellSearchSettings(**{"batch": 2, "base_batch": 2, "iterations": 10, "check": 5, **changes})
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    supernet = build_supernet(parse_network(NETWORK), 3, SupernetSettings(operations=OPERATIONS), generator=generator)

    def measure() -> dict[str, Tensor]:
        if measured is not None:
            measured.append("again")
        return COSTS

    return CellSearchRun(supernet, settings, identity={}, seed=0, device="cpu", measure=measure)


def test_a_step_of_alpha_looks_ahead_with_the_rate_of_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with that of the step before: while warming up they differ much."""
    run = made(gradient="second", warmup_steps=2, lr=0.01)
    seen: list[float] = []
    ahead = Bilevel._ahead

    def watched(self: Bilevel, weights: list, slopes: list, rates: list[float]) -> list[Tensor]:  # type: ignore[type-arg]
        seen.append(rates[0])
        assert set(rates) == {rates[0]}
        return ahead(self, weights, slopes, rates)

    monkeypatch.setattr(Bilevel, "_ahead", watched)
    for number in range(2):
        run.iterate(pair(2 * number), pair(2 * number + 1))
    assert seen == pytest.approx([0.01 * 0.001, 0.01 * (0.001 + 0.999 / 2)])


def test_costs_are_measured_once_and_saved(tmp_path: Path) -> None:
    measured: list[str] = []
    run = made(measured, cost_weight=0.5)
    run.begin()
    run.iterate(pair(0), pair(1))
    run.save(tmp_path / "state")
    again = made(measured, cost_weight=0.5)
    again.restore(tmp_path / "state")
    assert measured == ["again"]
    assert (
        again.costs
        == run.costs
        == {
            "boxes": {"std1": 3.0, "sep1": 1.0},
            "classes": {"std1": 5.0, "sep1": 2.0},
        }
    )
    one, other = (search.iterate(pair(2), pair(3)) for search in (run, again))
    assert one == other
    assert 0 < one["architecture"]["cost"] < 0.5
    free = made(measured)
    free.begin()
    assert "cost" not in free.iterate(pair(0), pair(1))["architecture"]
    assert (measured, free.costs) == (["again"], {})


def test_rates_may_be_lowered_on_the_way(tmp_path: Path) -> None:
    run = made(lr=0.01, alpha_lr=0.1)
    run.iterate(pair(0), pair(1))
    run.save(tmp_path / "state")
    assert run.rates == [{"iteration": 0, "lr": 0.01, "alpha_lr": 0.1}]
    lower = made(lr=0.01, alpha_lr=0.001)
    lower.restore(tmp_path / "state")
    assert lower.rates == [*run.rates, {"iteration": 1, "lr": 0.01, "alpha_lr": 0.001}]
    before = [alpha.detach().clone() for alpha in lower.architecture.parameters()]
    lower.iterate(pair(2), pair(3))
    now = [alpha.detach() for alpha in lower.architecture.parameters()]
    moved = max(float((a - b).abs().max()) for a, b in zip(now, before, strict=True))
    assert 0 < moved < 0.01, "not by the rate in the optimiser's state"
    with pytest.raises(CheckpointError, match=r"cells\.alpha_decay"):
        made(alpha_decay=0.5).restore(tmp_path / "state")


def test_a_state_without_its_costs_is_refused(tmp_path: Path) -> None:
    run = made(cost_weight=0.5)
    run.begin()
    path = tmp_path / "state"
    run.save(path)
    content = read_archive(path, "detsearch cell search", 2)
    for broken in ({"boxes": {"std1": 3.0}}, {}, None):
        kept = {name: value for name, value in content.items() if name not in ("format", "version")}
        write_archive(path, "detsearch cell search", 2, {**kept, "costs": broken})
        with pytest.raises(CheckpointError, match="complete state of a search"):
            made(cost_weight=0.5).restore(path)


def test_a_broken_state_does_not_replace_a_good_one(tmp_path: Path) -> None:
    run = made()
    run.save(tmp_path / "state")
    good = (tmp_path / "state").read_bytes()
    with torch.no_grad():
        next(run.detector.backbone.parameters())[0] = torch.inf
    with pytest.raises(TrainingError, match=r"^iteration 0: backbone\.\S+ is not finite; lower lr"):
        run.save(tmp_path / "state")
    assert (tmp_path / "state").read_bytes() == good


def test_peak_of_memory() -> None:
    """In bytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    assert memory_peak(torch.device("cpu")) >= 0.9 * int(line.split()[1]) * 1024


def test_the_peak_goes_on_with_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detsearch.supernet.run.memory_peak", lambda _: 700)
    run = made()
    run.iterate(pair(0), pair(1))
    run.save(tmp_path / "state")
    monkeypatch.setattr("detsearch.supernet.run.memory_peak", lambda _: 500)
    again = made()
    again.restore(tmp_path / "state")
    again.iterate(pair(2), pair(3))
    assert again.peak_bytes == 700
