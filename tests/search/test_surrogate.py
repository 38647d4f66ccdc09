from __future__ import annotations

from dataclasses import replace

import pytest

from detsearch.search import surrogate
from detsearch.search.evolution import Evolution
from detsearch.search.objective import Objective
from detsearch.search.pareto import hypervolume, matrix
from detsearch.search.surrogate import Surrogate
from detsearch.search.trial import Strategy, Trial, TrialState, proposal_rng
from detsearch.types import Fidelity, Metrics
from tests.contracts.strategy_contract import SPACE, StrategyContract
from tests.search.toy import FIDELITY, OBJECTIVES, ToySpace, depths, toy, trial


class TestSurrogate(StrategyContract):
    imports = """
from detsearch.search.surrogate import Surrogate
from tests.search.toy import OBJECTIVES
"""
    source = "Surrogate(space=SPACE, objectives=OBJECTIVES, initial=8)"


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
    """Two candidates that promise the same: with one of them running, only the other part of the front still grows."""
    history = [trial(n, spec) for n, spec in enumerate([toy(0, 0), toy(5, 5), toy(2, 2), toy(0, 5), toy(5, 0)])]
    aware = Surrogate(space=SPACE, objectives=OBJECTIVES, initial=1)
    blind = replace(aware, aware=False)
    first = aware.propose(history, [], proposal_rng(0, 5))
    assert first is not None
    running = [trial(5, first.spec, TrialState.RUNNING)]

    def apart(strategy: Strategy) -> float:
        """How far from what runs the next candidate is, in steps; over seeds."""
        found = []
        for seed in range(10):
            proposal = strategy.propose(history, running, proposal_rng(seed, 6))
            assert proposal is not None
            found.append(sum(abs(a - b) for a, b in zip(depths(proposal.spec), depths(first.spec), strict=True)))
        return sum(found) / len(found)

    assert apart(aware) > apart(blind)


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


def test_large_spaces_are_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogate, "CANDIDATES", 20)
    strategy = Surrogate(space=SPACE, objectives=OBJECTIVES, initial=4)
    trials = proposals(strategy, 36, 1)
    assert len({t.spec for t in trials}) == 36, "and yet nothing is missed"
    assert strategy.propose(trials, [], proposal_rng(1, 36)) is None
