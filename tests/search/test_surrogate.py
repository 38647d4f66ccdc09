from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detsearch.arch.spec import DetectorSpec
from detsearch.search import surrogate
from detsearch.search.evolution import Evolution
from detsearch.search.objective import Objective
from detsearch.search.pareto import hypervolume, matrix
from detsearch.search.surrogate import Surrogate
from detsearch.search.trial import Strategy, Trial, TrialState, proposal_rng
from detsearch.types import Fidelity, Latency, LatencyProtocol, Metrics
from tests.contracts.strategy_contract import SPACE, StrategyContract
from tests.search.toy import FIDELITY, OBJECTIVES, ToySpace, cost, depths, toy, trial


class TestSurrogate(StrategyContract):
    imports = """
from detsearch.search.surrogate import Surrogate
from tests.search.toy import OBJECTIVES
"""
    source = "Surrogate(space=SPACE, objectives=OBJECTIVES, initial=8)"
    draws = False  # but for the first members


def proposals(strategy: Strategy, count: int, seed: int) -> list[Trial]:
    trials: list[Trial] = []
    for number in range(count):
        proposal = strategy.propose(trials, [], proposal_rng(seed, number))
        assert proposal is not None
        trials.append(trial(number, proposal.spec, origin=proposal.origin))
    return trials


def test_it_finds_a_front_with_fewer_trials() -> None:
    """12 of 216 members; the mean hypervolume over 5 seeds was 27.1 against 23.0 of evolution."""
    space = ToySpace((6, 6, 6))

    def volume(strategy: Strategy) -> float:
        return sum(hypervolume(matrix(proposals(strategy, 12, seed), OBJECTIVES), (0.0, 60.0)) for seed in range(5))

    modelled = volume(Surrogate(space=space, objectives=OBJECTIVES, initial=4))
    assert modelled > 1.05 * volume(Evolution(space=space, objectives=OBJECTIVES, initial=4))


def test_first_members_then_the_models_own() -> None:
    trials = proposals(Surrogate(space=SPACE, objectives=OBJECTIVES, initial=5), 12, 0)
    assert [t.origin for t in trials] == ["random"] * 5 + ["model"] * 7


def test_what_runs_is_not_sought_twice() -> None:
    """What lies beside a running candidate promises less than it did; what lies far from it, nearly the same."""
    history = [trial(n, spec) for n, spec in enumerate([toy(0, 0), toy(5, 5)])]
    aware = Surrogate(space=SPACE, objectives=OBJECTIVES, initial=1)
    first = aware.propose(history, [], proposal_rng(0, 2))
    assert first is not None
    running = [trial(2, first.spec, TrialState.RUNNING)]
    candidates = aware.candidates(history, running, proposal_rng(0, 3))
    steps = [sum(abs(a - b) for a, b in zip(depths(spec), depths(first.spec), strict=True)) for spec in candidates]
    tried, trials = [t.spec for t in history], (*history, *running)
    blind = aware.promise(tried, candidates, trials, proposal_rng(0, 3))
    seeing = aware.promise([*tried, first.spec], candidates, trials, proposal_rng(0, 3))
    assert blind is not None and seeing is not None  # noqa: PT018
    assert seeing.volume > blind.volume
    left = seeing.gains / blind.gains
    assert left[np.array(steps) == 1].max() < left[np.array(steps) > 4].min()

    found = aware.propose(history, running, proposal_rng(0, 3))
    other = replace(aware, aware=False).propose(history, running, proposal_rng(0, 3))
    assert found is not None and other is not None  # noqa: PT018
    assert found.spec == candidates[int(seeing.gains.argmax())]
    assert other.spec == candidates[int(blind.gains.argmax())]


def test_costs_are_known_though_the_first_candidate_has_no_latency() -> None:
    """As one has that a limit on its MACs left out before it was measured."""
    objectives = (OBJECTIVES[0], Objective("latency_ms", False))

    def measured(number: int, spec: DetectorSpec) -> Trial:
        protocol = LatencyProtocol(
            device="cpu", device_name="x", runtime="eager", precision="float32", threads=1, batch=1, input="64x64",
            warmup=1, runs=3, includes="", excludes="",
        )  # fmt: skip
        latency = Latency(median_ms=1.0 + 7.0 * depths(spec)[0], iqr_ms=0.1, steady=True, protocol=protocol)
        return trial(number, spec, cost=replace(cost(spec), latency=latency))

    rest = [measured(n, spec) for n, spec in enumerate([toy(0, 0), toy(3, 3), toy(5, 1)], start=1)]
    out = trial(0, toy(5, 5), TrialState.PRUNED)
    predictions = surrogate._predictions([toy(3, 3)], [out, *rest], objectives, {})
    assert predictions is not None
    assert predictions.logarithmic.tolist() == [False, True]
    assert predictions.likely()[0, 1] == pytest.approx(22.0), "it was measured"


