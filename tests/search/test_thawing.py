"""Trainings that pause, and go on where a model says that it is worth it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from detsearch.arch.spec import DetectorSpec, ModuleSpec
from detsearch.search.given import GivenFirst
from detsearch.search.halving import Halving
from detsearch.search.inheritance import Inheriting
from detsearch.search.pareto import hypervolume, matrix, measured
from detsearch.search.random_search import RandomSearch
from detsearch.search.replay import Replayed, replay
from detsearch.search.study import Ending, Search
from detsearch.search.surrogate import Promise, Surrogate
from detsearch.search.thawing import LEAST, Thawing
from detsearch.search.trial import Evaluate, Strategy, Trial, TrialContext, TrialState, continuation, proposal_rng
from detsearch.types import Fidelity, Metrics
from tests.contracts.strategy_contract import StrategyContract
from tests.search.toy import OBJECTIVES, ToySpace, accuracy, code, cost, depths, toy, trial

SPACE = ToySpace((5, 5))
FULL = 9
HERE = TrialContext(folder=Path("nowhere"))


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
    found = slowly(spec, Fidelity(1), 0, HERE)
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


class Promising(Surrogate):
    """`PROMISES` what its name says by detector, nothing of others, as parts of a hypervolume of 1."""

    def promise(self, tried, candidates, trials, rng):  # type: ignore[no-untyped-def]
        return Promise(np.array([PROMISES.get(spec, 0.0) for spec in candidates]), 1.0)


PROMISES: dict[DetectorSpec, float] = {}


@pytest.fixture
def promises(monkeypatch: pytest.MonkeyPatch) -> dict[DetectorSpec, float]:
    monkeypatch.setitem(globals(), "PROMISES", found := {})
    return found


def paused(number: int, spec: DetectorSpec, epochs: int) -> Trial:
    fidelity = Fidelity(epochs)
    return trial(number, spec, fidelity=fidelity, metrics=Metrics(values={"ap": 0.5}, fidelity=fidelity))


def test_gains_are_weighed_by_the_epochs_that_they_cost(promises: dict[DetectorSpec, float]) -> None:
    model = Promising(space=SPACE, objectives=OBJECTIVES, initial=2)
    strategy = Thawing(surrogate=model, rungs=(1, 6, FULL))
    near, far, new = toy(1, 1), toy(2, 2), toy(3, 3)
    history = [paused(0, near, 6), paused(1, far, 1)]
    for gain, wanted in ((0.4, near), (0.3, new)):  # 3 epochs are left of it, 9 of what is new
        promises.update({near: gain, far: 0.0, new: 1.0})
        proposal = strategy.propose(history, [], proposal_rng(0, 2))
        assert proposal is not None
        assert (proposal.spec, proposal.continues) == (wanted, 0 if wanted == near else None)
    for gain, wanted in ((0.4, 0), (0.3, 1)):  # 3 epochs are left of the one, 8 of the other
        promises.update({near: gain, far: 1.0})
        proposal = strategy.continuation(history, [], proposal_rng(0, 2))
        assert proposal is not None
        assert proposal.continues == wanted


def test_what_promises_too_little_is_left(promises: dict[DetectorSpec, float]) -> None:
    strategy = Thawing(surrogate=Promising(space=SPACE, objectives=OBJECTIVES), rungs=(1, 6, FULL))
    ends = [paused(n, spec, FULL) for n, spec in enumerate((toy(0, 0), toy(2, 2)))]
    waits = paused(2, toy(1, 1), 1)
    for gain, goes_on in ((1.01 * LEAST, True), (0.99 * LEAST, False)):
        promises[waits.spec] = gain
        found = strategy.continuation([*ends, waits], [], proposal_rng(0, 3))
        assert (found is not None) == goes_on
    # One that promises more for each epoch, and too little, does not hide one that promises enough.
    promises.update({waits.spec: 2 * LEAST, toy(3, 3): 0.9 * LEAST})
    found = strategy.continuation([*ends, waits, paused(3, toy(3, 3), 6)], [], proposal_rng(0, 4))
    assert found is not None
    assert found.continues == 2


def test_what_cannot_be_finished_does_not_go_on(promises: dict[DetectorSpec, float]) -> None:
    strategy = Thawing(surrogate=Promising(space=SPACE, objectives=OBJECTIVES), rungs=(1, 6, FULL))
    history = [paused(0, toy(0, 0), FULL), paused(1, toy(1, 1), 1), paused(2, toy(2, 2), 6)]
    promises.update({toy(1, 1): 1.0, toy(2, 2): 0.1})
    for left, goes_on in ((None, 1), (8, 1), (7, 2), (3, 2), (2, None)):
        found = strategy.continuation(history, [], proposal_rng(0, 3), left)
        assert (None if found is None else found.continues) == goes_on


@dataclass(frozen=True)
class SlowHead(ModuleSpec):
    """Of another kind."""


def slow(*depths: int) -> DetectorSpec:
    return toy(*depths).with_network(head=SlowHead())


def test_before_little_is_left_to_find_one_of_each_kind_is_finished(promises: dict[DetectorSpec, float]) -> None:
    strategy = Thawing(surrogate=Promising(space=SPACE, objectives=OBJECTIVES, initial=2), rungs=(1, 6, FULL))
    history = [paused(0, toy(0, 0), FULL), paused(1, slow(1, 1), 1), paused(2, slow(2, 2), 1), paused(3, toy(4, 4), 1)]

    def next_one(trials: list[Trial], *running: Trial) -> int | None:
        found = strategy.propose(trials, running, proposal_rng(0, len(trials) + len(running)))
        assert found is not None
        return found.continues

    def after(trials: list[Trial]) -> int | None:
        found = strategy.continuation(trials, [], proposal_rng(0, len(trials)))
        return None if found is None else found.continues

    promises.update({toy(4, 4): 1.01 * LEAST, slow(2, 2): 1e-9})
    assert next_one(history) == 3, "something promises enough"
    promises[toy(4, 4)] = 0.99 * LEAST
    assert next_one(history) == 2, "of a kind that no training was finished with, the one that promises most"
    assert next_one(history, trial(4, slow(2, 2), TrialState.RUNNING, continues=2, fidelity=Fidelity(6))) == 3
    further = [*history, replace(paused(4, slow(2, 2), 6), continues=2)]
    assert next_one(further) == 4
    assert after(further) == 4, "also when nothing new may begin"
    finished = [*further, replace(paused(5, slow(2, 2), FULL), continues=4)]
    assert next_one(finished) == 3
    assert after(finished) is None


def test_what_runs_counts_as_it_is_predicted_unless_it_is_to_be_ignored() -> None:
    """While the one that promises most is running, what is like it promises less to a search that knows."""
    history = [begun(n, spec) for n, spec in enumerate((toy(0, 0), toy(4, 0), toy(0, 4), toy(4, 4)))]
    history += [
        trial(4 + n, one.spec, continues=n, fidelity=Fidelity(FULL), metrics=slowly(one.spec, Fidelity(FULL), 0, HERE))
        for n, one in enumerate(history)
    ]
    running = [trial(8, toy(2, 0), state=TrialState.RUNNING, fidelity=Fidelity(1))]
    seen = {}
    for aware in (True, False):
        model = replace(thawing().surrogate, aware=aware)
        new = [toy(1, 0), toy(3, 0)]
        found = Thawing(surrogate=model, rungs=(1, FULL)).promise([], new, history, running, proposal_rng(0, 9))
        assert found is not None
        seen[aware] = found.gains
    assert (seen[True] < seen[False]).all()


@pytest.mark.parametrize(
    "around", [lambda inner: GivenFirst(detectors=(), strategy=inner), lambda inner: Inheriting(strategy=inner)]
)
def test_strategies_around_it_pass_continuations_on(
    around: Callable[[Strategy], Strategy], promises: dict[DetectorSpec, float]
) -> None:
    first = [begun(0, toy(2, 0)), begun(1, toy(4, 3))]
    promises[toy(4, 3)] = 1.0
    inner = Thawing(surrogate=Promising(space=SPACE, objectives=OBJECTIVES, initial=2), rungs=(1, FULL))
    wanted = inner.continuation(first, [], proposal_rng(0, 2))
    assert wanted is not None
    assert continuation(around(inner), first, [], proposal_rng(0, 2)) == wanted
    proposed = inner.propose(first, [], proposal_rng(0, 2))
    assert proposed is not None
    assert proposed.continues == 1
    assert around(inner).propose(first, [], proposal_rng(0, 2)) == proposed, "nothing is inherited by what goes on"
    assert continuation(RandomSearch(space=SPACE), first, [], proposal_rng(0, 2)) is None
