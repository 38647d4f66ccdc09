"""Costs that are measured before anything is trained."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detsearch.arch.presets import resolve
from detsearch.arch.spaces.modular import ModularSpace
from detsearch.arch.spec import DetectorSpec
from detsearch.search.evolution import Evolution
from detsearch.search.execution.inline import InlineExecutor
from detsearch.search.exhaustive import Exhaustive
from detsearch.search.given import GivenFirst
from detsearch.search.joint import Joint, Part
from detsearch.search.ledger import Ledger, read_study
from detsearch.search.objective import Limit
from detsearch.search.random_search import RandomSearch
from detsearch.search.replay import MemoryBook, ReplayExecutor, replay
from detsearch.search.study import Ending, Search, run_study
from detsearch.search.surrogate import Surrogate
from detsearch.search.survey import Survey
from detsearch.search.trial import SURVEY, Proposal, Strategy, TrialState, proposal_rng
from detsearch.types import CostMetrics
from tests.contracts.strategy_contract import SPACE, StrategyContract
from tests.report.fakes import latency
from tests.search.codec import TOY_CODEC
from tests.search.toy import FIDELITY, OBJECTIVES, code, cost, evaluate, toy, trial


class TestSurvey(StrategyContract):
    imports = """
from detsearch.search.random_search import RandomSearch
from detsearch.search.survey import Survey
"""
    source = "Survey(space=SPACE, strategy=RandomSearch(space=SPACE), count=7)"
    surveyed = 7


def survey(count: int = 7, strategy: Strategy | None = None) -> Survey:
    return Survey(space=SPACE, strategy=strategy or RandomSearch(space=SPACE), count=count)


class Counted:
    """A cost that remembers what it was asked for; `known` where it is not that of a toy."""

    def __init__(self, known: CostMetrics | None = None) -> None:
        self.asked: list[DetectorSpec] = []
        self.known = known

    def __call__(self, spec: DetectorSpec) -> CostMetrics:
        self.asked.append(spec)
        return self.known or cost(spec)


def search(strategy: Strategy, cost: Counted, **more: object) -> Search:
    return Search(strategy=strategy, cost=cost, evaluate=evaluate, fidelity=FIDELITY, seed=0, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, 3])
def test_costs_come_first_count_for_nothing_and_are_measured_once(workers: int) -> None:
    counted = Counted()
    done = replay(search(survey(20), counted), OBJECTIVES, name=code, trials=30, workers=workers)
    assert done.ending is Ending.TRIALS
    first, rest = done.trials[:20], done.trials[20:]
    assert all(t.state is TrialState.COSTED and t.cost is not None and t.metrics is None for t in first)
    assert all(t.state is TrialState.COMPLETE and t.cost is not None for t in rest)
    assert len(rest) == 30
    again = {t.spec for t in first} & {t.spec for t in rest}
    assert again, "30 of 36 members cannot miss 20 of them"
    assert len(counted.asked) == len(set(counted.asked)) == 20 + 30 - len(again)


def test_a_space_that_is_smaller_than_the_survey_is_costed_whole() -> None:
    done = replay(search(survey(100), Counted()), OBJECTIVES, name=code, trials=1)
    assert [t.state for t in done.trials] == [TrialState.COSTED] * SPACE.size() + [TrialState.COMPLETE]


def test_what_is_out_by_its_cost_is_never_trained() -> None:
    limits = (Limit.parse("macs<=25"),)
    done = replay(search(survey(100), Counted(), limits=limits), OBJECTIVES, name=code)
    out = {t.spec for t in done.trials if t.state is TrialState.PRUNED}
    assert done.ending is Ending.EXHAUSTED
    assert out == {spec for spec in SPACE.all() if cost(spec).macs > 25}
    assert len(done.trials) == 2 * SPACE.size() - len(out)
    assert all("is above the limit" in (t.reason or "") for t in done.trials if t.state is TrialState.PRUNED)


def test_no_training_is_proposed_while_a_cost_is_awaited() -> None:
    known = trial(0, toy(0, 0), TrialState.COSTED, origin=SURVEY, metrics=None)
    awaited = replace(known, number=1, spec=toy(1, 1), state=TrialState.WAITING, cost=None)
    strategy = survey(2)
    assert strategy.propose([known], [awaited], proposal_rng(0, 2)) is None
    proposal = strategy.propose([known, replace(awaited, state=TrialState.FAILED)], [], proposal_rng(0, 2))
    assert proposal is not None
    assert proposal.origin != SURVEY


class Unlucky(Counted):
    """Every second cost fails."""

    def __call__(self, spec: DetectorSpec) -> CostMetrics:
        found = super().__call__(spec)
        if len(self.asked) % 2:
            raise ValueError("no such operator")
        return found


def test_costs_that_fail_use_up_no_budget_and_are_not_tried_again() -> None:
    unlucky = Unlucky()
    done = replay(search(survey(12), unlucky), OBJECTIVES, name=code, trials=8)
    failed = {t.spec for t in done.trials[:12] if t.state is TrialState.FAILED}
    assert len(failed) == 6
    assert not failed & {t.spec for t in done.trials[12:]}
    assert sum(t.state in (TrialState.COMPLETE, TrialState.FAILED) for t in done.trials[12:]) == 8


def test_a_study_on_disk_goes_on_without_measuring_again(tmp_path: Path) -> None:
    counted = Counted()
    for trials in (3, 6):
        with Ledger(tmp_path, {"kind": "toy"}, OBJECTIVES, codec=TOY_CODEC) as ledger:
            run_study(ledger, search(survey(10), counted), InlineExecutor(), trials=trials)
    found = read_study(tmp_path, TOY_CODEC).trials
    assert [t.state for t in found[:10]] == [TrialState.COSTED] * 10
    assert [t.origin for t in found].count(SURVEY) == 10
    assert sum(t.state is TrialState.COMPLETE for t in found) == 6
    assert len(counted.asked) == len(set(counted.asked))


def test_a_latency_that_was_not_steady_is_measured_again() -> None:
    class Shaky(Counted):
        def __call__(self, spec: DetectorSpec) -> CostMetrics:
            again = spec in self.asked
            return replace(super().__call__(spec), latency=latency(9.0 if again else 5.0, steady=again))

    shaky = Shaky()
    done = replay(search(survey(100), shaky), OBJECTIVES, name=code)
    trained = [t.cost.latency for t in done.trials if t.state is TrialState.COMPLETE and t.cost is not None]
    assert {found.median_ms for found in trained if found is not None} == {9.0}
    assert len(shaky.asked) == 2 * SPACE.size()


def test_what_is_only_costed_is_only_counted_where_that_will_do() -> None:
    """And measured when it is trained."""

    class Timed(Counted):
        def __call__(self, spec: DetectorSpec) -> CostMetrics:
            return replace(super().__call__(spec), latency=latency(5.0))

    timed, counted = Timed(), Counted()
    done = replay(search(survey(10), timed, counted=counted), OBJECTIVES, name=code, trials=30)
    assert len(counted.asked) == 10
    assert len(timed.asked) == 30
    trained = [t for t in done.trials if t.state is TrialState.COMPLETE]
    assert all(t.cost is not None and t.cost.latency is not None for t in trained)
    assert {t.spec for t in trained} & set(counted.asked)


def test_what_was_only_counted_is_measured_for_a_limit_that_came_later(tmp_path: Path) -> None:
    class Timed(Counted):
        def __call__(self, spec: DetectorSpec) -> CostMetrics:
            return replace(super().__call__(spec), latency=latency(5.0))

    limits = (Limit.parse("latency_ms<=9"),)
    for trials, more in [(1, {"counted": Counted()}), (20, {"limits": limits})]:
        with Ledger(tmp_path, {"kind": "toy"}, OBJECTIVES, codec=TOY_CODEC) as ledger:
            run_study(ledger, search(survey(36), Timed(), **more), InlineExecutor(), trials=trials)
    found = read_study(tmp_path, TOY_CODEC).trials[36:]
    assert [t.state for t in found] == [TrialState.COMPLETE] * 20


def test_a_coordinator_that_dies_before_a_cost_is_taken_over_measures_nothing_again(tmp_path: Path) -> None:
    counted = Counted()
    with Ledger(tmp_path, {"kind": "toy"}, OBJECTIVES, codec=TOY_CODEC) as ledger:
        run_study(ledger, search(survey(36), counted), InlineExecutor(), trials=1)
        left = next(spec for spec in SPACE.all() if spec not in {t.spec for t in ledger.trials()[36:]})
        ledger.add(Proposal(spec=left, origin="random"), fidelity=FIDELITY, seed=1)
    with Ledger(tmp_path, {"kind": "toy"}, OBJECTIVES, codec=TOY_CODEC) as ledger:
        run_study(ledger, search(survey(36), counted), InlineExecutor(), trials=2)
        assert [t.state for t in ledger.trials()[36:]] == [TrialState.COMPLETE] * 2
    assert len(counted.asked) == 36


@pytest.mark.parametrize("workers", [2, 8])
@pytest.mark.parametrize("budget", [{"trials": 1}, {"epochs": FIDELITY.epochs}])
def test_costs_run_side_by_side_whatever_the_budget(workers: int, budget: dict[str, int]) -> None:
    """They are no trainings, which alone a budget bounds."""

    most = 0

    class Slow(ReplayExecutor):
        def submit(self, *args: Any, **more: Any) -> None:
            nonlocal most
            super().submit(*args, **more)
            most = max(most, len(self.running()))

        def poll(self, deliver: Any, timeout: float) -> None:
            """Costs, too, end only when they are waited for."""
            if timeout > 0:
                super().poll(deliver, timeout)

    executor = Slow(workers)
    book = MemoryBook(OBJECTIVES, executor.clock, name=code)
    run_study(book, search(survey(16), Counted()), executor, clock=executor.clock, **budget)
    states = Counter(t.state for t in book.trials())
    assert states == {TrialState.COSTED: 16, TrialState.COMPLETE: 1}
    assert most == workers


def test_a_small_space_inside_a_structure_is_costed_whole_beside_its_baseline() -> None:
    slim = "basicblock_8_1-2-2-2/fpn(levels=3-4-5,width=16)/retinanet(depth=1)@64x64"
    tiny = {"base": [8], "width": [8, 16], "depth": 6, "spread": [0.5, 2.0]}
    space = ModularSpace.from_section({"structure": slim, **tiny})
    strategy = Survey(space=space, strategy=RandomSearch(space=space), count=space.size() + 5)
    other = resolve(slim)
    given = GivenFirst(detectors=(other,), strategy=strategy)
    done = replay(search(given, Counted(CostMetrics(params=1, macs=1, memory_access=1))), OBJECTIVES, trials=2)
    costed = {t.spec for t in done.trials if t.state is TrialState.COSTED}
    assert costed == {spec for spec in space.all() if spec != other}


@pytest.mark.parametrize(
    "strategy",
    [
        RandomSearch(space=SPACE),
        Exhaustive(space=SPACE),
        Evolution(space=SPACE, objectives=OBJECTIVES, initial=4),
        Surrogate(space=SPACE, objectives=OBJECTIVES, initial=4),
        GivenFirst(detectors=(toy(3, 3),), strategy=RandomSearch(space=SPACE)),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_what_was_only_costed_may_be_trained_and_is_no_first_member(strategy: Strategy) -> None:
    costed = [trial(n, spec, TrialState.COSTED, origin=SURVEY, metrics=None) for n, spec in enumerate(SPACE.all())]
    proposal = strategy.propose(costed, [], proposal_rng(0, len(costed)))
    assert proposal is not None
    assert proposal.origin in ("random", "given", "listed")


def test_the_model_looks_at_everything_that_was_costed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detsearch.search.surrogate.CANDIDATES", 4)
    costed = [trial(n, spec, TrialState.COSTED, origin=SURVEY, metrics=None) for n, spec in enumerate(SPACE.all())]
    model = Surrogate(space=SPACE, objectives=OBJECTIVES, initial=4)
    assert len(model.candidates(costed, [], proposal_rng(0, 0))) == SPACE.size()


def test_the_shares_of_joint_searches_do_not_count_costs() -> None:
    class Fixed:
        def __init__(self, spec: DetectorSpec) -> None:
            self.spec = spec

        def propose(self, *_: object) -> Proposal:
            return Proposal(spec=self.spec, origin="fixed")

    class Half:
        def __init__(self, first: int) -> None:
            self.first = first

        def contains(self, spec: DetectorSpec) -> bool:
            return code(spec).startswith(str(self.first))

    parts = tuple(Part(space=Half(n), strategy=Fixed(toy(n, 5))) for n in (0, 1))  # type: ignore[arg-type]
    costed = [trial(n, toy(0, n), TrialState.COSTED, origin=SURVEY, metrics=None) for n in range(4)]
    trained = trial(4, toy(1, 0))
    proposal = Joint(parts=parts).propose([*costed, trained], [], proposal_rng(0, 5))
    assert proposal is not None
    assert code(proposal.spec) == "0-5"


def test_inside_a_structure_one_of_each_part_of_the_scale_is_costed() -> None:
    space = ModularSpace.from_section({"structure": "faster_rcnn_r18_fpn@512x512"})
    strategy = Survey(space=space, strategy=RandomSearch(space=space), count=5)
    done = replay(search(strategy, Counted(CostMetrics(params=1, macs=1, memory_access=1))), OBJECTIVES, trials=1)
    assert sorted(math.floor(space.place(t.spec) * 5) for t in done.trials[:5]) == list(range(5))
