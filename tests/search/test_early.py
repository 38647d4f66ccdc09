from __future__ import annotations

import math

import pytest

from detsearch.search.early import EARLY, early_value
from detsearch.search.objective import MAXIMISED, Objective

AP, LATENCY = Objective("ap", True), Objective("latency_ms", False)


def test_precision_and_recall_count_alike() -> None:
    values = {"ap": 0.1, "ap50": 0.3, "ar_10": 0.4, "ar_100": 0.9}
    assert early_value(values, AP, EARLY) == pytest.approx(-(0.25 * 0.1 + 0.25 * 0.3 + 0.5 * 0.4))
    masks = {f"mask_{name}": value / 2 for name, value in values.items()}
    found = early_value(values | masks, Objective("mask_ap", True), EARLY)
    assert found == pytest.approx(early_value(values, AP, EARLY) / 2)


@pytest.mark.parametrize("objective", EARLY)
def test_weights_are_of_figures_that_there_are(objective: str) -> None:
    assert {objective, *EARLY[objective]} <= MAXIMISED
    assert sum(EARLY[objective].values()) == 1, "of a size with what it stands for"


@pytest.mark.parametrize("other", [{}, {"ap50": 0.3}, {"ap50": 0.3, "ar_10": math.nan}])
def test_where_a_figure_is_missing_an_objective_stands_for_itself(other: dict[str, float]) -> None:
    assert early_value({"ap": 0.1, **other}, AP, EARLY) == -0.1


def test_what_is_not_named_stands_for_itself() -> None:
    values = {"ap": 0.1, "ap50": 0.3, "ar_10": 0.4, "latency_ms": 7.0}
    assert early_value(values, LATENCY, EARLY) == 7
    assert early_value(values, AP, {}) == -0.1
    assert early_value(values, LATENCY, {"latency_ms": {"latency_ms": 2.0}}) == 14
