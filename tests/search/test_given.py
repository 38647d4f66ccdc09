from __future__ import annotations

from detsearch.arch.spec import DetectorSpec
from detsearch.search.evolution import Evolution
from detsearch.search.given import GivenFirst
from detsearch.search.halving import Halving
from detsearch.search.objective import Limit
from detsearch.search.random_search import RandomSearch
from detsearch.search.replay import replay
from detsearch.search.study import Search
from detsearch.search.trial import GIVEN, Trial, TrialContext, TrialState
from detsearch.types import Fidelity, Metrics
from tests.contracts.strategy_contract import SPACE, StrategyContract, played
from tests.search.toy import FIDELITY, OBJECTIVES, code, cost, depths, leq, toy


class TestGivenFirst(StrategyContract):
    imports = """
from detsearch.search.given import GivenFirst
from detsearch.search.random_search import RandomSearch
from tests.search.toy import toy
"""
    source = "GivenFirst(detectors=(toy(3, 3), toy(0, 5)), strategy=RandomSearch(space=SPACE))"


def test_given_ones_come_first_and_count_as_members() -> None:
    given = (toy(2, 2), toy(5, 0), toy(0, 0))
    strategy = GivenFirst(detectors=given, strategy=Evolution(space=SPACE, objectives=OBJECTIVES, initial=5))
    trials = played(strategy, 8)
    assert [t.spec for t in trials[:3]] == list(given)
    # The fifth fails in `played`, and is replaced.
    assert [t.origin for t in trials] == ["given"] * 3 + ["random"] * 3 + ["mutation"] * 2


def poor_when_large(spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
    return Metrics(values={"ap": 0.5 if sum(depths(spec)) < 5 else 0.1}, fidelity=fidelity)


def given_trials(*given: DetectorSpec, halving: Halving | None = None, limits: tuple[Limit, ...] = ()) -> list[Trial]:
    search = Search(
        strategy=GivenFirst(detectors=given, strategy=RandomSearch(space=SPACE)),
        cost=cost,
        evaluate=poor_when_large,
        fidelity=FIDELITY,
        seed=0,
        halving=halving,
        leq=leq,
        limits=limits,
    )
    trials = replay(search, OBJECTIVES, name=code, trials=20).trials
    assert len({trial.state for trial in trials if trial.origin != GIVEN} & {TrialState.PRUNED}) == 1, "others are"
    return [trial for trial in trials if trial.origin == GIVEN]


def test_given_ones_are_trained_whatever_the_order_says() -> None:
    """What is smaller than (5, 5) cannot be good enough beside (0, 0), but (4, 5) was named."""
    trials = given_trials(toy(0, 0), toy(5, 5), toy(4, 5))
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3


def test_given_ones_do_not_pause() -> None:
    """What others are compared with is trained in full."""
    halving = Halving(objectives=OBJECTIVES, rungs=(1, FIDELITY.epochs))
    trials = given_trials(toy(0, 0), toy(5, 5), halving=halving)
    assert [trial.fidelity for trial in trials] == [FIDELITY] * 2


def test_given_ones_keep_limits() -> None:
    (trial,) = given_trials(toy(5, 5), limits=(Limit("macs", 20.0),))
    assert trial.state is TrialState.PRUNED
    assert trial.reason is not None
    assert trial.reason.endswith("is above the limit macs<=20")
