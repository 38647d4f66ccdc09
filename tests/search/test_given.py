from __future__ import annotations

from detsearch.search.evolution import Evolution
from detsearch.search.given import GivenFirst
from tests.contracts.strategy_contract import SPACE, StrategyContract, played
from tests.search.toy import OBJECTIVES, toy


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
