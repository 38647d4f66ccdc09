from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from detsearch.intervals import Interval
from detsearch.report.analysis import (
    correlation_rows,
    effect_rows,
    markdown_analysis,
    missing,
    percent,
    share_rows,
    structures,
)
from detsearch.report.columns import NONE
from detsearch.search.analysis import Analysis, Group, analyse
from detsearch.search.correlation import Coefficient, Correlation
from detsearch.search.factors import FACTORS
from tests.report.fakes import OBJECTIVES, study, trial

NASTY = "a|b <script>alert(1)</script>"


def group(kind: str, structure: str | None, value: float | None) -> Group:
    none = Correlation(count=3, reason="fewer than 4 trials")
    some = none if value is None else Correlation(count=9, spearman=Coefficient(value, value - 0.2, value + 0.2))
    return Group(
        kind=kind, structure=structure, trials=(0, 1), correlations=dict.fromkeys(FACTORS, none) | {"depth": some}
    )


def test_cells_have_figure_interval_and_tint() -> None:
    found = Analysis(
        accuracy="ap",
        epochs=3,
        trials=9,
        groups=(group("all", None, 0.5), group("front", NASTY, -0.1), group("all", NASTY, None)),
        without_code=dict.fromkeys(range(6), "x has no block code"),
    )
    rows = correlation_rows(found)
    assert [(name, count) for name, count, _ in rows] == [
        ("All trials", 2),
        ("Structure 1, front", 2),
        ("Structure 1", 2),
    ]
    strong, weak, none = (cells[0] for _, _, cells in rows)
    assert (strong.text, strong.interval, strong.decided) == ("0.50", "0.30 to 0.70", True)
    assert (weak.text, weak.decided) == ("-0.10", False)
    assert strong.rgba[:3] != weak.rgba[:3]
    assert strong.rgba[3] > weak.rgba[3] > none.rgba[3] == 0
    assert none.text == NONE
    assert structures(found) == [NASTY]
    lines = missing(found)
    assert "Structure 1: no figure: fewer than 4 trials" in lines
    assert lines[0].startswith("All trials: no figure for Width, DC1")
    assert lines[-1].startswith("Left out, 6 without a block code: 0: x has no block code; 1: ")
    text = markdown_analysis(found)
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert "<script" not in html
    assert "<strong>0.50</strong> (0.30 to 0.70)" in html


def test_shares_and_means_are_told() -> None:
    found = analyse(study(60), OBJECTIVES)
    assert found is not None
    text = markdown_analysis(found)
    for part in ("### Correlation with AP", "### What explains AP", "### What explains Latency", "### Means by value"):
        assert part in text
    rows = share_rows(found.importances[0])
    alone = [row[2] for row in rows]
    assert all("±" in one for one in alone)
    means = [float(one.split(" ")[0]) for one in alone]
    assert means == sorted(means, reverse=True)
    assert "norm" not in {row[0] for row in rows}, "it is the same in all"
    assert "The same in all: proposals, norm" in text
    assert ["input", "256x192"] in [row[:2] for row in effect_rows(found)]


def test_a_study_of_one_trial_has_no_figures() -> None:
    found = analyse([trial(0, 0.3, 5.0)], OBJECTIVES)
    assert found is not None
    text = markdown_analysis(found)
    assert "fewer than 4 trials" in text
    assert "What explains" not in text


@pytest.mark.parametrize(
    ("share", "text"), [(None, NONE), (Interval(0.615, None, 3), "62"), (Interval(-0.02, 0.114, 3), "-2 ± 11")]
)
def test_percent(share: Interval | None, text: str) -> None:
    assert percent(share) == text
