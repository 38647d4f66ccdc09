"""Planted teachers at a small size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.scripts import Load, ran


def test_a_small_teacher_is_found(tmp_path: Path) -> None:
    space = ["--nodes", "1", "--operations", "rf5", "--iterations", "60"]
    places = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "found")]
    ran("teachers", "--seeds", "1", "--first", "14", *space, "--fit", "5", "--controls", "decoupled", "stale", *places)
    (row,) = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert row["decoupled"]["before"] == row["stale"]["before"] == 0, "the search does not begin with the answer"
    assert row["decoupled"]["recovered"] == 1.0
    assert row["stale"]["recovered"] < 1
    assert row["decoupled"]["loss"] < row["stale"]["loss"]
    assert 0.4 < row["chance"] < 0.6
    assert len(row["fit"]["random"]) == 10
    assert "| random cells |" in (tmp_path / "found.md").read_text()


def test_teachers_go_on_where_they_were_stopped(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    teachers = load("teachers")
    asked: list[int] = []

    def experiment(space: Any, seed: int, options: Any) -> dict[str, Any]:
        asked.append(seed)
        if asked == [0, 1]:
            raise KeyboardInterrupt
        fit = {"derived": 1.0, "teacher": 0.5, "random": [2.0] * 10, "better_than": 9 - seed % 2}
        found = {"decoupled": {"recovered": 0.5 + seed / 8, "before": 0}, "direct": {"recovered": 0.5, "before": 0.5}}
        return {"seed": seed, **found, "chance": 0.25, "fit": fit}

    monkeypatch.setattr(teachers, "experiment", experiment)
    options = ["--seeds", "3", "--first", "0", "--controls", "decoupled", "direct"]
    places = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "found")]
    with pytest.raises(KeyboardInterrupt):
        teachers.main([*options, *places])
    assert not (tmp_path / "found.json").exists()
    for _ in range(2):
        teachers.main([*options, *places])
        assert asked == [0, 1, 1, 2]
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    page = (tmp_path / "found.md").read_text()
    assert "| decoupled | 0.62 ± 0.31 | 0.50 to 0.75 | 0.00 ± 0.00 |" in page  # 4.303 * 0.125 / sqrt(3)
    assert "| direct | 0.50 ± 0.00 | 0.50 to 0.50 | 0.50 ± 0.00 | 0.12 ± 0.31 | 2, 1, 0 |" in page
    assert "than 9 or more in 2 of 3 teachers, 8.7 in the mean" in page
    assert "2.00 times that of the teacher's own cell" in page
    with pytest.raises(SystemExit, match="2"):
        teachers.main([*options, *places, "--iterations", "7"])
