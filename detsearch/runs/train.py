"""``detsearch train``: one detector, from a recipe to a checkpoint and its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detsearch.arch.code import format_detector
from detsearch.arch.spec import DetectorSpec
from detsearch.build import build
from detsearch.cost.latency import device_name
from detsearch.data.dataset import Dataset
from detsearch.files import write_json
from detsearch.runs.checks import check_run, load_splits
from detsearch.runs.device import resolve_device, several, threads_each
from detsearch.runs.fit import check_batch, fit, score_with
from detsearch.runs.folders import METRICS, claim
from detsearch.runs.identity import deciding, located
from detsearch.runs.interrupt import Stop
from detsearch.runs.revision import versions
from detsearch.runs.settings import TrainRecipe
from detsearch.search.trial import TrialContext
from detsearch.training.progress import TrainingProgress
from detsearch.training.ranks import Ranks


@dataclass(frozen=True)
class Checked:
    """What a training begins with: the detector, its device, all devices that share a batch, and the splits by name."""

    spec: DetectorSpec
    device: str
    devices: tuple[str, ...]
    splits: Mapping[str, Dataset]


def check_training(recipe: TrainRecipe) -> Checked:
    """Look at all that the user can have got wrong but the folder: detector, devices, splits, weights, batch.

    UserErrors for what is found.
    """
    spec = recipe.spec()
    device = resolve_device(recipe.device)
    devices = several(device, recipe.devices)
    splits = load_splits(recipe, masks=spec.network.has_masks)
    train_set = splits[recipe.data.train]
    check_run(recipe, [spec.network], device)
    build(spec.network, len(train_set.classes))
    check_batch(spec, recipe.training, len(train_set), Ranks(devices))
    return Checked(spec, device, devices, splits)


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
    checked = check_training(recipe)
    spec, device, splits = checked.spec, checked.device, checked.splits
    train_set, val_set = splits[recipe.data.train], splits[recipe.data.val]
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
        "devices": len(checked.devices),
        "versions": versions(),
        "scores": scores,
    }
    write_json(folder / METRICS, found)
    return found


def same_training(first: TrainRecipe, second: TrainRecipe) -> bool:
    """Would both give the same figures?"""
    files = located(first).data.file, located(second).data.file
    return files[0] == files[1] and first.device == second.device and deciding(first) == deciding(second)
