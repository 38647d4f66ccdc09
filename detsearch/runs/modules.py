"""``detsearch search modules``: from a study of structures to a search inside of some of them (SM-NAS, stage two)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from detsearch.arch.code import format_detector
from detsearch.arch.modules.backbones import coded
from detsearch.arch.spaces.modular import MODULES, ModularSpace
from detsearch.arch.spaces.structures import STRUCTURES
from detsearch.arch.spec import DetectorSpec
from detsearch.errors import RecipeError, SpecError, StudyError, UserError
from detsearch.runs.folders import RECIPE
from detsearch.runs.recipe import load_recipe, override
from detsearch.runs.settings import Run, SearchRecipe
from detsearch.search.ledger import StudyRecord, read_study
from detsearch.search.pareto import Points, front, matrix, spread
from detsearch.search.storage import DATABASE
from detsearch.search.trial import Trial

OBJECTIVES: Final = ("ap:max", "macs:min")
"""Of stage two: MACs rank backbones of one kind of block as well as time does, and do not depend on the norm."""
CHOSEN: Final = 6
"""As many as the paper takes on."""

_SHARED: Final = {*Run.model_fields, "execution", "limits"}
"""What stage two has from stage one, unless it says otherwise."""
_FROM_SCRATCH: Final = {"frozen_stages": 0, "frozen_bn": False}
"""What is frozen has to come with weights."""


def _silent(_: str) -> None: ...


def modular_recipe(
    study: Path,
    *,
    count: int | None = None,
    trials: Sequence[int] = (),
    raw: Mapping[str, Any] = MappingProxyType({}),
    where: str = "recipe",
    settings: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    tell: Callable[[str], None] = _silent,
) -> SearchRecipe:
    """The recipe of stage two on a study of stage one (`recipe_over` that of the study): inside `count` structures (6)
    spread along its front, those that add most hypervolume, one after the other; or inside those of its `trials`. What
    the front has that cannot be gone inside is left out. Where `folder` holds a search inside of structures already, it
    goes on with these, whatever the front is now. `tell` hears of either.

    StudyError where the study has no complete trial or not those, or `folder` more structures than `count` or no such
    search; RecipeError for what cannot be searched.
    """
    found = read_study(study)
    candidates = _named(found, trials) if trials else _front(found)
    recipe = recipe_over(load_recipe(SearchRecipe, study / RECIPE), raw, where, settings, options)
    if trials:
        return _inside(recipe, [trial.spec for trial in candidates])
    held = None if folder is None else structures_in(folder)
    if held is None:
        points = matrix(candidates, found.objectives)
        chosen = _spread(candidates, points, CHOSEN if count is None else count, recipe, tell)
        if count is not None and len(chosen) < count:
            tell(f"{len(chosen)} structures in place of {count}: the front has no more that differ inside")
        return _inside(recipe, chosen)
    if count is not None and len(held) > count:
        hint = "say as many as it was begun with, or choose another --out"
        raise StudyError(str(folder), f"a search inside of at most {count} structures", str(len(held)), hint)
    tell(f"{folder}: goes on inside of the structures that it began with: {', '.join(held)}")
    return _inside(recipe, held)


def recipe_over(
    first: SearchRecipe,
    raw: Mapping[str, Any],
    where: str,
    settings: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> SearchRecipe:
    """A recipe of stage two that has no structures yet. Data, training, limits and the like are those of stage one's
    recipe `first`, but weights are none, and nothing is frozen; what a recipe's values `raw`, read from `where`,
    `settings` and `options` say comes before. RecipeError for what cannot be."""
    merged = first.model_dump(mode="json", include=_SHARED)
    merged |= {"weights": "none", "objectives": list(OBJECTIVES)}
    merged["training"] |= _FROM_SCRATCH
    merged |= copy.deepcopy(dict(raw))
    space = merged.setdefault("space", {})
    if isinstance(space, dict):
        space.setdefault(MODULES, {})
    recipe = override(SearchRecipe, merged, settings, options, where)
    section = recipe.space.get(MODULES)
    if not isinstance(section, dict) or not section.keys().isdisjoint({STRUCTURES, "structure"}):
        raise RecipeError(f"space.{MODULES}", f"a section without {STRUCTURES}, which the study gives", repr(section))
    return recipe


def inside_of(recipe: SearchRecipe, structure: DetectorSpec) -> ModularSpace:
    """What a recipe of stage two makes of one structure; RecipeError where it cannot be gone inside."""
    section = {**_section(recipe), "structure": format_detector(structure)}
    return ModularSpace.from_section(section, shared=True)


def structures_in(folder: Path) -> list[str] | None:
    """The structures inside of which the study in a folder searches; None where there is no study yet. StudyError where
    it is one of another kind."""
    if not (folder / DATABASE).exists():
        return None
    space = read_study(folder).identity.get("space")
    section = space.get(MODULES) if isinstance(space, dict) else None
    held = section.get(STRUCTURES) if isinstance(section, dict) else None
    if not isinstance(held, list):
        hint = "choose another --out"
        raise StudyError(str(folder), "a search inside of structures, or a new folder", "another search", hint)
    return held


def _section(recipe: SearchRecipe) -> dict[str, Any]:
    section = recipe.space[MODULES]
    assert isinstance(section, dict), "recipe_over looked"
    return section


def _inside(recipe: SearchRecipe, structures: Sequence[DetectorSpec | str]) -> SearchRecipe:
    """The recipe, inside of these structures."""
    texts = [one if isinstance(one, str) else format_detector(one) for one in structures]
    section = {**_section(recipe), STRUCTURES: list(dict.fromkeys(texts))}
    return recipe.model_copy(update={"space": {**recipe.space, MODULES: section}})


def _expect_code(trial: Trial) -> None:
    try:
        coded(trial.spec.network.backbone)
    except SpecError as error:
        hint = "choose structures with --trial"
        raise StudyError(
            f"trial {trial.number}", f"a {error.where} that is {error.expected}", error.received, hint
        ) from None


def _front(study: StudyRecord) -> list[Trial]:
    best = front(study.trials, study.objectives)
    if not best:
        hint = "let the search of structures go on until one is trained"
        raise StudyError(str(study.folder), "a complete trial", "none", hint)
    return best


def _spread(
    best: Sequence[Trial], points: Points, count: int, recipe: SearchRecipe, tell: Callable[[str], None]
) -> list[DetectorSpec]:
    """Structures along a front, whose members lie at `points`, that have different insides."""
    usable: list[int] = []
    refused: list[tuple[Trial, UserError]] = []
    for number, trial in enumerate(best):
        try:
            _expect_code(trial)
            usable.append(number)
        except StudyError as error:
            refused.append((trial, error))
    chosen: list[DetectorSpec] = []
    frames: list[DetectorSpec] = []
    for place in spread(points[usable], len(usable)) if usable else ():
        if len(chosen) == count:
            break
        trial = best[usable[place]]
        try:
            frame = inside_of(recipe, trial.spec).frame
        except RecipeError as error:
            refused.append((trial, error))
            continue
        if frame in frames:  # the same detectors would be searched twice
            same = format_detector(chosen[frames.index(frame)])
            tell(f"trial {trial.number} of the front is left out: its inside is that of {same}")
            continue
        chosen.append(trial.spec)
        frames.append(frame)
    if not chosen:
        raise refused[-1][1]  # of one with a code, if there is any: what the recipe says is wrong
    for trial, fault in refused:
        tell(f"trial {trial.number} of the front is left out: {fault}")
    return chosen


def _named(study: StudyRecord, numbers: Sequence[int]) -> list[Trial]:
    for number in numbers:
        if not 0 <= number < len(study.trials):
            raise StudyError(f"{study.folder} trial", f"a number from 0 to {len(study.trials) - 1}", str(number))
    named = [study.trials[number] for number in numbers]
    for trial in named:
        _expect_code(trial)
    return named
