from __future__ import annotations

from tests.contracts.strategy_contract import StrategyContract


class TestSurrogate(StrategyContract):
    imports = """
from detsearch.search.surrogate import Surrogate
from tests.search.toy import OBJECTIVES
"""
    source = "Surrogate(space=SPACE, objectives=OBJECTIVES, initial=8)"
