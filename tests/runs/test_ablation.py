"""The recipe of SM-NAS's ablation of training strategies says what the names of its arms say."""

from __future__ import annotations

import copy
from pathlib import Path

from detsearch.arch.presets import resolve
from detsearch.runs.recipe import load_recipe, override
from detsearch.runs.settings import CompareRecipe, TrainRecipe

RECIPE = Path(__file__).parents[2] / "recipes" / "ablation-bccd.yaml"


def test_arms_are_what_they_are_called() -> None:
    recipe = load_recipe(CompareRecipe, RECIPE)
    assert len(recipe.seeds) >= 5
    kinds = set()
    for name, fields in recipe.arms.items():
        run = override(TrainRecipe, copy.deepcopy(recipe.base), (), fields)
        norm, epochs, batch, lr = name.split("-")
        assert resolve(run.detector).network.norm == norm
        assert (run.training.epochs, run.training.batch) == (int(epochs), int(batch))
        assert abs(run.training.scaled_lr - float(lr)) < 1e-9
        assert run.weights == "none"
        kinds.add((norm, int(batch)))
    assert {("bn", 2), ("gn", 2), ("gn_ws", 2)} <= kinds, "norms are compared at batch 2"
