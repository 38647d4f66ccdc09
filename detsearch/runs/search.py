"""``detsearch search structure``: a structural search from a recipe, in a folder that can be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from detsearch.arch.spaces.section import read_space, representatives
from detsearch.cost.latency import device_name
from detsearch.data.dataset import Dataset
from detsearch.errors import CheckpointError, RecipeError, StudyError
from detsearch.files import write_json
from detsearch.runs.candidate import TrainedCandidates
from detsearch.runs.checks import check_mask_objectives, check_run, load_splits
from detsearch.runs.execution import make_executor, resolve_devices
from detsearch.runs.fit import score_with
from detsearch.runs.folders import RECIPE, expect_study
from detsearch.runs.identity import deciding, located, summary
from detsearch.runs.recipe import load_recipe, override, write_recipe
from detsearch.runs.settings import TRIALS, Run, SearchRecipe, TrainRecipe
from detsearch.runs.strategies import make_search
from detsearch.search.ledger import Ledger, read_study
from detsearch.search.objective import Limit, Objective
from detsearch.search.pareto import front
from detsearch.search.study import Ending, OnEvent, run_study
from detsearch.search.trial import Trial, TrialState
from detsearch.training.checkpoint import load_detector
from detsearch.training.loop import CHECKPOINT
from detsearch.yamlfile import read_yaml

K = TypeVar("K", int, str)

TEST_SCORES: Final = "test.json"
DATA_SUMMARY: Final = "data.json"


@dataclass(frozen=True)
class Finished:
    """Where a search ended: `space` is its size; `trained` and `front` count trials; `reason` is why, where no
    trial was trained."""

    ending: Ending
    space: int
    trained: int
    front: int
    reason: str | None


def search_structure(
    recipe: SearchRecipe,
    folder: Path,
    *,
    on_event: OnEvent = lambda _: None,
    on_start: Callable[[int], None] = lambda _: None,
) -> Finished:
    """Search as `recipe` says, in `folder`; called again, it goes on where it was. With a test split the front is
    scored on it at the end. `on_start` is told the size of the space before the first trial.

    UserErrors for anything wrong with recipe, data, weights, device or folder come before anything is trained.
    """
    expect_study(folder)
    space = read_space(recipe.space)
    everything = recipe.search.strategy == "all"
    objectives = tuple(Objective.parse(text) for text in recipe.objectives)
    here, device = resolve_devices(recipe)
    networks = list(dict.fromkeys(spec.network for spec in representatives(space)))
    check_mask_objectives(objectives, networks)
    masks = any(network.has_masks for network in networks)
    splits = load_splits(recipe, masks=masks)
    check_run(recipe, networks, here)
    limits = tuple(Limit.parse(text) for text in recipe.limits)
    timed = "latency_ms" in {*(objective.name for objective in objectives), *(limit.name for limit in limits)}
    candidates = TrainedCandidates(recipe, len(splits[recipe.data.train].classes), device, masks)
    rungs = (*recipe.pauses(len(splits[recipe.data.train])), recipe.training.epochs)
    search = make_search(
        recipe.search,
        space,
        objectives,
        rungs=rungs,
        trainings=recipe.trainings,
        cost=candidates.cost,
        evaluate=candidates.evaluate,
        seed=recipe.seed,
        limits=limits,
        counted=None if timed else candidates.counted,
    )
    images = {name: summary(dataset) for name, dataset in splits.items()}
    with (
        # Before the ledger, so that nothing is written where there is no such cluster.
        closing(make_executor(recipe.execution, device, recipe.devices)) as executor,
        Ledger(folder, _identity(recipe, space.to_choices(), device, images), objectives) as ledger,
    ):
        write_recipe(located(recipe), folder / RECIPE)
        write_json(folder / DATA_SUMMARY, images)
        on_start(space.size())
        try:
            hours = recipe.budget.hours
            ending = run_study(
                ledger,
                search,
                executor,
                trials=recipe.budget.trials or (None if everything or recipe.budget.epochs else TRIALS),
                epochs=recipe.budget.epochs,
                seconds=None if hours is None else hours * 3600,
                on_event=on_event,
            )
        finally:
            executor.close()  # before the ledger lets go of the folder, as its trials write there
        trials = ledger.trials()
    if ending is not Ending.INTERRUPTED and recipe.data.test is not None:
        score_front(folder, splits[recipe.data.test], recipe, here)
    return Finished(
        ending=ending,
        space=space.size(),
        trained=sum(trial.metrics is not None and trial.continues is None for trial in trials),
        front=len(front(trials, objectives)),
        reason=_why_none(trials),
    )


def score_front(folder: Path, test_set: Dataset, run: Run, device: str) -> None:
    """Score the checkpoints of the front on a split that no choice was made on; kept one by one in the folder,
    so that each is computed once. A checkpoint that could not be read is tried again."""
    study = read_study(folder)
    best = front(study.trials, study.objectives)
    known = read_test_scores(folder)
    kept = [trial.number for trial in best if known.get(trial.number, {}).get("split") == test_set.split]
    found = {number: known[number] for number in kept}
    for trial in best:
        if trial.number in found:
            continue
        try:
            detector, _ = load_detector(folder / "trials" / f"{trial.number:04d}" / CHECKPOINT)
            score = score_with(run, detector, trial.spec.input, test_set, device)
            found[trial.number] = {"split": test_set.split, **score.to_json()}
        except CheckpointError as error:
            found[trial.number] = {"error": str(error)}
        write_json(folder / TEST_SCORES, {str(number): figures for number, figures in found.items()})


def read_test_scores(folder: Path) -> dict[int, dict[str, Any]]:
    """What `score_front` left in a study's folder; nothing where it left nothing."""
    path = folder / TEST_SCORES
    return _read_json(path, int) if path.exists() else {}


