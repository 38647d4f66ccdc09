"""``detsearch compare``: the same run in several arms, each over the same seeds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

from detsearch.arch.code import format_detector
from detsearch.arch.presets import resolve
from detsearch.errors import RecipeError, ResourceError, SpecError, StudyError
from detsearch.runs.comparison import COSTS, Arm, Comparison, collect, column
from detsearch.runs.device import resolve_device, threads_each
from detsearch.runs.folders import METRICS, RECIPE, claim
from detsearch.runs.found import arm_fields, of_arm
from detsearch.runs.heads import FOUND, check_search, same_search, search_head
from detsearch.runs.interrupt import Stop
from detsearch.runs.recipe import load_recipe, override, put
from detsearch.runs.settings import CompareRecipe, HeadSearchRecipe, Run, TrainRecipe
from detsearch.runs.train import check_training, same_training, train_recipe
from detsearch.search.execution.base import Broken, Done, Event, Progress, Unusable
from detsearch.search.execution.processes import ProcessExecutor
from detsearch.search.trial import TrialContext, TrialInterrupted
from detsearch.types import InputSize

TRAINED: Final = "trained"
"""Where, in the folder of an arm that searches, its training is."""
PRELOAD: Final = ("detsearch.runs.compare",)


def compare(recipe: CompareRecipe, folder: Path, *, tell: Callable[[str], None] = lambda _: None) -> Comparison:
    """Run what is not done yet, all arms of a seed before the next seed, in `folder`; called again with the same
    recipe, or one with more arms and seeds, it goes on. `tell` hears what begins and ends.

    UserErrors for whatever the user can have got wrong, which name the arm, before the first run begins;
    TrialInterrupted after Ctrl-C, the runs' state saved; ResourceError where the machine lacks something later. A run
    that fails on its way ends nothing but itself, and is one of those that `failed`.
    """
    runs = runs_of(recipe)
    for field in recipe.columns or ():
        for run in runs.values():
            column(run, field)
    finished = {key: folder / key if recipe.kind == "train" else folder / key / TRAINED for key in runs}
    todo = [key for key, path in finished.items() if not (path / METRICS).exists()]
    device = _check(runs, todo)
    claim(folder, recipe, _same_comparison, "choose another --out; only arms and seeds may be added")
    for key, run in runs.items():
        _require_same(folder / key, run)
    failed = _run_all(recipe, folder, {key: runs[key] for key in todo}, device, tell)
    searched = {key: folder / key / FOUND for key in runs} if recipe.kind == "head" else {}
    return collect(recipe, runs, finished, searched, failed, device, folder / COSTS)


def runs_of(recipe: CompareRecipe) -> dict[str, Arm]:
    """The recipes of all runs by their names, ``ARM-SEED``, all arms of a seed before the next seed. RecipeError for an
    arm that cannot be."""
    kind = TrainRecipe if recipe.kind == "train" else HeadSearchRecipe
    arms = {name: arm_fields(name, fields) for name, fields in recipe.arms.items()}
    size = None if recipe.input is None else InputSize.parse(recipe.input)
    runs: dict[str, Arm] = {}
    for seed in recipe.seeds:
        for name, fields in arms.items():
            raw = copy.deepcopy(recipe.base)
            for field, value in {**fields, "seed": seed}.items():
                put(raw, field, value)
            run = override(kind, raw, (), None, f"arm {name}")
            assert isinstance(run, TrainRecipe | HeadSearchRecipe)
            try:
                spec = resolve(run.detector, size)
                if isinstance(run, TrainRecipe) and run.norm is not None:
                    spec = spec.with_network(norm=run.norm)
            except SpecError as error:
                raise RecipeError(f"arm {name}", "a detector", f"{run.detector!r} ({error})") from None
            whole = {"detector": format_detector(spec)} | ({"norm": None} if isinstance(run, TrainRecipe) else {})
            runs[f"{name}-{seed}"] = run.model_copy(update=whole)
    return runs


def run_arm(run: Arm, context: TrialContext) -> None:
    """One run of one arm, in a process of its own."""
    if isinstance(run, TrainRecipe):
        train_recipe(run, context.folder, within=context)
        return
    total = run.cells.iterations
    found = search_head(run, context.folder, within=context, warn=lambda text: context.report(0, total, text))
    train_recipe(_training_of(run, str(found.facts["detector"])), context.folder / TRAINED, within=context)


def _training_of(run: HeadSearchRecipe, detector: str) -> TrainRecipe:
    """How what a search found is trained."""
    return TrainRecipe(detector=detector, **{name: getattr(run, name) for name in Run.model_fields})


def _check(runs: Mapping[str, Arm], todo: Collection[str]) -> str:
    """Look at all that the user can have got wrong in what is still `todo`; the device, which is that of all runs."""
    devices: set[str] = set()
    trained: set[str] = set()
    for key, run in runs.items():
        arm, _, _ = key.rpartition("-")
        with of_arm(arm):
            devices.add(resolve_device(run.device))
            if key not in todo:
                continue
            if isinstance(run, HeadSearchRecipe):
                check_search(run)  # of every seed: each draws halves of its own
            if arm not in trained:
                check_training(run if isinstance(run, TrainRecipe) else _training_of(run, run.detector))
                trained.add(arm)
    if len(devices) > 1:
        raise RecipeError("arms", "one device for all", ", ".join(sorted(devices)))
    return devices.pop()


def _run_all(
    recipe: CompareRecipe,
    folder: Path,
    runs: Mapping[str, Arm],
    device: str,
    tell: Callable[[str], None],
) -> dict[str, str]:
    """All of `runs`; what failed, by run, with the reason."""
    keys = list(runs)
    todo = list(range(len(keys)))
    failed: dict[str, str] = {}
    lacking: list[ResourceError] = []

    def heard(event: Event) -> None:
        key = keys[event.number]
        match event:
            case Progress():
                tell(f"{key}: {event.message}")
            case Done():
                tell(f"{key}: done")
            case Broken():
                failed[key] = event.reason
                tell(f"{key}: failed: {event.reason}")
            case Unusable():
                lacking.append(event.error)

    executor = ProcessExecutor([device] * recipe.workers, threads=threads_each(recipe.workers), preload=PRELOAD)
    with Stop() as stop, closing(executor):
        while todo or executor.running():
            if stop.requested() or lacking:
                todo = []
                executor.stop()
            while todo and len(executor.running()) < executor.slots():
                number = todo.pop(0)
                tell(f"{keys[number]}: begun")
                executor.submit(number, folder / keys[number], run_arm, (runs[keys[number]],))
            executor.poll(heard, 0.2)
        if lacking:
            raise lacking[0]
        if stop.requested():
            raise TrialInterrupted("stopped on request")
    return failed


def _require_same(folder: Path, run: Arm) -> None:
    """StudyError where the folder of a run holds one of other settings: an arm that was changed, or one named by a
    study's front that has changed."""
    if not (folder / RECIPE).exists():
        return
    if isinstance(run, TrainRecipe):
        same = same_training(load_recipe(TrainRecipe, folder / RECIPE), run)
    else:
        same = same_search(load_recipe(HeadSearchRecipe, folder / RECIPE), run)
        if same and (folder / TRAINED / RECIPE).exists():
            held = load_recipe(TrainRecipe, folder / TRAINED / RECIPE)
            same = same_training(held, _training_of(run, held.detector))
    if not same:
        hint = "give the changed arm another name, choose another --out, or delete this folder"
        raise StudyError(str(folder), "a run of the settings that its arm has now", "one of others", hint)


def _same_comparison(held: CompareRecipe, recipe: CompareRecipe) -> bool:
    """Do both compare the same, but for arms and seeds?"""
    return (held.kind, held.base, held.input) == (recipe.kind, recipe.base, recipe.input)
