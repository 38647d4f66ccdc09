from __future__ import annotations

import math

import numpy as np
import pytest

from detsearch.errors import RecipeError
from detsearch.search.objective import Limit, Objective, check_objectives, vector


def test_text_form_and_default_direction() -> None:
    assert Objective.parse("ap") == Objective("ap", True) == Objective.parse(" ap:max ")
    assert Objective.parse("latency_ms") == Objective("latency_ms", False)
    assert Objective.parse("ar_100").maximise
    assert Objective.parse("voc_ap50").maximise
    assert Objective.parse("my_score:max") == Objective("my_score", True)
    for text in ("ap:max", "latency_ms:min", "x:min"):
        assert str(Objective.parse(text)) == text


@pytest.mark.parametrize("text", ["", "ap:up", "AP", "my_score", "ap:", "ap max", "ap:max:min"])
def test_objective_that_is_none(text: str) -> None:
    with pytest.raises(RecipeError, match="objective") as caught:
        Objective.parse(text)
    assert "\n" not in str(caught.value)


def test_objectives_are_named_once() -> None:
    with pytest.raises(RecipeError, match="at least one"):
        check_objectives([])
    with pytest.raises(RecipeError, match="ap 2 times"):
        check_objectives([Objective("ap", True), Objective("ap", False)])


def test_vector_is_for_minimisation_and_marks_what_is_missing() -> None:
    objectives = [Objective("ap", True), Objective("macs", False), Objective("absent", True)]
    np.testing.assert_array_equal(vector({"ap": 0.25, "macs": 4, "more": 1}, objectives), [-0.25, 4, np.nan])


def test_limit() -> None:
    limit = Limit.parse("latency_ms <= 30")
    assert str(limit) == "latency_ms<=30"
    assert limit.broken_by({"latency_ms": 30.0}) is None
    assert "latency_ms=30.01" in str(limit.broken_by({"latency_ms": 30.01}))
    assert limit.broken_by({"latency_ms": math.nan}) is not None
    with pytest.raises(RecipeError, match="known before training"):
        limit.broken_by({"macs": 1.0})


@pytest.mark.parametrize("number", ["1234564", "16734567890", "0.1", "29.999999999", "1e+300"])
def test_a_limit_is_the_number_that_was_given(number: str) -> None:
    """Not one of fewer digits, which would refuse a candidate that is just within it."""
    limit = Limit.parse(f"params<={number}")
    assert str(limit) == f"params<={number}"
    assert Limit.parse(str(limit)) == limit
    assert limit.broken_by({"params": float(number)}) is None


def test_what_is_above_a_limit_is_said_exactly() -> None:
    reason = Limit.parse("params<=1234564").broken_by({"params": 1234565})
    assert reason == "params=1234565 is above the limit params<=1234564"


@pytest.mark.parametrize("text", ["latency_ms<30", "latency_ms", "<=3", "a<=b", "a<=nan", "a<=inf", ""])
def test_limit_that_is_none(text: str) -> None:
    with pytest.raises(RecipeError):
        Limit.parse(text)
