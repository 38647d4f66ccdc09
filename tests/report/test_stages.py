"""Stage two's front over stage one's points."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from detsearch.report.html import html_report
from detsearch.report.scene import CHOSEN_MARK, HUES, KNOWN_MARK
from detsearch.report.stages import stages_figure, stages_scene
from detsearch.report.static_plot import save_stages
from detsearch.report.view import FirstStage, StudyView
from detsearch.search.lift import Lift
from detsearch.search.objective import Objective
from detsearch.search.trial import Trial
from tests.report.fakes import trial, view

INSIDE = (Objective("ap", True), Objective("macs", False))
FIRST = FirstStage(
    folder="runs/one",
    trials=(trial(0, 0.30, 5.0, macs=10**9), trial(1, 0.40, 9.0, macs=3 * 10**9), trial(2, 0.35, macs=10**9)),
    chosen=frozenset({1}),
    training="5 epochs from ImageNet weights",
)


def second() -> list[Trial]:
    return [
        trial(0, 0.35, 9.0, macs=3 * 10**9),
        trial(1, 0.38, 8.0, macs=2 * 10**9),
        trial(2, 0.45, 9.0, macs=4 * 10**9),
    ]


def both() -> tuple[StudyView, list[Trial]]:
    trials = second()
    parts = {"one/<b>structure": frozenset({0, 1, 2})}
    lifts = {"one/<b>structure": Lift(trials[0], 2, trials[2], trials[1])}
    return view(
        trials,
        objectives=INSIDE,
        first=FIRST,
        parts=parts,
        lifts=lifts,
        training="9 epochs from scratch",
    ), trials


def test_both_searches_are_on_the_axes_of_the_second() -> None:
    picture = stages_scene(*both())
    assert picture is not None
    assert (picture.x.name, picture.y.name) == ("macs", "ap")
    assert [t.number for t in picture.first] == [0, 1], "the third one's MACs are not known"
    assert [t.number for t in picture.chosen] == [1]
    assert picture.parts == {"one/<b>structure": (HUES[0], second())}
    assert [t.number for t in picture.baselines] == [0]
    assert picture.step[:3] == [(2.0, 0.38), (4.0, 0.38), (4.0, 0.45)]
    assert picture.first_step[:3] == [(1.0, 0.30), (3.0, 0.30), (3.0, 0.40)]
    assert [entry.symbol for entry in picture.key()] == ["circle", CHOSEN_MARK, KNOWN_MARK, "circle"]
    drawn = json.loads(stages_figure(picture).to_json())
    points = [(trace["x"], trace["y"]) for trace in drawn["data"] if trace["mode"] == "markers"]
    assert points[0] == ([1.0, 3.0], [0.30, 0.40])
    assert points[1] == ([3.0, 2.0, 4.0], [0.35, 0.38, 0.45])


def test_it_is_on_the_page_with_how_each_was_trained() -> None:
    text = html_report(*both())
    assert 'id="stages-data"' in text
    assert "5 epochs from ImageNet weights; this search: 9 epochs from scratch" in text
    assert "<b>structure" not in text


def test_without_a_first_stage_there_is_none() -> None:
    trials = second()
    assert stages_scene(view(trials, objectives=INSIDE), trials) is None
    assert stages_scene(view(trials, objectives=INSIDE[:1], first=FIRST), trials) is None
    assert stages_scene(view([], objectives=INSIDE, first=FIRST), []) is not None, "the second has just begun"
    assert 'id="stages-data"' not in html_report(view(trials, objectives=INSIDE), trials)


def test_still_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for known, trials in (both(), (view([], objectives=INSIDE, first=FIRST), [])):
        picture = stages_scene(known, trials)
        assert picture is not None
        save_stages(tmp_path / "a.svg", picture)
        assert "searched inside" in " ".join(ElementTree.parse(tmp_path / "a.svg").getroot().itertext())
