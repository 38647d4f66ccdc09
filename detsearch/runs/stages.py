"""``detsearch search all``: both stages of SM-NAS from one recipe with one budget."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Final

from detsearch.runs.modules import modular_recipe
from detsearch.runs.recipe import override
from detsearch.runs.settings import TRIALS, BudgetSettings, SearchRecipe, StagesRecipe

STRUCTURE_FOLDER: Final = "structure"
MODULES_FOLDER: Final = "modules"


def first_stage(recipe: StagesRecipe) -> SearchRecipe:
    """The search of structures, with its share of the budget; RecipeError for what cannot be."""
    raw = copy.deepcopy(recipe.structure) | {"budget": _part(recipe.budget, recipe.share, first=True)}
    return override(SearchRecipe, raw, (), None, "structure")


def second_stage(recipe: StagesRecipe, study: Path) -> SearchRecipe:
    """The search inside the structures along the front of `study`, with the rest of the budget; StudyError where there
    is no front, RecipeError for what cannot be."""
    raw = recipe.modules | {"budget": _part(recipe.budget, recipe.share, first=False)}
    return modular_recipe(study, count=recipe.count, raw=raw, where="modules")


def _part(budget: BudgetSettings, share: float, *, first: bool) -> dict[str, Any]:
    """What a stage has of a budget; of trials and epochs both together have all, and each at least one."""

    def whole(number: int | None) -> int | None:
        if number is None:
            return None
        one = min(max(1, round(number * share)), max(1, number - 1))
        return one if first else max(1, number - one)

    trials = budget.trials if budget.trials or budget.epochs else TRIALS
    hours = None if budget.hours is None else budget.hours * (share if first else 1 - share)
    return {"trials": whole(trials), "epochs": whole(budget.epochs), "hours": hours}
