from __future__ import annotations

import numpy as np
import pytest

from detsearch.intervals import NORMAL, QUANTILES, Interval, mean_interval


def test_by_hand() -> None:
    found = mean_interval([1.0, 2.0, 3.0])
    assert found is not None
    assert found.mean == 2.0
    assert found.half == pytest.approx(4.303 / 3**0.5)
    assert found.count == 3
    assert mean_interval([0.5]) == Interval(0.5, None, 1)
    assert mean_interval([]) is None


def test_quantiles_fall_to_the_normal_one() -> None:
    assert list(QUANTILES) == sorted(QUANTILES, reverse=True)
    assert len(QUANTILES) == 30
    assert QUANTILES[-1] > NORMAL


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for row in rng.normal(size=(2000, 5)):
        found = mean_interval(row.tolist())
        assert found is not None
        held += not found.decided
    assert 0.93 < held / 2000 < 0.97
