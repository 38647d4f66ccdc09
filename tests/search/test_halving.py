from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest

from detsearch.arch.spec import DetectorSpec
from detsearch.search.execution.inline import InlineExecutor
from detsearch.search.execution.processes import ProcessExecutor
from detsearch.search.halving import Halving
from detsearch.search.ledger import Ledger, read_study
from detsearch.search.pareto import front
from detsearch.search.random_search import RandomSearch
from detsearch.search.replay import replay
from detsearch.search.study import Ending, Search, run_study
from detsearch.search.trial import Trial, TrialContext, TrialState
from detsearch.types import Fidelity, Metrics
from tests.search.codec import TOY_CODEC
from tests.search.toy import OBJECTIVES, ToySpace, accuracy, code, cost, evaluate, evaluate_in_turn, leq, toy, trial

SPACE = ToySpace((6, 6))
HALVING = Halving(objectives=OBJECTIVES, rungs=(1, 3, 9), eta=3)


def at(number: int, epochs: int, ap: float = 0.5, **changes: object) -> Trial:
    """A complete trial; of equal cost, so that accuracy alone ranks."""
    fidelity = Fidelity(epochs)
    found = Metrics(values={"ap": ap}, fidelity=fidelity)
    return trial(number, toy(0, 0), fidelity=fidelity, metrics=found, **changes)


def test_the_best_third_of_a_rung_goes_on() -> None:
    trials = [at(n, 1, ap) for n, ap in enumerate([0.1, 0.5, 0.3, 0.2, 0.4])]
    assert HALVING.promotion(trials[:2]) is None, "a third of two is none"
    found = HALVING.promotion(trials)
    assert found is not None
    assert (found.continues, found.parents, found.fidelity, found.origin) == (1, (1,), Fidelity(3), "promotion")
    # Of the sixth the second best goes as well, and a trial only once, whatever became of it.
    trials += [at(5, 1, 0.45), at(6, 3, state=TrialState.FAILED, continues=1)]
    assert (found := HALVING.promotion(trials)) is not None
    assert found.continues == 5
    assert HALVING.promotion([*trials, at(7, 3, continues=5)]) is None


def test_the_highest_rung_goes_first_and_the_last_one_ends() -> None:
    trials = [*(at(n, 1, n / 10) for n in range(3)), *(at(n, 3, n / 10) for n in range(3, 6)), at(6, 9)]
    assert (found := HALVING.promotion(trials)) is not None
    assert (found.continues, found.fidelity) == (5, Fidelity(9))
    assert HALVING.promotion([at(n, 9) for n in range(9)]) is None


def test_fronts_come_before_accuracy() -> None:
    """At a rung the cheap ones that nothing dominates go on, not what is more accurate but dominated."""

    def found(number: int, spec: DetectorSpec, ap: float) -> Trial:
        return trial(number, spec, fidelity=Fidelity(1), metrics=Metrics(values={"ap": ap}, fidelity=Fidelity(1)))

    best, dominated, cheap = found(0, toy(2, 0), 0.9), found(1, toy(4, 0), 0.8), found(2, toy(0, 0), 0.2)
    rest = [found(n, toy(5, n), 0.1) for n in range(3, 6)]
    first = HALVING.promotion([best, dominated, cheap, *rest])
    assert first is not None
    one = trial(6, best.spec, fidelity=Fidelity(3), state=TrialState.RUNNING, continues=first.continues)
    second = HALVING.promotion([best, dominated, cheap, *rest, one])
    assert second is not None
    assert {first.continues, second.continues} == {0, 2}


def test_values_of_another_fidelity_do_not_count() -> None:
    better = [at(n, 3, 0.9, continues=n) for n in range(3, 6)]
    trials = [at(n, 1, n / 10) for n in range(3)]
    found = HALVING.promotion([*trials, *better[:2]])
    assert found is not None
    assert found.continues == 2


