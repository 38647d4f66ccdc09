from __future__ import annotations

from detsearch.search.exhaustive import Exhaustive
from tests.contracts.strategy_contract import SPACE, StrategyContract, played


class TestExhaustive(StrategyContract):
    imports = "from detsearch.search.exhaustive import Exhaustive"
    source = "Exhaustive(space=SPACE)"
    draws = False


def test_members_come_in_the_order_of_the_space() -> None:
    trials = played(Exhaustive(space=SPACE), SPACE.size() + 1)
    assert [t.spec for t in trials] == list(SPACE.all())
    assert {t.origin for t in trials} == {"listed"}
