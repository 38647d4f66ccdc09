"""The recipe of SM-NAS's ablation of training strategies says what the names of its arms say."""

from __future__ import annotations

from pathlib import Path

from detsearch.runs.compare import runs_of
from detsearch.runs.comparison import column
from detsearch.runs.recipe import load_recipe
from detsearch.runs.settings import CompareRecipe

RECIPE = Path(__file__).parents[2] / "recipes" / "ablation-bccd.yaml"


def test_arms_are_what_they_are_called() -> None:
    recipe = load_recipe(CompareRecipe, RECIPE)
    assert len(recipe.seeds) >= 5
    kinds = set()
    for key, run in runs_of(recipe).items():
        name, _, _ = key.rpartition("-")
        norm, epochs, batch, lr = name.split("-")
        assert column(run, "norm") == norm
        assert (run.training.epochs, run.training.batch) == (int(epochs), int(batch))
        assert abs(run.training.scaled_lr - float(lr)) < 1e-9
        assert run.weights == "none"
        assert run.training.warmup_steps * run.training.batch == 160, "images, in batches of any size"
        kinds.add((norm, int(batch)))
    assert {("bn", 2), ("gn", 2), ("gn_ws", 2)} <= kinds, "norms are compared at batch 2"
