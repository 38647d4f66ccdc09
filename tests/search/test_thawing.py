"""Trainings that pause, and go on where a model says that it is worth it."""

from __future__ import annotations

import pytest

from detsearch.arch.spec import DetectorSpec
from detsearch.search.given import GivenFirst
from detsearch.search.halving import Halving
from detsearch.search.inheritance import Inheriting
from detsearch.search.pareto import hypervolume, matrix, measured
from detsearch.search.random_search import RandomSearch
from detsearch.search.replay import Replayed, replay
from detsearch.search.study import Ending, Search
from detsearch.search.surrogate import Surrogate
from detsearch.search.thawing import Thawing
from detsearch.search.trial import Evaluate, Strategy, Trial, TrialContext, continuation, proposal_rng
from detsearch.types import Fidelity, Metrics
from tests.contracts.strategy_contract import StrategyContract
from tests.search.toy import OBJECTIVES, ToySpace, accuracy, code, cost, depths, toy, trial

SPACE = ToySpace((5, 5))
FULL = 9


class TestThawing(StrategyContract):
    imports = """
from detsearch.search.surrogate import Surrogate
from detsearch.search.thawing import Thawing
from tests.search.toy import OBJECTIVES
"""
    source = "Thawing(surrogate=Surrogate(space=SPACE, objectives=OBJECTIVES, initial=8), rungs=(1, 3))"
    draws = False  # but for the first members


def thawing(initial: int = 4, rungs: tuple[int, ...] = (1, FULL)) -> Thawing:
    return Thawing(surrogate=Surrogate(space=SPACE, objectives=OBJECTIVES, initial=initial), rungs=rungs)


def slowly(spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
    """Large ones are the best in the end, and among the worst at first."""
    late = accuracy(spec) * (fidelity.epochs / FULL) ** (0.1 + 0.25 * sum(depths(spec)))
    return Metrics(values={"ap": late}, fidelity=fidelity)


def spoilt(spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
    """What costs more in the second place is worse there, so most members are far behind the front."""
    first, rest = depths(spec)
    ap = (accuracy(toy(first, 0)) - 0.1 * rest) * (fidelity.epochs / FULL) ** 0.2
    return Metrics(values={"ap": ap}, fidelity=fidelity)


def played(
    strategy: Strategy,
    halving: Halving | None = None,
    *,
    evaluate: Evaluate = slowly,
    seed: int = 0,
    epochs: int | None = None,
    trials: int | None = None,
) -> Replayed:
    full = Fidelity(FULL)
    search = Search(strategy=strategy, cost=cost, evaluate=evaluate, fidelity=full, seed=seed, halving=halving)
    return replay(search, OBJECTIVES, name=code, epochs=epochs, trials=trials)


def begun(number: int, spec: DetectorSpec, **changes: object) -> Trial:
    """Paused after an epoch."""
    found = slowly(spec, Fidelity(1), 0, TrialContext(folder=None))  # type: ignore[arg-type]
    return trial(number, spec, fidelity=Fidelity(1), metrics=found, **changes)


def test_the_last_epochs_are_for_what_can_be_trained_in_full() -> None:
    """Nothing new begins when no more than a part of a full training is left, but what is paused goes on."""
    for epochs in (100, 103, 107):
        done = played(thawing(), epochs=epochs)
        assert done.ending is Ending.EPOCHS
        spent = 0
        for one in done.trials:
            before = 0 if one.continues is None else done.trials[one.continues].fidelity.epochs
            if one.continues is None:
                assert epochs - spent >= FULL
            spent += one.fidelity.epochs - before
        assert spent <= epochs


def test_rungs_are_climbed_one_by_one_and_no_training_goes_on_twice() -> None:
    done = played(thawing(rungs=(1, 3, FULL)), epochs=180)
    seen: set[int] = set()
    for one in done.trials:
        if one.continues is None:
            assert one.fidelity == Fidelity(1)
            continue
        before = done.trials[one.continues]
        assert one.spec == before.spec
        assert one.continues not in seen
        seen.add(one.continues)
        assert (before.fidelity.epochs, one.fidelity.epochs) in {(1, 3), (3, FULL)}
    assert len(measured(done.trials, OBJECTIVES, Fidelity(FULL))) > 4


def test_what_learns_slowly_is_found() -> None:
    """Ranks after an epoch leave the large ones behind for good; the model sees that what is large grows. Mean
    hypervolumes over three seeds: 12.1 against 11.1."""
    halving = Halving(objectives=OBJECTIVES, rungs=(1, FULL))
    model = Surrogate(space=SPACE, objectives=OBJECTIVES, initial=4)

    def volume(strategy: Strategy, halving: Halving | None = None) -> float:
        found = 0.0
        for seed in range(3):
            done = played(strategy, halving, seed=seed, epochs=130)
            points = matrix(measured(done.trials, OBJECTIVES, Fidelity(FULL)), OBJECTIVES)
            found += hypervolume(points, (0.0, 32.0))
        return found

    assert volume(thawing()) > 1.05 * volume(model, halving)


def test_a_full_budget_of_candidates_still_finishes_what_promises() -> None:
    done = played(thawing(), evaluate=spoilt, trials=16)
    assert done.ending is Ending.TRIALS
    assert len([one for one in done.trials if one.continues is None]) == 16
    full = {one.spec for one in measured(done.trials, OBJECTIVES, Fidelity(FULL))}
    tried = {one.spec for one in done.trials}
    wanted = {spec for spec in tried if depths(spec)[1] == 0}
    assert wanted <= full, "the front"
    assert len(full) < 12, "and not what is far behind it"
    assert thawing().continuation(done.trials, [], proposal_rng(0, len(done.trials))) is None
    assert thawing().continuation([], [], proposal_rng(0, 0)) is None


@pytest.mark.parametrize(
    "around", [lambda inner: GivenFirst(detectors=(), strategy=inner), lambda inner: Inheriting(strategy=inner)]
)
def test_strategies_around_it_pass_continuations_on(around) -> None:  # type: ignore[no-untyped-def]
    first = [begun(0, toy(2, 0)), begun(1, toy(4, 3)), begun(2, toy(0, 1)), begun(3, toy(1, 1))]
    inner = thawing()
    wanted = inner.continuation(first, [], proposal_rng(0, 4))
    assert wanted is not None
    assert continuation(around(inner), first, [], proposal_rng(0, 4)) == wanted
    proposed = inner.propose(first, [], proposal_rng(0, 4))
    assert proposed is not None
    assert proposed.continues is not None
    assert around(inner).propose(first, [], proposal_rng(0, 4)) == proposed, "nothing is inherited by what goes on"
    assert continuation(RandomSearch(space=SPACE), first, [], proposal_rng(0, 4)) is None
