from __future__ import annotations

from detsearch.search.evolution import Evolution
from detsearch.search.pareto import front, hypervolume, matrix
from detsearch.search.random_search import RandomSearch
from detsearch.search.trial import Strategy, Trial, TrialState, proposal_rng
from detsearch.types import Metrics
from tests.contracts.strategy_contract import SPACE, StrategyContract, played
from tests.search.toy import FIDELITY, OBJECTIVES, ToySpace, accuracy, depths, toy, trial


class TestEvolution(StrategyContract):
    imports = """
from detsearch.search.evolution import Evolution
from tests.search.toy import OBJECTIVES
"""
    source = "Evolution(space=SPACE, objectives=OBJECTIVES, initial=8)"


def test_random_members_come_first_then_children_of_the_front() -> None:
    strategy = Evolution(space=SPACE, objectives=OBJECTIVES, initial=8)
    trials = played(strategy, 20)
    assert [t.origin for t in trials[:8]] == ["random"] * 8
    for child in trials:
        if child.origin == "mutation":
            (parent,) = child.parents
            best = front(trials[: child.number], OBJECTIVES)
            assert parent in {t.number for t in best}
            assert child.spec in set(SPACE.neighbours(trials[parent].spec))
    assert sum(t.origin == "mutation" for t in trials) >= 9


def test_pruned_and_failed_first_members_are_replaced() -> None:
    strategy = Evolution(space=SPACE, objectives=OBJECTIVES, initial=3)
    lost = [trial(0, toy(0, 0), TrialState.PRUNED), trial(1, toy(0, 1), TrialState.FAILED)]
    kept = [trial(n, toy(n, n)) for n in (2, 3)]
    proposal = strategy.propose([*lost, *kept], [], proposal_rng(0, 4))
    assert proposal is not None
    assert proposal.origin == "random"
    proposal = strategy.propose([*lost, *kept], [trial(4, toy(4, 4), TrialState.RUNNING)], proposal_rng(0, 5))
    assert proposal is not None
    assert proposal.origin == "mutation"


def test_used_up_neighbourhoods_fall_back_to_random() -> None:
    """The only front member and all its neighbours are known; what lies further away is drawn."""
    best = trial(0, toy(0, 0), metrics=trial(0, toy(5, 5)).metrics)
    around = [trial(n, spec, TrialState.FAILED) for n, spec in enumerate(SPACE.neighbours(best.spec), start=1)]
    strategy = Evolution(space=SPACE, objectives=OBJECTIVES, initial=1)
    proposal = strategy.propose([best, *around], [], proposal_rng(0, 3))
    assert proposal is not None
    assert proposal.origin == "random"
    proposal = strategy.propose([best, *around[:1]], [], proposal_rng(0, 2))
    assert proposal is not None
    assert (proposal.origin, proposal.parents, proposal.spec) == ("mutation", (0,), around[1].spec)


def test_evolution_beats_random_search_where_choices_matter() -> None:
    """Six depths of which only three are of use; mean hypervolume over 10 seeds, 80 of 46,656 members tried, was 33.3
    against 28.7."""
    space = ToySpace((6,) * 6)

    def volume(seed: int, strategy: Strategy) -> float:
        trials: list[Trial] = []
        for number in range(80):
            proposal = strategy.propose(trials, [], proposal_rng(seed, number))
            assert proposal is not None
            useful = Metrics(values={"ap": accuracy(toy(*depths(proposal.spec)[:3]))}, fidelity=FIDELITY)
            trials.append(trial(number, proposal.spec, origin=proposal.origin, metrics=useful))
        return hypervolume(matrix(trials, OBJECTIVES), (0.0, 60.0))

    evolved = [volume(seed, Evolution(space=space, objectives=OBJECTIVES, initial=16)) for seed in range(10)]
    drawn = [volume(seed, RandomSearch(space=space)) for seed in range(10)]
    assert sum(evolved) > 1.1 * sum(drawn)
