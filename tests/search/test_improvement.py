from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detsearch.search.improvement import Predictions, expected_improvements
from detsearch.search.pareto import improvements


def predictions(count: int, logarithmic: list[bool], signs: list[float], seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    shape = count, len(signs)
    return Predictions(
        means=rng.normal(0, 1, shape),
        deviations=rng.uniform(0.05, 0.8, shape),
        logarithmic=np.array(logarithmic),
        signs=np.array(signs),
    )


def by_draws(found: Predictions, front: np.ndarray, reference: list[float], draws: int = 40_000) -> np.ndarray:
    rng = np.random.default_rng(1)
    count, dimensions = found.means.shape
    points = found.likely(rng.standard_normal((draws, count, dimensions)))
    return improvements(points.reshape(-1, dimensions), front, reference).reshape(draws, count).mean(axis=0)


@pytest.mark.parametrize(
    ("logarithmic", "signs"),
    [
        ([False, False], [-1.0, 1.0]),
        ([False, True], [-1.0, 1.0]),
        ([True, False], [1.0, 1.0]),
        ([True, True], [1.0, -1.0]),
        ([True, True], [-1.0, 1.0]),
    ],
)
def test_two_objectives_in_closed_form(logarithmic: list[bool], signs: list[float]) -> None:
    """As the mean over 40,000 draws."""
    found = predictions(6, logarithmic, signs)
    tried = predictions(9, logarithmic, signs, seed=2).likely()
    reference = np.maximum(found.likely().max(axis=0), tried.max(axis=0)).tolist()
    exact = expected_improvements(found, tried, reference, np.random.default_rng(0))
    drawn = by_draws(found, tried, reference)
    assert exact.max() > 0.1
    assert exact == pytest.approx(drawn, rel=0.04, abs=0.004)


def test_three_objectives_by_common_draws() -> None:
    """One draw serves all candidates, so that equal ones promise the same, and the better of two alike more."""
    found = predictions(1, [False, True, True], [-1.0, 1.0, 1.0])
    better = found.means - np.array([0.01, 0.0, 0.0])
    three = Predictions(
        means=np.concatenate([found.means, found.means, better]),
        deviations=np.repeat(found.deviations, 3, axis=0),
        logarithmic=found.logarithmic,
        signs=found.signs,
    )
    tried = predictions(5, [False, True, True], [-1.0, 1.0, 1.0], seed=3).likely()
    reference = [2.0, 6.0, 6.0]
    for seed in range(5):
        first, same, more = expected_improvements(three, tried, reference, np.random.default_rng(seed))
        assert first == same < more
    assert first == pytest.approx(by_draws(found, tried, reference, 2000)[0], rel=0.5)


NUMBERS = st.floats(-3, 3, width=32)


@given(arrays(np.float64, (4, 2), elements=NUMBERS), arrays(np.float64, (5, 2), elements=NUMBERS))
def test_what_is_certain_improves_by_just_that(points: np.ndarray, front: np.ndarray) -> None:
    found = Predictions(
        means=points, deviations=np.zeros((4, 2)), logarithmic=np.array([False, True]), signs=np.array([-1.0, 1.0])
    )
    tried = np.column_stack([front[:, 0], np.exp(front[:, 1])])
    certain = np.column_stack([points[:, 0], np.exp(points[:, 1])])
    for reference in ([3.5, 40.0], [0.0, 1.0]):
        exact = expected_improvements(found, tried, reference, np.random.default_rng(0))
        assert exact == pytest.approx(improvements(certain, tried, reference), abs=1e-9)


@given(st.floats(-700, 700), st.floats(0, 5), st.sampled_from([-1.0, 1.0]))
def test_nothing_overflows(mean: float, deviation: float, sign: float) -> None:
    found = Predictions(
        means=np.array([[mean, mean / 10]]),
        deviations=np.full((1, 2), deviation),
        logarithmic=np.array([False, True]),
        signs=np.array([1.0, sign]),
    )
    tried = np.array([[0.0, sign * 2.0], [1.0, sign * 2.0 - 1.0]])
    (improved,) = expected_improvements(found, tried, [5.0, 5.0], np.random.default_rng(0))
    assert improved >= 0
    assert np.isfinite(improved)
