from __future__ import annotations

from collections import Counter

import numpy as np

from detsearch.search.random_search import sample_unseen
from tests.contracts.strategy_contract import SPACE, StrategyContract
from tests.search.toy import toy


class TestRandomSearch(StrategyContract):
    imports = "from detsearch.search.random_search import RandomSearch"
    source = "RandomSearch(space=SPACE)"


def test_the_rest_of_a_space_is_drawn_uniformly() -> None:
    rng = np.random.default_rng(0)
    rest = {toy(0, 0), toy(3, 3), toy(5, 5)}
    seen = set(SPACE.all()) - rest
    drawn = Counter(sample_unseen(SPACE, seen, rng) for _ in range(300))
    assert set(drawn) == rest
    assert min(drawn.values()) > 60
