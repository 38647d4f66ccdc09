from __future__ import annotations

from collections import Counter
from dataclasses import replace

from detsearch.arch.spaces.subset import Subset
from detsearch.arch.spec import DetectorSpec
from detsearch.search.evolution import Evolution
from detsearch.search.joint import Joint, Part
from detsearch.search.trial import GIVEN, Proposal, TrialState, proposal_rng
from tests.contracts.strategy_contract import SPACE, StrategyContract, played
from tests.search.toy import OBJECTIVES, ToySpace, depths, toy, trial


def shallow(spec: DetectorSpec) -> bool:
    return depths(spec)[0] < 3


def deep(spec: DetectorSpec) -> bool:
    return depths(spec)[0] >= 3


class TestJoint(StrategyContract):
    imports = """
from detsearch.arch.spaces.subset import Subset
from detsearch.search.joint import Joint, Part
from detsearch.search.random_search import RandomSearch
from tests.search.test_joint import deep, shallow
parts = [Subset(SPACE, deep), Subset(SPACE, shallow)]
"""
    source = "Joint(parts=tuple(Part(space=part, strategy=RandomSearch(space=part)) for part in parts))"


def joint(baseline: DetectorSpec | None = None, initial: int = 2) -> Joint:
    """Of two searches, the second of which may have a baseline."""
    spaces = {Subset(SPACE, shallow): None, Subset(SPACE, deep): baseline}
    parts = (
        Part(space=space, strategy=Evolution(space=space, objectives=OBJECTIVES, initial=initial), baseline=spec)
        for space, spec in spaces.items()
    )
    return Joint(parts=tuple(parts))


def test_searches_go_forward_together() -> None:
    trials = played(joint(), 12)
    for count in range(1, 13):
        sides = Counter(deep(t.spec) for t in trials[:count])
        assert abs(sides[True] - sides[False]) <= 1
    for t in trials:
        assert all(deep(trials[parent].spec) == deep(t.spec) for parent in t.parents), "parents are of the same search"
    assert any(t.parents for t in trials)


def test_pruned_ones_are_no_share_of_the_budget() -> None:
    pruned = [trial(n, toy(0, n), TrialState.PRUNED) for n in range(3)]
    done = [trial(3, toy(4, 4))]
    found = joint().propose([*pruned, *done], [], proposal_rng(0, 4))
    assert found is not None
    assert shallow(found.spec)
    running = [replace(trial(4, found.spec), state=TrialState.RUNNING, metrics=None)]
    assert deep(_spec(joint().propose([*pruned, *done, *running, trial(5, toy(2, 5))], [], proposal_rng(0, 6))))


def test_others_go_on_where_one_is_exhausted() -> None:
    all_shallow = [trial(n, spec) for n, spec in enumerate(filter(shallow, ToySpace((6, 6)).all()))]
    more_deep = [trial(18 + n, toy(5, n)) for n in range(5)]
    assert deep(_spec(joint().propose([*all_shallow, *more_deep], [], proposal_rng(0, 23))))


def test_a_baseline_outside_of_its_space_is_a_parent() -> None:
    outside = toy(6, 0)
    assert not SPACE.contains(outside)
    trials = [trial(0, outside, origin=GIVEN), trial(1, toy(0, 0)), trial(2, toy(1, 0))]
    found = joint(outside, initial=1).propose(trials, [], proposal_rng(0, 3))
    assert found is not None
    assert (found.spec, found.parents) == (toy(5, 0), (0,)), "one step from it leads inside"
    other = joint(initial=1).propose(trials, [], proposal_rng(0, 3))
    assert other is not None
    assert not other.parents, "another search's trial says nothing"


def _spec(proposal: Proposal | None) -> DetectorSpec:
    assert proposal is not None
    return proposal.spec
