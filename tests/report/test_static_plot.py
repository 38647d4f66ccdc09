from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from detsearch.errors import ResourceError
from detsearch.report.analysis import correlation_rows
from detsearch.report.static_plot import save_correlations, save_front
from detsearch.search.analysis import analyse
from detsearch.search.trial import TrialState
from tests.report.fakes import OBJECTIVES, study, view


def test_a_picture_is_the_same_each_time_and_keeps_its_text(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    trials = study(24)
    known = view(trials)
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    save_front(first, known, trials)
    save_front(second, known, trials)
    assert first.read_bytes() == second.read_bytes()
    text = " ".join(ElementTree.parse(first).getroot().itertext())
    for part in ("Latency (ms)", "AP", "256x192", "basicblock", "pruned", "limit 60"):
        assert part in text


def test_colours_by_backbone_and_marks(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    trials = study(24)
    number = next(t.number for t in trials if t.state is TrialState.COMPLETE)
    known = view(trials, known={number: "a known one"}, chosen=frozenset({number}))
    save_front(tmp_path / "a.svg", known, trials, "backbone")
    text = " ".join(ElementTree.parse(tmp_path / "a.svg").getroot().itertext())
    for part in ("a known one", "known detector", "searched inside", "resnet18", "mobilenetv2"):
        assert part in text
    assert "256x192" not in text


def test_correlations_have_their_numbers(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = analyse(study(40), OBJECTIVES)
    assert found is not None
    save_correlations(tmp_path / "a.svg", found)
    text = " ".join(ElementTree.parse(tmp_path / "a.svg").getroot().itertext())
    for part in ("Depth", "DC1", "Len5", f"All trials ({found.trials})", correlation_rows(found)[0][2][0].text):
        assert part in text


def test_a_study_without_trials_has_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    save_front(tmp_path / "a.png", view([]), [])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_what_the_user_can_mend_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ResourceError, match=r"\.png, \.svg"):
        save_front(tmp_path / "a.gif", view([]), [])
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="which is a file"):
        save_front(tmp_path / "file" / "a.png", view([]), [])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ResourceError, match=r"detsearch\[plots\]"):
        save_front(tmp_path / "a.png", view([]), [])
