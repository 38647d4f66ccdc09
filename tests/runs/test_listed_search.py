"""A search over a plain list of detectors, each trained once: what `recipes/preliminary.yaml` does."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from detsearch.arch.presets import resolve
from detsearch.arch.spaces.section import read_space
from detsearch.errors import RecipeError
from detsearch.report.columns import figure_text
from detsearch.report.study import write_report
from detsearch.runs.recipe import load_recipe
from detsearch.runs.search import search_structure
from detsearch.runs.settings import SearchRecipe
from detsearch.search.ledger import read_study
from detsearch.search.study import Ending
from detsearch.search.trial import TrialState

RECIPES = Path(__file__).parents[2] / "recipes"
SLIM = [
    "basicblock_4_1-2-2-2/fpn(levels=4-5,width=8)/rpn(keep=20)/2fc(width=16)/gn@64x64",
    "basicblock_4_1-2-2-2/fpn(levels=4-5,width=8)/retinanet(depth=1)/gn@64x64",
    "basicblock_4_1-2-2-2/fpn(levels=4-5,width=8)/rpn(keep=20)/cascade(stages=2,width=16)/gn@96x64",
]


@pytest.fixture
def recipe(tmp_path: Path, search_file: Path) -> SearchRecipe:
    """Of a space of three detectors, one of them in a file, with a strategy that looks at each of them."""
    raw = yaml.safe_load(search_file.read_text())
    (tmp_path / "mine.txt").write_text(SLIM[2])
    raw["space"] = {"detectors": [*SLIM[:2], str(tmp_path / "mine.txt")]}
    raw["search"], raw["training"]["epochs"], raw["device"] = {"strategy": "all"}, 1, "cpu"
    del raw["budget"]
    search_file.write_text(yaml.safe_dump(raw))
    return load_recipe(SearchRecipe, search_file)


def test_every_detector_is_trained_once_and_stands_in_the_table(tmp_path: Path, recipe: SearchRecipe) -> None:
    assert recipe.search.prune, "which would leave some out, if the strategy let it"
    out = tmp_path / "study"
    finished = search_structure(recipe, out)
    assert (finished.ending, finished.space, finished.trained) == (Ending.EXHAUSTED, 3, 3)
    trials = read_study(out).trials
    assert [trial.code for trial in trials] == SLIM
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert all({"ap", "latency_ms"} <= set(trial.values()) for trial in trials)
    _, markdown = write_report(out)
    text = markdown.read_text()
    for trial in trials:  # side by side
        figures = [figure_text(name, trial.values()[name]) for name in ("ap", "latency_ms")]
        rows = [line for line in text.splitlines() if trial.code in line]
        assert any(all(figure in row for figure in figures) for row in rows)
    # The recipe beside the results no longer needs the file that held a detector.
    assert load_recipe(SearchRecipe, out / "recipe.yaml").space == {"detectors": SLIM}


def test_a_wrong_detector_is_named_before_anything_is_trained(tmp_path: Path, recipe: SearchRecipe) -> None:
    recipe.space["detectors"].append("faster_rcnn_r50_fnp")
    with pytest.raises(RecipeError, match=r"space\.detectors\[3\].*did you mean faster_rcnn_r50_fpn"):
        search_structure(recipe, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_the_preliminary_recipe() -> None:
    recipe = load_recipe(SearchRecipe, RECIPES / "preliminary.yaml")
    assert recipe.search.strategy == "all"
    smaller = ["faster_rcnn_r50", "retinanet_r50", "cascade_rcnn_r50", "cascade_rcnn_r18", "faster_rcnn_r18"]
    expected = [resolve(f"{name}_fpn@800x600") for name in (*smaller, "faster_rcnn_mobilenetv2")]
    assert set(read_space(recipe.space).all()) == {*expected, resolve("faster_rcnn_r101_fpn@1333x800")}