def test_what_was_seen_and_what_is_asked_for_lie_in_one_geometry() -> None:
    """Prediction of a detector does not change with others of the same range beside it."""
    history = [trial(n, spec) for n, spec in enumerate([toy(0, 0), toy(2, 2), toy(1, 2)])]
    alone = surrogate._predictions([toy(1, 1), toy(5, 5)], history, OBJECTIVES, {})
    beside = surrogate._predictions([toy(1, 1), toy(5, 5), toy(5, 4), toy(4, 5)], history, OBJECTIVES, {})
    assert alone is not None and beside is not None  # noqa: PT018
    assert alone.means == pytest.approx(beside.means[:2])


def test_three_objectives_and_one_that_only_training_tells() -> None:
    objectives = (*OBJECTIVES, Objective("params", False), Objective("train_seconds", False))
    strategy = Surrogate(space=SPACE, objectives=objectives, initial=3)
    history = [
        trial(n, spec, metrics=Metrics(values={"ap": 0.1 * n, "train_seconds": 5.0 + n}, fidelity=FIDELITY))
        for n, spec in enumerate([toy(0, 0), toy(3, 3), toy(5, 1)])
    ]
    proposal = strategy.propose(history, [], proposal_rng(0, 3))
    assert proposal is not None
    assert proposal.origin == "model"
    assert strategy.propose(history, [], proposal_rng(0, 3)) == proposal


def test_a_lower_fidelity_is_learnt_from() -> None:
    """What the early figures say of (5, 5) is bad, and nothing of it was trained in full."""
    full = [trial(n, toy(n, n)) for n in range(3)]
    early = [
        trial(n, spec, fidelity=Fidelity(1), metrics=Metrics(values={"ap": ap}, fidelity=Fidelity(1)))
        for n, (spec, ap) in enumerate(
            [(toy(0, 0), 0.1), (toy(1, 1), 0.2), (toy(2, 2), 0.3), (toy(5, 5), 0.9), (toy(0, 5), 0.01)], start=3
        )
    ]
    strategy = Surrogate(space=SPACE, objectives=OBJECTIVES, initial=1)
    found = strategy.propose([*full, *early], [], proposal_rng(0, 8))
    assert found is not None
    near = sum(abs(a - b) for a, b in zip(depths(found.spec), (5, 5), strict=True))
    assert near < 6


def early_and_full(recall: dict[tuple[int, int], float]) -> list[Trial]:
    """Three detectors in full, and several after one epoch, all with the same AP and each with a recall of its own."""
    found = [trial(n, toy(n, n)) for n in range(3)]
    for place, value in [((n, n), 0.1 * (n + 1)) for n in range(3)] + list(recall.items()):
        metrics = Metrics(values={"ap": 0.05, "ar_10": value}, fidelity=Fidelity(1))
        found.append(trial(len(found), toy(*place), fidelity=Fidelity(1), metrics=metrics))
    return found


def test_what_stands_for_an_objective_early_is_what_the_model_sees() -> None:
    """Of (4, 5) and (5, 4) early AP says nothing, recall which of them is good."""
    for good, bad in [((4, 5), (5, 4)), ((5, 4), (4, 5))]:
        history = early_and_full({good: 0.9, bad: 0.01})
        asked = [toy(*good), toy(*bad)]
        seen = surrogate._predictions(asked, history, OBJECTIVES, {"ap": {"ar_10": 1.0}})
        assert seen is not None
        assert seen.means[0, 0] < seen.means[1, 0] - 1, "for minimisation"
        blind = surrogate._predictions(asked, history, OBJECTIVES, {})
        assert blind is not None
        assert abs(blind.means[0, 0] - blind.means[1, 0]) < 0.1 * (seen.means[1, 0] - seen.means[0, 0])


def test_after_the_most_epochs_an_objective_stands_for_itself() -> None:
    history = [
        trial(n, spec, metrics=Metrics(values={"ap": ap, "ar_10": 1 - ap}, fidelity=FIDELITY))
        for n, (spec, ap) in enumerate([(toy(0, 0), 0.1), (toy(2, 2), 0.3), (toy(5, 5), 0.9)])
    ]
    own, other = (
        surrogate._predictions([toy(0, 0), toy(5, 5)], history, OBJECTIVES, early)
        for early in ({}, {"ap": {"ar_10": 1.0}})
    )
    assert own is not None
    assert other is not None
    assert np.array_equal(own.means, other.means)


def test_large_spaces_are_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogate, "CANDIDATES", 20)
    strategy = Surrogate(space=SPACE, objectives=OBJECTIVES, initial=4)
    trials = proposals(strategy, 36, 1)
    assert len({t.spec for t in trials}) == 36, "and yet nothing is missed"
    assert strategy.propose(trials, [], proposal_rng(1, 36)) is None
