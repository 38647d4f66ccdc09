"""What a recipe's settings make of a strategy."""

from __future__ import annotations

from collections import Counter

from detsearch.arch.code import format_detector
from detsearch.arch.partial_order import leq
from detsearch.arch.spaces.base import Space
from detsearch.arch.spaces.section import read_space
from detsearch.arch.spaces.structures import StructuresSpace
from detsearch.runs.settings import SearchSettings
from detsearch.runs.strategies import make_search, make_strategy
from detsearch.search.early import EARLY
from detsearch.search.halving import Halving
from detsearch.search.objective import Objective
from detsearch.search.replay import replay
from detsearch.search.study import Search
from detsearch.search.thawing import Thawing
from detsearch.search.trial import GIVEN, SURVEY, Trial, TrialContext
from detsearch.types import CostMetrics, Fidelity, Metrics

OBJECTIVES = (Objective("ap", True), Objective("macs", False))
RUNGS = (2, 4, 6)
EPOCHS = RUNGS[-1]
START = "basicblock_8_1-2-2-2/fpn(levels=4-5,width=8)/retinanet(depth=1)/gn@64x64"
SPACE = read_space(
    {
        "backbone": ["basicblock_4_1-2-2-2", "basicblock_8_1-2-2-2", "basicblock_8_1-2-2-21"],
        "neck": ["fpn(levels=4-5,width=8)", "fpn(levels=4-5,width=16)"],
        "head": ["retinanet(depth=1)"],
        "norm": ["gn"],
        "input": ["64x64", "96x96"],
    }
)


def cost(spec: object) -> CostMetrics:
    return CostMetrics(params=1, macs=1 + len(str(spec)), memory_access=1)


def evaluate(spec: object, fidelity: Fidelity, seed: int, context: TrialContext) -> Metrics:
    return Metrics(values={"ap": len(str(spec)) / 1000 * fidelity.epochs / EPOCHS}, fidelity=fidelity)


def searched(space: Space, settings: SearchSettings, trainings: int = 4, rungs: tuple[int, ...] = RUNGS) -> Search:
    return make_search(
        settings, space, OBJECTIVES, rungs=rungs, trainings=trainings, cost=cost, evaluate=evaluate, seed=0
    )


def played(space: Space, settings: SearchSettings, trainings: int) -> tuple[Trial, ...]:
    return replay(searched(space, settings, trainings), OBJECTIVES, trials=trainings).trials


def test_what_settings_make_of_a_search() -> None:
    usual = searched(SPACE, SearchSettings())
    assert (usual.fidelity, usual.halving, usual.leq, usual.slack) == (Fidelity(EPOCHS), None, leq, 0.01)
    ranked = searched(SPACE, SearchSettings(promote="rank", eta=2, slack=0.02))
    assert ranked.halving == Halving(objectives=OBJECTIVES, rungs=RUNGS, eta=2)
    assert ranked.slack == 0.02
    assert searched(SPACE, SearchSettings(strategy="evolution")).halving is not None
    assert searched(SPACE, SearchSettings(strategy="evolution"), rungs=(EPOCHS,)).halving is None
    assert searched(SPACE, SearchSettings(promote="rank"), rungs=(EPOCHS,)).halving is None
    assert searched(SPACE, SearchSettings(prune=False)).leq is None
    assert searched(SPACE, SearchSettings(strategy="all")).leq is None, "all are wanted"


def test_costs_come_before_what_is_given() -> None:
    trials = played(SPACE, SearchSettings(initial=2, start=[START]), 4)
    assert [t.origin for t in trials[:9]] == [SURVEY] * 8 + [GIVEN]
    assert format_detector(trials[8].spec) == START
    again = played(SPACE, SearchSettings(initial=2, start=[START], survey=0), 4)
    assert again[0].origin == GIVEN
    assert SURVEY not in {t.origin for t in again}


def test_what_pauses_are_trainings_alone() -> None:
    strategy = make_strategy(SearchSettings(survey=0), SPACE, OBJECTIVES, rungs=RUNGS, trainings=4)
    assert isinstance(strategy, Thawing)
    trials = played(SPACE, SearchSettings(initial=2), 4)
    assert {t.fidelity.epochs for t in trials if t.origin != SURVEY} == {2, 4, 6}


def test_inside_of_structures_each_has_its_share_of_a_survey_after_its_baseline() -> None:
    structures = [START.replace("/gn@", "@"), START.replace("depth=1", "depth=2").replace("/gn@", "@")]
    section = {"structures": structures, "base": [4, 6, 8], "width": [8, 16], "depth": 12, "spread": [0.1, 10]}
    space = read_space({"modules": section})
    assert isinstance(space, StructuresSpace)
    trials = played(space, SearchSettings(initial=2, survey=7), 8)
    assert [t.spec for t in trials[:2]] == list(space.baselines)
    costed = Counter(
        number for t in trials if t.origin == SURVEY for number, part in enumerate(space.parts) if part.contains(t.spec)
    )
    assert costed == {0: 4, 1: 4}, "half of seven each, and no less"
    trained = [t for t in trials[2:] if t.origin != SURVEY and t.continues is None]
    assert len(trained) == 6
    assert all(any(part.contains(t.spec) for part in space.parts) for t in trained)


def test_what_stands_for_an_objective_early() -> None:
    def early(settings: SearchSettings) -> object:
        strategy = make_strategy(settings, SPACE, OBJECTIVES, rungs=RUNGS, trainings=4)
        return (strategy.surrogate if isinstance(strategy, Thawing) else strategy).early  # type: ignore[attr-defined]

    assert early(SearchSettings(survey=0)) == EARLY
    assert early(SearchSettings(survey=0, promote="rank")) == EARLY
    assert early(SearchSettings(survey=0, early={})) == {}
    assert early(SearchSettings(survey=0, early={"ap": {"ap50": 1.0}})) == {"ap": {"ap50": 1.0}}
