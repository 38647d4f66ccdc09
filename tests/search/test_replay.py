from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detsearch.arch.partial_order import leq
from detsearch.arch.spaces.section import read_space
from detsearch.arch.spec import DetectorSpec
from detsearch.errors import TrainingError
from detsearch.search.anytime import Curve, anytime
from detsearch.search.evolution import Evolution
from detsearch.search.execution.inline import InlineExecutor
from detsearch.search.halving import Halving
from detsearch.search.ledger import Ledger
from detsearch.search.pareto import front, hypervolume, matrix
from detsearch.search.random_search import RandomSearch
from detsearch.search.replay import BEGIN, Replayed, replay
from detsearch.search.study import Ending, Search, run_study
from detsearch.search.trial import Trial, TrialContext, TrialState
from detsearch.types import Fidelity, Metrics
from tests.search import toy
from tests.search.generated import CHOICES, OBJECTIVES, generated

TABLE = generated(1)
SPACE = read_space(CHOICES)
HALVING = Halving(objectives=OBJECTIVES, rungs=(2, 6, 12))


def search(**changes: Any) -> Search:
    settings = {
        "strategy": Evolution(space=SPACE, objectives=OBJECTIVES, initial=6), "cost": TABLE.cost,
        "evaluate": TABLE.evaluate, "fidelity": TABLE.full, "seed": 4, "halving": HALVING, "leq": leq, **changes,
    }  # fmt: skip
    return Search(**settings)


def facts(trials: Any) -> list[tuple[Any, ...]]:
    return [
        (t.number, t.code, t.state, t.fidelity, t.seed, t.origin, t.parents, t.continues, t.reason, t.attempts)
        for t in trials
    ]


def test_a_replay_is_the_study_that_would_have_been(tmp_path: Path) -> None:
    replayed = replay(search(), OBJECTIVES, epochs=80)
    with closing(InlineExecutor()) as executor, Ledger(tmp_path, {}, OBJECTIVES) as ledger:
        ending = run_study(ledger, search(), executor, epochs=80)
        real = ledger.trials()
    assert (replayed.ending, facts(replayed.trials)) == (ending, facts(real))
    assert len(replayed.trials) > 20


def test_simulated_time_is_the_recorded_one() -> None:
    found = replay(search(halving=None, leq=None), OBJECTIVES, trials=9)
    (last,) = [t for t in found.trials if t.number == 8]
    assert last.finished is not None
    assert (last.finished - BEGIN).total_seconds() == pytest.approx(
        sum(t.values()["train_seconds"] for t in found.trials), abs=1e-3
    )
    assert found.steps()[-1][0] == 9 * 12
    first, second = (t.values()["train_seconds"] for t in found.trials[:2])
    short = replay(search(halving=None, leq=None), OBJECTIVES, seconds=first + second / 2)
    assert (short.ending, len(short.trials)) == (Ending.SECONDS, 2)


def test_several_workers_finish_in_the_order_of_their_trainings() -> None:
    found = replay(search(), OBJECTIVES, epochs=200, workers=4)
    running: dict[int, float] = {}
    for trial in found.trials:
        if trial.state is not TrialState.COMPLETE:
            continue
        assert trial.started is not None
        assert trial.finished is not None
        before = 0.0
        if trial.continues is not None:
            assert found.trials[trial.continues].finished <= trial.started  # type: ignore[operator]
            before = found.trials[trial.continues].values()["train_seconds"]
        running[trial.number] = (trial.finished - trial.started).total_seconds()
        assert running[trial.number] == pytest.approx(trial.values()["train_seconds"] - before, abs=1e-3)
    starts = sorted((t.started, 1) for t in found.trials if t.started)
    ends = sorted((t.finished, -1) for t in found.trials if t.started and t.finished)
    at_once = np.cumsum([step for _, step in sorted([*starts, *ends], key=lambda e: (e[0], e[1]))])
    assert at_once.max() == 4
    spent = [epochs for epochs, _ in found.steps()]
    assert spent == sorted(spent)
    assert spent[-1] <= 200
    # The same work, a quarter of the time, more or less.
    alone = replay(search(), OBJECTIVES, epochs=200)
    duration = [max(t.finished for t in r.trials if t.finished) - BEGIN for r in (found, alone)]
    assert 3 < duration[1] / duration[0] < 5


def test_what_runs_beside_it_is_paid_for_too() -> None:
    """Four at once: when the first training ends, all four have begun."""
    found = replay(search(halving=None, leq=None), OBJECTIVES, trials=4, workers=4)
    assert [spent for spent, _ in found.steps()] == [4 * 12] * 4
    alone = replay(search(halving=None, leq=None), OBJECTIVES, trials=4, workers=1)
    assert [spent for spent, _ in alone.steps()] == [12, 24, 36, 48]


def test_failures_are_replayed_as_such() -> None:
    def evaluate(spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
        if toy.depths(spec)[0] == 1:
            raise TrainingError("diverged")
        return toy.evaluate(spec, fidelity, seed, context)

    space = toy.ToySpace((3, 3))
    it = Search(strategy=RandomSearch(space=space), cost=toy.cost, evaluate=evaluate, fidelity=Fidelity(3), seed=0)
    found = replay(it, toy.OBJECTIVES, name=toy.code, workers=2)
    assert found.ending is Ending.EXHAUSTED
    assert [t.reason for t in found.trials if t.state is TrialState.FAILED] == ["diverged"] * 3
    # Without recorded seconds an epoch takes one; failures end at once.
    assert max(t.finished for t in found.trials if t.finished).timestamp() == pytest.approx(BEGIN.timestamp() + 9)


def test_the_curve_is_what_the_answer_is_worth() -> None:
    found = replay(search(leq=None), OBJECTIVES, epochs=400)
    points = TABLE.values(OBJECTIVES)
    truth = dict(zip((row.spec for row in TABLE.rows), points, strict=True))
    reference = points.max(axis=0).tolist()
    whole = hypervolume(points, reference)
    curve = anytime(found.steps(), truth.__getitem__, OBJECTIVES, fidelity=TABLE.full, reference=reference, whole=whole)
    answer = front(found.trials, OBJECTIVES, TABLE.full)
    worth = hypervolume(np.array([truth[t.spec] for t in answer]), reference) / whole
    assert curve.share[-1] == pytest.approx(worth)
    assert 0.5 < worth <= 1
    seen = hypervolume(matrix(answer, OBJECTIVES), reference) / whole
    assert worth != pytest.approx(seen), "not what it saw, which luck has its share in"
    assert (np.diff(curve.epochs) > 0).all()


def test_a_curve_is_read_between_its_steps() -> None:
    curve = Curve(np.array([10, 20, 40]), np.array([0.5, 0.4, 0.9]))
    assert curve.at([0, 9, 10, 25, 40, 99]).tolist() == [0, 0, 0.5, 0.4, 0.9, 0.9]
    assert (curve.until(0.5), curve.until(0.6), curve.until(0.95)) == (10, 40, np.inf)
    empty = Curve(np.array([], dtype=np.int64), np.array([]))
    assert empty.at([5]).tolist() == [0]
    assert empty.until(0.1) == np.inf


def test_nothing_trained_is_nothing_spent() -> None:
    nothing: tuple[Trial, ...] = ()
    assert Replayed(Ending.EXHAUSTED, nothing).steps() == []
