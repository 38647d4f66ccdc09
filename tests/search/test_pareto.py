from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detsearch.search.pareto import (
    Points,
    crowding_distance,
    front,
    hypervolume,
    improvements,
    non_dominated,
    ranking,
    reference_point,
    spread,
)
from detsearch.search.trial import TrialState
from detsearch.types import Fidelity, Metrics
from tests.search.toy import OBJECTIVES, toy, trial

# Few distinct values, so that ties and duplicates are the rule; now and then a NaN or an infinity.
values = st.one_of(st.integers(0, 4).map(float), st.sampled_from([math.nan, math.inf, -math.inf]))
points = st.tuples(st.integers(0, 25), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=values)
)


def dominated(points: Points, index: int) -> bool:
    point = points[index]
    return not np.isfinite(point).all() or any(
        np.isfinite(other).all() and (other <= point).all() and (other < point).any() for other in points
    )


@given(points)
def test_front_is_what_the_definition_says(points: Points) -> None:
    assert non_dominated(points).tolist() == [not dominated(points, i) for i in range(len(points))]


@given(points, st.integers(0, 2**32 - 1))
def test_order_of_points_does_not_matter(points: Points, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(points))
    np.testing.assert_array_equal(non_dominated(points)[order], non_dominated(points[order]))


@given(arrays(np.float64, st.tuples(st.integers(0, 12), st.just(2)), elements=values))
def test_hypervolume_counts_unit_cells(points: Points) -> None:
    """Coordinates are integers from 0 to 4, so the dominated part below (4, 4) is a number of unit cells."""
    kept = points[np.isfinite(points).all(axis=1)]
    cells = sum(any(x <= i and y <= j for x, y in kept) for i in range(4) for j in range(4))
    assert hypervolume(points, (4.0, 4.0)) == pytest.approx(cells, abs=1e-12)


def test_crowding_distance_of_a_front() -> None:
    line = np.array([[0.0, 4.0], [4.0, 0.0], [1.0, 3.0], [3.0, 1.0]])
    np.testing.assert_allclose(crowding_distance(line), [np.inf, np.inf, 3 / 4 + 3 / 4, 3 / 4 + 3 / 4])


def test_crowding_distance_of_degenerate_fronts() -> None:
    assert crowding_distance(np.empty((0, 2))).tolist() == []
    assert crowding_distance(np.array([[1.0, 1.0]])).tolist() == [np.inf]
    copies = np.array([[0.0, 2.0], [1.0, 1.0], [1.0, 1.0], [2.0, 0.0]])
    assert crowding_distance(copies).tolist() == [np.inf, 2.0, 0.0, np.inf]
    assert crowding_distance(np.array([[1.0, 1.0], [1.0, 1.0]])).tolist() == [np.inf, 0.0]


@settings(max_examples=50)
@given(arrays(float, st.tuples(st.integers(0, 30), st.just(2)), elements=st.integers(0, 5).map(float)))
def test_ranking_is_by_fronts(points: np.ndarray) -> None:
    order = ranking(points)
    assert sorted(order) == list(range(len(points)))
    left = np.arange(len(points))
    while len(left):
        first = set(left[non_dominated(points[left])])
        assert set(order[: len(first)]) == first, "a whole front comes before the next"
        order, left = order[len(first) :], np.array([n for n in left if n not in first])


def test_of_one_front_the_least_crowded_come_first() -> None:
    points = np.array([[0, 10], [1, 9], [2, 8], [10, 0]], float)
    assert ranking(points) == [0, 3, 2, 1]


def test_front_of_trials_leaves_out_what_cannot_be_compared() -> None:
    low = Fidelity(1)
    trials = [
        trial(0, toy(0, 0)),
        trial(1, toy(5, 5), TrialState.FAILED),
        trial(2, toy(0, 1), metrics=Metrics(values={"ap": math.nan}, fidelity=Fidelity(3))),
        trial(3, toy(0, 0), fidelity=low, metrics=Metrics(values={"ap": 0.99}, fidelity=low)),
        trial(4, toy(0, 2), metrics=Metrics(values={"ap": 0.0}, fidelity=Fidelity(3))),  # dominated by 0
        trial(5, toy(0, 0)),  # equal to 0
    ]
    assert [t.number for t in front(trials, OBJECTIVES)] == [0, 5]
    assert [t.number for t in front(trials, OBJECTIVES, low)] == [3]
    assert front([], OBJECTIVES) == []


@given(
    st.integers(1, 3).flatmap(
        lambda m: st.tuples(
            arrays(np.float64, st.tuples(st.integers(0, 8), st.just(m)), elements=st.integers(-2, 7).map(float)),
            arrays(np.float64, st.tuples(st.integers(0, 8), st.just(m)), elements=st.integers(-2, 7).map(float)),
        )
    )
)
def test_improvements_are_what_hypervolumes_differ_by(given: tuple[Points, Points]) -> None:
    """Against both volumes computed whole; points beyond the reference are among them."""
    known, new = given
    reference = [5.0] * known.shape[1]
    whole = [hypervolume(np.vstack([known, point]), reference) - hypervolume(known, reference) for point in new]
    np.testing.assert_allclose(improvements(new, known, reference), whole, atol=1e-9)


def test_spread_takes_what_adds_most() -> None:
    front_points = np.array([[0.0, 10.0], [1.0, 9.0], [5.0, 4.0], [5.5, 3.9], [10.0, 0.0]])
    assert spread(front_points, 1) == [2]
    assert spread(front_points, 3) == [2, 1, 4], "42, then 8 against 5 and 4, then 4 against 1"
    assert set(spread(front_points, 9)) == set(range(5))
    assert spread(np.array([[1.0, 2.0]]), 3) == [0]
    assert spread(np.array([[1.0, 2.0], [1.0, 2.0]]), 2) == [0, 1], "equal ones add nothing, and are taken last"


@given(arrays(np.float64, st.tuples(st.integers(1, 8), st.just(2)), elements=st.integers(0, 20).map(float)))
def test_spread_never_takes_one_twice_and_is_greedy(points: Points) -> None:
    chosen = spread(points, 4)
    assert len(set(chosen)) == len(chosen) == min(4, len(points))
    reference = reference_point(points).tolist()
    for size in range(len(chosen)):
        best = max(hypervolume(points[[*chosen[:size], i]], reference) for i in range(len(points)))
        assert hypervolume(points[chosen[: size + 1]], reference) == pytest.approx(best)
