from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detsearch.search.correlation import Coefficient, correlate, rank_correlation


def test_by_hand() -> None:
    found = correlate(np.array([1.0, 2, 3, 4, 5]), np.array([0.2, 0.1, 0.4, 0.3, 0.9]))
    assert found.count == 5
    assert found.spearman is not None
    assert found.pearson is not None
    # Four of the ranks differ by one: 1 - 6 * 4 / (5 * 24). Variance: (1 + 0.8² / 2) / 2.
    assert found.spearman.value == pytest.approx(0.8)
    assert found.spearman.low == pytest.approx(math.tanh(math.atanh(0.8) - 1.96 * math.sqrt(0.66)))
    assert found.spearman.high == pytest.approx(math.tanh(math.atanh(0.8) + 1.96 * math.sqrt(0.66)))
    assert not found.spearman.decided
    # Covariance 1.6 with variances 10 and 0.388.
    assert found.pearson.value == pytest.approx(1.6 / math.sqrt(10 * 0.388))
    assert found.pearson.low == pytest.approx(math.tanh(math.atanh(found.pearson.value) - 1.96 / math.sqrt(2)))


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 30)), min_size=4, max_size=30).filter(
        lambda rows: all(len(set(column)) > 1 for column in zip(*rows, strict=True))
    )
)
def test_as_scipy_has_it(rows: list[tuple[int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    x, y = np.array(rows, dtype=np.float64).T
    found = correlate(x, y)
    assert found.spearman is not None
    assert found.pearson is not None
    assert found.spearman.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)
    theirs = stats.pearsonr(x, y)
    assert found.pearson.value == pytest.approx(theirs.statistic, abs=1e-9)
    if abs(found.pearson.value) < 1 - 1e-9:
        low, high = theirs.confidence_interval(0.95)
        assert (found.pearson.low, found.pearson.high) == pytest.approx((low, high), abs=1e-3)


def test_intervals_hold_what_they_say() -> None:
    """Of 400 samples of two normal variables that go together about 95 % of the intervals hold the truth."""
    rng = np.random.default_rng(0)
    truth, count, held = 0.6, 25, np.zeros(2)
    ranked = 6 / math.pi * math.asin(truth / 2)
    for _ in range(400):
        x = rng.normal(size=count)
        y = truth * x + math.sqrt(1 - truth**2) * rng.normal(size=count)
        found = correlate(x, y)
        for number, (one, value) in enumerate(((found.spearman, ranked), (found.pearson, truth))):
            assert one is not None
            assert one.low is not None
            assert one.high is not None
            held[number] += one.low <= value <= one.high
    assert ((held / 400 > 0.92) & (held / 400 < 0.98)).all()


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([], [], "fewer than 4 trials"),
        ([1, 2, 3], [1, 2, 3], "fewer than 4 trials"),
        ([1, 2, 3, math.nan], [1, 2, 3, 4], "fewer than 4 trials"),
        ([2, 2, 2, 2], [1, 2, 3, 4], "it is the same in all"),
        ([1, 2, 3, 4], [0.1, 0.1, 0.1, 0.1], "accuracy is the same in all"),
    ],
)
def test_where_there_is_no_figure_it_says_why(x: list[float], y: list[float], reason: str) -> None:
    found = correlate(np.array(x, dtype=np.float64), np.array(y, dtype=np.float64))
    assert found.spearman is None
    assert found.pearson is None
    assert found.reason == reason


def test_full_agreement_has_no_interval() -> None:
    found = correlate(np.arange(4.0), -np.exp(np.arange(4.0)))
    assert found.spearman == Coefficient(-1.0, None, None)
    assert not found.spearman.decided
    assert found.pearson is not None
    assert found.pearson.low is not None


def test_ranks_of_ties_and_gaps() -> None:
    assert rank_correlation(np.array([1.0, 2, 2, 3]), np.array([10.0, 20, 20, 90])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2, np.nan]), np.array([2.0, 1, 7])) == pytest.approx(-1)
    assert math.isnan(rank_correlation(np.array([1.0, 1]), np.array([1.0, 2])))
    assert math.isnan(rank_correlation(np.array([np.nan, 1]), np.array([1.0, 2])))
