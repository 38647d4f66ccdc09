"""FAD's tables for a dataset are made to their end: every arm of their recipes is searched and trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detsearch.report.comparison import markdown_comparison
from detsearch.runs.compare import compare
from detsearch.runs.recipe import load_recipe
from detsearch.runs.settings import CompareRecipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SMALL = [
    "input=128x128",
    "base.weights=none",
    "base.device=cpu",
    "base.training.epochs=1",
    "base.training.batch=4",
    "base.training.frozen_stages=0",
    "base.training.frozen_bn=false",
    "base.training.workers=0",
    "base.training.warmup_steps=1",
]
SEARCHED = ["iterations=2", "check=1", "batch=1", "input=null", "frozen_stages=0", "frozen_bn=false", "workers=0"]
PUBLISHED = {
    "darts": 7,
    "rf-3-to-5": 4,
    "rf-3-to-7": 8,
    "separable": 6,
    "standard": 6,
    "not-decoupled": 12,
    "full": 12,
    "not-shared": 12,
}
"""Transformations that an edge chooses among, as in the paper's table of search spaces."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "cells"), [("heads-space", [f"base.cells.{one}" for one in SEARCHED]), ("heads-size", [])]
)
def test_every_arm_gets_to_its_end(tmp_path: Path, data_file: Path, name: str, cells: list[str]) -> None:
    chosen = load_recipe(CompareRecipe, RECIPES / f"{name}.yaml", [*SMALL, *cells, f"base.data.file={data_file}"])
    found = compare(chosen, tmp_path / "out")
    assert not found.failed
    assert [row.arm for row in found.rows] == list(chosen.arms)
    assert all(row.figures["val ap"] is not None for row in found.rows)
    table = markdown_comparison(found)
    assert all(f"| {arm} |" in table for arm in chosen.arms)
    searched: dict[str, Any] = {row.arm: row.costs.get("search_seconds") for row in found.rows}
    if name == "heads-space":
        assert {arm for arm, seconds in searched.items() if seconds is None} == {"fcos", "random"}
        counts = {row.arm: row.costs["transformations"].mean for row in found.rows if row.arm in PUBLISHED}
        assert counts == PUBLISHED
