from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from detsearch.errors import ResourceError
from detsearch.report.static_plot import save_front
from tests.report.fakes import study, view


def test_a_picture_is_the_same_each_time_and_keeps_its_text(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    trials = study(24)
    known = view(trials, references=())
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    save_front(first, known, trials)
    save_front(second, known, trials)
    assert first.read_bytes() == second.read_bytes()
    text = " ".join(ElementTree.parse(first).getroot().itertext())
    for part in ("Latency (ms)", "AP", "256x192", "basicblock", "pruned", "limit 60"):
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
