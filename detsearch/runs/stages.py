"""``detsearch search all``: both stages of SM-NAS from one recipe with one budget."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

from detsearch.arch.code import format_detector, format_module
from detsearch.arch.modules.backbones import coded
from detsearch.arch.spaces.modular import ModularSpace
from detsearch.arch.spaces.section import expect_listable, read_space, representatives
from detsearch.arch.spec import DetectorSpec, ModuleSpec
from detsearch.errors import RecipeError, SpecError, UserError
from detsearch.runs.checks import check_mask_objectives, check_run, load_splits
from detsearch.runs.execution import resolve_devices
from detsearch.runs.modules import inside_of, modular_recipe, recipe_over
from detsearch.runs.recipe import override
from detsearch.runs.settings import TRIALS, BudgetSettings, SearchRecipe, StagesRecipe
from detsearch.runs.strategies import LISTING, read_start
from detsearch.search.ledger import read_study
from detsearch.search.objective import Objective
from detsearch.search.study import added_epochs, counts
from detsearch.search.trial import Trial

_NAMED: Final = 5
"""So many structures that cannot be gone inside are named."""


def first_stage(recipe: StagesRecipe, options: Mapping[str, Any] | None = None) -> SearchRecipe:
    """The search of structures, with its share of the budget, and what the command line's `options` say of both stages;
    RecipeError for what cannot be."""
    raw = copy.deepcopy(recipe.structure) | {"budget": _share(recipe)}
    return override(SearchRecipe, raw, (), options, "structure")


def second_stage(
    recipe: StagesRecipe,
    study: Path,
    *,
    hours: float = 0.0,
    options: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> SearchRecipe:
    """The search inside the structures along the front of `study`, with the rest of the budget: what the first stage
    left of trials and epochs, and of the time when it had `hours` of it. `options`, and `folder` and `tell`, as in
    `modular_recipe`. StudyError where there is no front, RecipeError for what cannot be."""
    raw = recipe.modules | {"budget": _rest(recipe, read_study(study).trials, hours)}
    return modular_recipe(
        study, count=recipe.count, raw=raw, where="modules", options=options, folder=folder, tell=tell
    )


def check_second_stage(
    recipe: StagesRecipe,
    first: SearchRecipe,
    options: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> None:
    """Look at the second stage before the `first` has cost hours: whatever would fail inside of every structure that
    the first may find is an error, and `tell` hears of structures that cannot be gone inside, where there are others.
    Looked at are every backbone at every input, and every neck.

    RecipeError, and what else `runs.checks` raises.
    """
    two = recipe_over(first, recipe.modules, "modules", (), options)
    members = _coded(list(representatives(read_space(first.space))), tell)
    objectives = tuple(Objective.parse(text) for text in two.objectives)
    try:
        spaces = _insides(two, members, tell)
        # A mask branch in some will do.
        check_mask_objectives(objectives, [max((m.network for m in members), key=lambda network: network.has_masks)])
        for number, start in enumerate(read_start(two.search)):
            _expect_inside_some(start, number, spaces)
        if two.search.strategy in LISTING:
            expect_listable(spaces[0], f"strategy {two.search.strategy}")
    except RecipeError as error:
        raise RecipeError(f"modules.{error.where}", error.expected, error.received, error.hint) from None
    if two.data != first.data:
        load_splits(two, masks=False)
    device, _ = resolve_devices(two)
    faults: list[UserError] = []
    for space in spaces:
        try:
            check_run(two, [spec.network for spec in representatives(space)], device)
        except UserError as error:
            faults.append(error)
        else:
            return
    raise faults[0]


def _coded(members: Sequence[DetectorSpec], tell: Callable[[str], None]) -> list[DetectorSpec]:
    """Those whose backbone has a code; RecipeError where none has."""
    without: dict[ModuleSpec, SpecError] = {}
    for backbone in dict.fromkeys(member.network.backbone for member in members):
        try:
            coded(backbone)
        except SpecError as error:
            without[backbone] = error
    able = [member for member in members if member.network.backbone not in without]
    names = ", ".join(map(format_module, without))
    if not able:
        fault = next(iter(without.values()))
        hint = "stage two has nothing to search: name such backbones, or search for structures alone"
        raise RecipeError("structure.space", f"a {fault.where} that is {fault.expected}", names, hint)
    if without:
        tell(f"the second stage leaves out structures whose backbone has no block code: {names}")
    return able


def _insides(two: SearchRecipe, members: Sequence[DetectorSpec], tell: Callable[[str], None]) -> list[ModularSpace]:
    """What the second stage makes of structures that show whatever may be wrong with one; RecipeError where it cannot
    go inside of any."""
    found: list[ModularSpace] = []
    faults: dict[str, RecipeError] = {}
    for member in _covering(members):
        try:
            found.append(inside_of(two, member))
        except RecipeError as error:
            faults[format_detector(member)] = error
    if not found:
        raise next(iter(faults.values()))
    for name, fault in islice(faults.items(), _NAMED):
        tell(f"the second stage leaves out structures such as {name}: {fault}")
    if len(faults) > _NAMED:
        tell(f"and {len(faults) - _NAMED} such structures more")
    return found


def _expect_inside_some(start: DetectorSpec, number: int, spaces: Sequence[ModularSpace]) -> None:
    """RecipeError for a start that is inside of no structure, whichever the first stage chooses: of which ones the
    starts are is not known yet, but codes and widths are alike inside of all with one kind of block."""
    if all(space.inner_fault(start) for space in spaces):
        why = max(spaces, key=lambda space: space.likeness(start)).inner_fault(start)
        raise RecipeError(f"search.start[{number}]", "a detector inside of a structure", format_detector(start), why)


def _covering(members: Sequence[DetectorSpec]) -> list[DetectorSpec]:
    """Members that have every backbone at every input, and every neck, as few as is easily had: each is costly to look
    at, and the rest of a detector is the same inside."""
    chosen: dict[DetectorSpec, None] = {}
    places: set[object] = set()
    necks: set[object] = set()
    for enough in (all, any):
        for member in members:
            place, neck = (member.network.backbone, member.input), member.network.neck
            if enough((place not in places, neck not in necks)):
                chosen[member] = None
                places.add(place)
                necks.add(neck)
    return list(chosen)


def _share(recipe: StagesRecipe) -> dict[str, Any]:
    """What the first stage has of the budget, so that the second is left with a trial and an epoch at least."""

    def part(number: int | None) -> int | None:
        return None if number is None else min(max(1, round(number * recipe.share)), max(1, number - 1))

    hours = recipe.budget.hours
    return {
        "trials": part(_trials(recipe.budget)),
        "epochs": part(recipe.budget.epochs),
        "hours": None if hours is None else hours * recipe.share,
    }


def _rest(recipe: StagesRecipe, trials: Sequence[Trial], spent: float) -> dict[str, Any]:
    """What the `trials` of the first stage, and the hours that this run of the command `spent` on them, leave over; of
    time no less than the second stage's share, since the first one's last training may have taken longer."""
    begun = [trial for trial in trials if counts(trial)]
    epochs = sum(added_epochs(trial.fidelity, trial.continues, trials) for trial in begun)

    def left(number: int | None, used: int) -> int | None:
        return None if number is None else max(1, number - used)

    hours = recipe.budget.hours
    return {
        "trials": left(_trials(recipe.budget), sum(trial.continues is None for trial in begun)),
        "epochs": left(recipe.budget.epochs, epochs),
        "hours": None if hours is None else max(hours - spent, hours * (1 - recipe.share)),
    }


def _trials(budget: BudgetSettings) -> int | None:
    """Of both stages: as of any search, with or without a limit on epochs."""
    return budget.trials if budget.trials or budget.epochs else TRIALS
