from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detsearch.arch.spaces.section import read_space
from detsearch.search.optuna_samplers import OptunaSampler, made_of
from detsearch.search.random_search import RandomSearch
from detsearch.search.replay import replay
from detsearch.search.study import Search
from detsearch.search.trial import Strategy, Trial, TrialState, proposal_rng
from detsearch.types import Metrics
from tests.contracts.strategy_contract import SPACE, StrategyContract, played
from tests.search import generated
from tests.search.toy import OBJECTIVES


class TestNSGA2(StrategyContract):
    imports = """
from detsearch.search.optuna_samplers import OptunaSampler
from tests.search.toy import OBJECTIVES
"""
    source = "OptunaSampler(space=SPACE, objectives=OBJECTIVES, sampler='nsga2')"


class TestTPE(StrategyContract):
    imports = TestNSGA2.imports
    source = "OptunaSampler(space=SPACE, objectives=OBJECTIVES, sampler='tpe')"


@pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
def test_most_proposals_are_the_samplers_own(sampler: Any) -> None:
    trials = played(OptunaSampler(space=SPACE, objectives=OBJECTIVES, sampler=sampler), 24)
    assert sum(t.origin == sampler for t in trials) >= 20


@pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
def test_most_are_its_own_in_a_small_space_too(sampler: Any) -> None:
    """Where the best candidates of TPE have soon all been tried."""
    table, space = generated.generated(0), read_space(generated.CHOICES)
    strategy = OptunaSampler(space=space, objectives=generated.OBJECTIVES, sampler=sampler)
    search = Search(strategy=strategy, cost=table.cost, evaluate=table.evaluate, fidelity=table.full, seed=0)
    trials = replay(search, generated.OBJECTIVES, trials=60, name=table.code).trials
    assert sum(trial.origin == sampler for trial in trials) >= 54


def test_nsga2_breeds_from_the_first_generation() -> None:
    """A whole generation at a corner of the space: children are of it, or mutated."""
    space, table = read_space(generated.CHOICES), generated.generated(0)
    corner = [row for row in table.rows if row.spec.input == table.rows[0].spec.input][:8]
    strategy = OptunaSampler(space=space, objectives=generated.OBJECTIVES, sampler="nsga2", initial=8)
    history = [
        Trial(number=n, code=row.code, spec=row.spec, state=TrialState.COMPLETE, fidelity=table.full, seed=0,
              origin="random", cost=row.cost, metrics=Metrics(values=row.trainings[0].figures[12], fidelity=table.full))
        for n, row in enumerate(corner)
    ]  # fmt: skip
    parents = [set(made_of(row.spec)) for row in corner]

    def changed(seed: int, strategy: Strategy) -> int:
        """In how many parts a proposal differs from the parent that is most like it."""
        proposal = strategy.propose(history, [], proposal_rng(seed, 8))
        assert proposal is not None
        return min(len(set(made_of(proposal.spec)) - parent) for parent in parents)

    bred, drawn = (np.mean([changed(seed, s) for seed in range(20)]) for s in (strategy, RandomSearch(space=space)))
    assert bred < drawn - 0.5