def read_data_summary(folder: Path) -> dict[str, dict[str, Any]]:
    """What the splits of a study's last run held, by their names; StudyError where nothing tells."""
    return _read_json(folder / DATA_SUMMARY, str)


def _read_json(path: Path, key: Callable[[str], K]) -> dict[K, dict[str, Any]]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return {key(name): dict(figures) for name, figures in raw.items()}
    except OSError as error:
        hint = "repeat the command of the search, which makes it"
        raise StudyError(str(path), "a file that can be read", error.strerror or str(error), hint) from None
    except (ValueError, TypeError, AttributeError) as error:
        hint = "delete it and repeat the command of the search, which makes it anew"
        raise StudyError(str(path), "figures by name", str(error), hint) from None


def code_of_trial(study: Path, number: int) -> str:
    """The detector of one trial of a study."""
    trials = read_study(study).trials
    if not 0 <= number < len(trials):
        raise StudyError(f"{study} trial", f"a number from 0 to {len(trials) - 1}", str(number))
    return trials[number].code


def recipe_of_trial(
    study: Path,
    number: int,
    settings: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    file: Path | None = None,
) -> TrainRecipe:
    """The recipe that trains one trial of a study alone: its code, and the search's data and training, but for the
    sections that stand in the recipe `file`, which names no detector."""
    code = code_of_trial(study, number)
    search = load_recipe(SearchRecipe, study / RECIPE)
    shared = {name: getattr(search, name) for name in Run.model_fields}
    raw = TrainRecipe(detector=code, **shared).model_dump(mode="json")
    if file is not None:
        sections = read_yaml(file, RecipeError)
        if "detector" in sections:
            raise RecipeError(str(file), "no detector, since --study has one", repr(sections["detector"]))
        raw |= sections
    return override(TrainRecipe, raw, settings, options, "recipe" if file is None else str(file))


def _identity(
    recipe: SearchRecipe, choices: Mapping[str, Any], device: str, images: Mapping[str, Any]
) -> dict[str, Any]:
    """What must stay the same for the trials of a folder to be comparable. Budget, strategy, limits, workers, the test
    split and the place of the data may change between two runs of the command."""
    return {
        "kind": "structure",
        "space": choices,
        **deciding(recipe),
        "latency": recipe.latency.model_dump(mode="json"),
        "images": {name: images[name] for name in (recipe.data.train, recipe.data.val)},
        "device": device,
        "device_name": "of a cluster" if recipe.execution.executor == "ray" else device_name(device),
    }


def _why_none(trials: Sequence[Trial]) -> str | None:
    """Why the first trial that failed, or else was left out, did; None where one was trained."""
    if any(trial.state is TrialState.COMPLETE for trial in trials):
        return None
    ended = sorted((trial for trial in trials if trial.reason), key=lambda trial: trial.state is not TrialState.FAILED)
    if ended:
        return f"trial {ended[0].number} {ended[0].state}: {ended[0].reason}"
    costed = sum(trial.state is TrialState.COSTED for trial in trials)
    return f"{costed} costs, measured first (search.survey)" if costed else None
