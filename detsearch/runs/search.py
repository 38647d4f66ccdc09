"""``detsearch search structure``: a structural search from a recipe, in a folder that can be resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from detsearch.arch.partial_order import leq
from detsearch.arch.spaces.structural import StructuralSpace
from detsearch.cost.latency import device_name
from detsearch.data.dataset import Dataset, require_same_classes
from detsearch.errors import CheckpointError, StudyError
from detsearch.files import write_json
from detsearch.runs.candidate import TrainedCandidates
from detsearch.runs.data import load_split
from detsearch.runs.device import resolve_device
from detsearch.runs.fit import score_with
from detsearch.runs.recipe import load_recipe, override, write_recipe
from detsearch.runs.settings import Run, SearchRecipe, TrainRecipe
from detsearch.runs.train import RECIPE
from detsearch.search.evolution import Evolution
from detsearch.search.execution.processes import ProcessExecutor
from detsearch.search.ledger import Ledger, read_study
from detsearch.search.objective import Limit, Objective
from detsearch.search.pareto import front
from detsearch.search.random_search import RandomSearch
from detsearch.search.study import Ending, OnEvent, Search, run_study
from detsearch.search.trial import Strategy
from detsearch.training.checkpoint import load_detector
from detsearch.training.loop import CHECKPOINT
from detsearch.types import Fidelity

TEST_SCORES: Final = "test.json"
DATA_SUMMARY: Final = "data.json"
PRELOAD: Final = ("detsearch.runs.candidate",)
"""What a trial's process needs; imported once, in the parent that all of them are forked from."""


@dataclass(frozen=True)
class Finished:
    """Where a search ended: `space` is its size; `trained` and `front` count trials."""

    folder: Path
    ending: Ending
    space: int
    trained: int
    front: int


def search_structure(recipe: SearchRecipe, folder: Path, *, on_event: OnEvent = lambda _: None) -> Finished:
    """Search as `recipe` says, in `folder`; called again, it goes on where it was. With a test split the front is
    scored on it at the end.

    UserErrors for anything wrong with recipe, data, device or folder come before anything is trained.
    """
    space = StructuralSpace.from_choices(recipe.space)
    objectives = tuple(Objective.parse(text) for text in recipe.objectives)
    device = resolve_device(recipe.device)
    splits = _splits(recipe)
    candidates = TrainedCandidates(recipe, len(splits[recipe.data.train].classes), device)
    search = Search(
        strategy=_strategy(recipe, space, objectives),
        cost=candidates.cost,
        evaluate=candidates.evaluate,
        fidelity=Fidelity(recipe.training.epochs),
        seed=recipe.seed,
        leq=leq if recipe.search.prune else None,
        slack=recipe.search.slack,
        limits=tuple(Limit.parse(text) for text in recipe.limits),
    )
    summary = {name: _summary(dataset) for name, dataset in splits.items()}
    with Ledger(folder, _identity(recipe, space, device, summary), objectives) as ledger:
        write_recipe(recipe, folder / RECIPE)
        write_json(folder / DATA_SUMMARY, summary)
        workers = recipe.execution.workers
        executor = ProcessExecutor(
            [device] * workers,
            threads=max(1, (os.cpu_count() or 1) // workers),
            time_limit=None if recipe.execution.trial_minutes is None else recipe.execution.trial_minutes * 60,
            preload=PRELOAD,
        )
        try:
            hours = recipe.budget.hours
            ending = run_study(
                ledger,
                search,
                executor,
                trials=recipe.budget.trials,
                seconds=None if hours is None else hours * 3600,
                on_event=on_event,
            )
        finally:
            executor.close()
        trials = ledger.trials()
    if ending is not Ending.INTERRUPTED and recipe.data.test is not None:
        score_front(folder, splits[recipe.data.test], recipe, device)
    return Finished(
        folder=folder,
        ending=ending,
        space=space.size(),
        trained=sum(trial.metrics is not None for trial in trials),
        front=len(front(trials, objectives)),
    )


def score_front(folder: Path, test_set: Dataset, run: Run, device: str) -> dict[int, dict[str, Any]]:
    """Figures of the front's checkpoints on a split that no choice was made on; kept in the study's folder, so that
    each is computed once."""
    study = read_study(folder)
    known = read_test_scores(folder)
    found: dict[int, dict[str, Any]] = {}
    for trial in front(study.trials, study.objectives):
        if trial.number in known:
            found[trial.number] = known[trial.number]
            continue
        try:
            detector, _ = load_detector(folder / "trials" / f"{trial.number:04d}" / CHECKPOINT)
        except CheckpointError as error:
            found[trial.number] = {"error": str(error)}
            continue
        score = score_with(run, detector, trial.spec.input, test_set, device)
        found[trial.number] = {"split": test_set.split, **score.to_json()}
    write_json(folder / TEST_SCORES, {str(number): figures for number, figures in found.items()})
    return found


def read_test_scores(folder: Path) -> dict[int, dict[str, Any]]:
    """What `score_front` left in a study's folder; nothing where it left nothing."""
    try:
        raw = json.loads((folder / TEST_SCORES).read_text(encoding="utf-8"))
        return {int(number): dict(figures) for number, figures in raw.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise StudyError(
            str(folder / TEST_SCORES), "figures by trial", str(error), "delete it; it is made anew"
        ) from None


def recipe_of_trial(
    study: Path, number: int, settings: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> TrainRecipe:
    """The recipe that trains one trial of a study alone: its code, and the search's data and training."""
    trials = read_study(study).trials
    if not 0 <= number < len(trials):
        raise StudyError(f"{study} trial", f"a number from 0 to {len(trials) - 1}", str(number))
    search = load_recipe(SearchRecipe, study / RECIPE)
    shared = {name: getattr(search, name) for name in Run.model_fields}
    recipe = TrainRecipe(detector=trials[number].code, **shared)
    return override(TrainRecipe, recipe.model_dump(mode="json"), settings, options)


def _splits(recipe: SearchRecipe) -> dict[str, Dataset]:
    names = [recipe.data.train, recipe.data.val, *([] if recipe.data.test is None else [recipe.data.test])]
    splits = {name: load_split(recipe.data.file, name) for name in names}
    for name in names[1:]:
        require_same_classes(splits[names[0]], splits[name])
    return splits


def _strategy(recipe: SearchRecipe, space: StructuralSpace, objectives: tuple[Objective, ...]) -> Strategy:
    if recipe.search.strategy == "random":
        return RandomSearch(space=space)
    return Evolution(space=space, objectives=objectives, initial=recipe.search.initial)


def _identity(recipe: SearchRecipe, space: StructuralSpace, device: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What must stay the same for the trials of a folder to be comparable. Budget, strategy, limits and workers may
    change between two runs of the command."""
    same = recipe.model_dump(mode="json", include={"data", "augmentation", "training", "weights", "latency", "seed"})
    return {
        "kind": "structure",
        "space": space.to_choices(),
        **same,
        "images": dict(summary),
        "device": device,
        "device_name": device_name(device),
    }


def _summary(dataset: Dataset) -> dict[str, Any]:
    return {
        "images": len(dataset),
        "boxes": sum(len(record.labels) for record in dataset.records),
        "classes": list(dataset.classes),
    }
