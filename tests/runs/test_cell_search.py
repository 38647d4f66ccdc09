"""A search over the cells of one detector's head."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from detsearch.errors import RecipeError
from detsearch.report.study import write_report
from detsearch.runs.recipe import load_recipe
from detsearch.runs.search import search_structure
from detsearch.runs.settings import SearchRecipe
from detsearch.search.ledger import read_study
from detsearch.search.trial import TrialState

HEAD = "basicblock_4_1-2-2-2/fpn(levels=4-5,width=8)/fcos(tower=cells(%swidth=8,repeats=1))/gn@64x64"


@pytest.fixture
def recipe(tmp_path: Path, search_file: Path) -> SearchRecipe:
    """Of a space far too large to list, around a detector in a file."""
    raw = yaml.safe_load(search_file.read_text())
    (tmp_path / "mine.txt").write_text(HEAD % "")
    raw["space"] = {"cells": {"detector": str(tmp_path / "mine.txt")}}
    raw["training"]["epochs"], raw["device"] = 1, "cpu"
    raw["search"]["initial"], raw["budget"], raw["execution"] = 1, {"trials": 2}, {"workers": 1}
    del raw["data"]["test"]
    search_file.write_text(yaml.safe_dump(raw))
    return load_recipe(SearchRecipe, search_file)


def test_cells_are_drawn_mutated_and_trained(tmp_path: Path, recipe: SearchRecipe) -> None:
    out = tmp_path / "study"
    finished = search_structure(recipe, out)
    assert (finished.space, finished.trained) == ((18 * 12**6) ** 2, 2)
    trials = read_study(out).trials
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert all(trial.code.startswith(HEAD.partition("%")[0] + "boxes=") for trial in trials)
    assert [trial.origin for trial in trials] == ["random", "mutation"]
    _, markdown = write_report(out)
    assert "tower=cells" in markdown.read_text()
    # The recipe beside the results no longer needs the file that held the detector.
    assert load_recipe(SearchRecipe, out / "recipe.yaml").space["cells"]["detector"] == HEAD % ""


@pytest.mark.parametrize("strategy", ["all", "nsga2", "tpe"])
def test_what_lists_a_space_refuses_one_that_is_too_large(tmp_path: Path, recipe: SearchRecipe, strategy: str) -> None:
    recipe = recipe.model_copy(update={"search": recipe.search.model_copy(update={"strategy": strategy})})
    with pytest.raises(RecipeError, match=f"expected at most 200000 detectors for strategy {strategy}, got 2888"):
        search_structure(recipe, tmp_path / "study")
    assert not (tmp_path / "study").exists()
