"""A result that was kept is not made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from detsearch.errors import StudyError
from tests.benchmarks.scripts import Load


def test_results_are_kept(tmp_path: Path, load: Load) -> None:
    kept = load("kept").kept
    made: list[int] = []

    def make() -> dict[str, int]:
        made.append(1)
        return {"value": len(made)}

    path = tmp_path / "runs" / "one.json"
    first = kept(path, {"size": (1, 2)}, make)
    assert (first["value"], first["settings"]) == (1, {"size": [1, 2]})
    assert {"date", "device", "commit"} <= set(first)
    assert kept(path, {"size": (1, 2)}, make) == first
    assert made == [1]
    for other in ({"size": (1, 3)}, {"size": (1, 2), "more": None, "seed": 1}, {}):
        with pytest.raises(StudyError, match="choose another --runs folder"):
            kept(path, other, make)
    for damaged in ("", "[]", "{}", "{"):
        path.write_text(damaged)
        with pytest.raises(StudyError, match="another or a damaged file"):
            kept(path, {"size": (1, 2)}, make)
