"""Whose a folder is: it holds one kind of run and no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel

from detsearch.errors import RecipeError, StudyError
from detsearch.runs.recipe import load_recipe, write_recipe
from detsearch.search.storage import DATABASE
from detsearch.supernet.search import STATE
from detsearch.training.loop import CHECKPOINT, LOG

RECIPE: Final = "recipe.yaml"
METRICS: Final = "metrics.json"
STRUCTURE_FOLDER: Final = "structure"
MODULES_FOLDER: Final = "modules"

_STAGES: Final = f"{STRUCTURE_FOLDER}/{DATABASE}"
_SIGNS: Final = (DATABASE, _STAGES, RECIPE, CHECKPOINT, METRICS, STATE, LOG)
"""What a run leaves, one of them before anything else: a study its ledger, any other its recipe."""

R = TypeVar("R", bound=BaseModel)


def claim(
    folder: Path,
    recipe: R,
    same: Callable[[R, R], bool],
    hint: str = "choose another --out, or repeat the command that it was made with",
) -> None:
    """Write the recipe of a run that is no study into its folder, made if need be; StudyError, and nothing written, if
    that holds a study, the run of another recipe (`same` is asked of the one there and of `recipe`), or what a run
    without a recipe left."""
    path = folder / RECIPE
    held = None
    if (folder / DATABASE).exists():
        held = "a study's"
    elif (folder / _STAGES).exists():
        held = "that of a search in two stages"
    elif path.exists():
        held = None if _is_same(path, recipe, same) else "another run's"
    elif (sign := _sign(folder)) is not None:
        held = f"one with a {sign} and no {RECIPE}"
    if held is not None:
        raise StudyError(str(folder), "an empty folder or one of the same recipe", held, hint)
    write_recipe(recipe, path)


def expect_study(folder: Path) -> None:
    """StudyError for a folder that a run is in, and no study."""
    _expect(folder, DATABASE, "a new folder or a study's")


def expect_stages(folder: Path) -> None:
    """StudyError for a folder that a run is in, and no search in two stages, each of which is a study below it."""
    _expect(folder, _STAGES, "a new folder or one of the same command")


def _expect(folder: Path, own: str, expected: str) -> None:
    if not (folder / own).exists() and (sign := _sign(folder)) is not None:
        raise StudyError(str(folder), expected, f"one with a {sign} and no {own}", "choose another --out")


def _sign(folder: Path) -> str | None:
    return next((name for name in _SIGNS if (folder / name).exists()), None)


def _is_same(path: Path, recipe: R, same: Callable[[R, R], bool]) -> bool:
    try:
        return same(load_recipe(type(recipe), path), recipe)
    except RecipeError:  # of another kind, or nobody's: whose it is matters less than that it is not ours
        return False
