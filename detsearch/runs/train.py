"""``detsearch train``: one detector, from a recipe to a checkpoint and its figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from detsearch.arch.code import format_detector
from detsearch.cost.latency import device_name
from detsearch.files import write_json
from detsearch.runs.checks import check_run, load_splits
from detsearch.runs.device import resolve_device, several, threads_each
from detsearch.runs.fit import fit, score_with
from detsearch.runs.folders import METRICS, claim
from detsearch.runs.identity import deciding, located
from detsearch.runs.interrupt import Stop
from detsearch.runs.revision import versions
from detsearch.runs.settings import TrainRecipe
from detsearch.search.trial import TrialContext
from detsearch.training.progress import TrainingProgress


def train_recipe(
    recipe: TrainRecipe,
    folder: Path,
    *,
    progress: TrainingProgress | None = None,
    within: TrialContext | None = None,
) -> dict[str, Any]:
    """Train ``recipe.detector`` in `folder` and score it on the validation and test splits; what it finds is returned
    and stands in ``metrics.json``. Called again with the same recipe and folder it goes on where it was stopped.
    `within`: the task that this is part of, which hears of epochs and may ask to stop, as Ctrl-C does.

    UserErrors for anything wrong with recipe, data, device or folder, before time is spent; TrialInterrupted after
    Ctrl-C, the state saved; TrainingError if the loss stops being finite.
    """
    spec = recipe.spec()
    device = resolve_device(recipe.device)
    devices = several(device, recipe.devices)
    splits = load_splits(recipe, masks=spec.network.has_masks)
    train_set, val_set = splits[recipe.data.train], splits[recipe.data.val]
    check_run(recipe, [spec.network], device)
    claim(folder, located(recipe), same_training)
    with Stop() as stop:
        context = replace(
            within or TrialContext(folder=folder, threads=threads_each(), should_stop=stop.requested),
            folder=folder,
            device=device,
        )
        trained = fit(
            spec, recipe, train_set=train_set, val_set=val_set, seed=recipe.seed, context=context, progress=progress
        )
    scores = {
        name: score_with(recipe, trained.model, spec.input, splits[name], device).to_json()
        for name in dict.fromkeys((recipe.data.val, recipe.data.test))
        if name is not None
    }
    found = {
        "code": format_detector(spec),
        "checkpoint": str(trained.checkpoint),
        "epochs": trained.epochs,
        "steps": trained.steps,
        "batch": trained.batch,
        "train_seconds": round(trained.seconds, 1),
        "images": len(train_set),
        "seed": recipe.seed,
        "device": device,
        "device_name": device_name(device),
        "devices": len(devices),
        "versions": versions(),
        "scores": scores,
    }
    write_json(folder / METRICS, found)
    return found


def same_training(first: TrainRecipe, second: TrainRecipe) -> bool:
    """Would both give the same figures?"""
    files = located(first).data.file, located(second).data.file
    return files[0] == files[1] and first.device == second.device and deciding(first) == deciding(second)
