from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detsearch.training.schedule import WARMUP_LIMIT, Schedule


def test_values() -> None:
    schedule = Schedule.over(101, warmup=20, final=0.1)
    assert schedule.factor(0) == pytest.approx(0.001)
    assert schedule.factor(10) == pytest.approx(0.5005)
    assert schedule.factor(20) == 1.0
    assert schedule.factor(60) == pytest.approx(0.55)  # half way down
    assert schedule.factor(40) == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert schedule.factor(100) == pytest.approx(0.1)


def test_drops() -> None:
    schedule = Schedule.over(90, warmup=5, final=0.3, drops=(0.6667, 0.8889))
    assert [schedule.factor(step) for step in (5, 59, 60, 79, 80, 89)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert schedule.factor(0) == pytest.approx(0.001)


def test_a_short_training_is_not_all_warm_up() -> None:
    assert Schedule.over(50, warmup=500, final=0.0).warmup == 50 * WARMUP_LIMIT
    assert Schedule.over(1, warmup=500, final=0.0).factor(0) == 1.0


@given(st.integers(1, 2000), st.integers(0, 3000), st.floats(0, 1))
def test_rises_then_falls_and_stays_within_bounds(steps: int, warmup: int, final: float) -> None:
    schedule = Schedule.over(steps, warmup=warmup, final=final)
    factors = [schedule.factor(step) for step in range(steps)]
    peak = schedule.warmup
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert max(factors) == factors[peak] == 1.0
    assert min(factors) > 0 or final == 0
    if steps - peak > 1:
        assert factors[-1] == pytest.approx(final, abs=1e-12)