def study(folder: Path, *, workers: int = 1, evaluate=evaluate, **budget: int) -> tuple[Ending, list[Trial]]:  # type: ignore[no-untyped-def]
    search = Search(
        strategy=RandomSearch(space=SPACE), cost=cost, evaluate=evaluate, fidelity=Fidelity(9), seed=0, halving=HALVING
    )
    executor = InlineExecutor() if workers == 1 else ProcessExecutor(["cpu"] * workers)
    with closing(executor) as used, Ledger(folder, {}, OBJECTIVES, codec=TOY_CODEC) as book:
        return run_study(book, search, used, **budget), book.trials()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_study_halves(tmp_path: Path, workers: int) -> None:
    ending, trials = study(tmp_path, workers=workers, trials=18)
    assert ending is Ending.TRIALS
    at_rung = {epochs: [t for t in trials if t.fidelity.epochs == epochs] for epochs in (1, 3, 9)}
    assert len(at_rung[1]) == 18, "what continues another does not count"
    # At least a third; more where one that was among the best when it went on no longer is.
    assert 6 <= len(at_rung[3]) <= 12
    assert len(at_rung[3]) // 3 <= len(at_rung[9]) <= len(at_rung[3]) // 2 + 1
    for found in trials:
        assert found.state is TrialState.COMPLETE
        if found.continues is not None:
            before = trials[found.continues]
            assert (found.spec, found.seed, found.cost) == (before.spec, before.seed, before.cost)
            assert found.fidelity > before.fidelity
    assert {t.fidelity for t in front(trials, OBJECTIVES)} == {Fidelity(9)}
    assert [t.continues for t in read_study(tmp_path, TOY_CODEC).trials] == [t.continues for t in trials]
    again, same = study(tmp_path, workers=workers, trials=18)
    assert (again, len(same)) == (ending, len(trials))


@pytest.mark.parametrize("epochs", [0, 1, 7, 40])
def test_epochs_are_a_budget(tmp_path: Path, epochs: int) -> None:
    ending, trials = study(tmp_path, epochs=epochs)
    spent = sum(
        t.fidelity.epochs - (trials[t.continues].fidelity.epochs if t.continues is not None else 0) for t in trials
    )
    assert ending is Ending.EPOCHS
    assert spent <= epochs < spent + 6, "less is left than one more step would take"
    larger, more = study(tmp_path, epochs=epochs + 20)
    assert larger is Ending.EPOCHS
    assert [t.code for t in more[: len(trials)]] == [t.code for t in trials]
    assert len(more) > len(trials)


def test_a_continued_trial_finds_the_folder_of_the_one_before(tmp_path: Path) -> None:
    """`evaluate_in_turn` refuses to begin anywhere else than where the last rung ended."""
    for workers in (1, 2):
        _, trials = study(tmp_path / str(workers), workers=workers, evaluate=evaluate_in_turn, trials=9)
        assert {str(t.state) for t in trials} == {"complete"}, [t.reason for t in trials if t.reason]
        assert max(t.fidelity.epochs for t in trials) == 9


def test_early_figures_prune_nothing() -> None:
    """Larger ones learn more slowly here: only what was trained in full is a witness."""

    def evaluate_slow_learners(spec: DetectorSpec, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
        late = accuracy(spec)
        return Metrics(values={"ap": late if fidelity == Fidelity(9) else 1 - late}, fidelity=fidelity)

    search = Search(
        strategy=RandomSearch(space=SPACE), cost=cost, evaluate=evaluate_slow_learners, fidelity=Fidelity(9), seed=0,
        halving=Halving(objectives=OBJECTIVES, rungs=(1, 9), eta=2), leq=leq,
    )  # fmt: skip
    trials = replay(search, OBJECTIVES, name=code).trials
    assert max(t.fidelity for t in trials) == Fidelity(9)
    pruned = [t for t in trials if t.state is TrialState.PRUNED]
    assert pruned
    for found in pruned:
        witnesses = re.findall(r"trial (\d+)", found.reason or "")
        assert {trials[int(number)].fidelity for number in witnesses} == {Fidelity(9)}
