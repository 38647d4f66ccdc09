"""``detsearch search head``: cells for a detector's head, searched on one half of the training images against the
other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from detsearch.arch.cells import SETS, CellSpec
from detsearch.arch.code import format_detector, format_network
from detsearch.arch.head_cells import with_tower
from detsearch.arch.presets import resolve
from detsearch.arch.spaces.cells import CellSpace
from detsearch.arch.spec import DetectorSpec
from detsearch.cost.latency import device_name
from detsearch.data.dataset import Dataset
from detsearch.data.halves import halves, missing_classes
from detsearch.data.loader import TrainLoader, train_loader
from detsearch.errors import RecipeError, StudyError
from detsearch.files import write_json, write_text
from detsearch.nn.backbones.weights import load_pretrained
from detsearch.runs.checks import check_run, load_splits
from detsearch.runs.device import resolve_device
from detsearch.runs.identity import located, summary
from detsearch.runs.interrupt import Stop
from detsearch.runs.recipe import load_recipe, write_recipe
from detsearch.runs.settings import HeadSearchRecipe, Run, TrainRecipe
from detsearch.runs.train import METRICS, RECIPE
from detsearch.search.storage import DATABASE
from detsearch.search.trial import TrialContext
from detsearch.supernet.cells import Architecture
from detsearch.supernet.derive import Choice
from detsearch.supernet.detector import Supernet, build_supernet, with_cells
from detsearch.supernet.expected_cost import ExpectedCost, latencies, macs, shares
from detsearch.supernet.run import CellSearchRun, Pair
from detsearch.supernet.search import LOG, STATE, search_cells
from detsearch.supernet.settings import CellSearchSettings
from detsearch.training import log as logs
from detsearch.training.checkpoint import is_checkpoint
from detsearch.training.loop import CHECKPOINT
from detsearch.training.progress import TrainingProgress
from detsearch.training.seeding import seed_all
from detsearch.types import InputSize

FOUND: Final = "found.json"
DETECTOR: Final = "detector.txt"
TRAIN: Final = "train.yaml"
_ALPHA, _HALF = 1, 2  # streams of random numbers


@dataclass(frozen=True)
class HeadFound:
    """What a search of a head's cells gave, as its folder holds it: the detector, its cells by group, what would have
    been derived on the way, the lines of the log, and how it came about (`facts`)."""

    spec: DetectorSpec
    cells: Mapping[str, CellSpec]
    history: Sequence[Choice]
    log: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]


def search_head(
    recipe: HeadSearchRecipe,
    folder: Path,
    *,
    progress: TrainingProgress | None = None,
    warn: Callable[[str], None] = lambda _: None,
    within: TrialContext | None = None,
) -> HeadFound:
    """Search cells as `recipe` says, in `folder`, and leave there the detector with them, and the recipe that trains
    it; called again with the same recipe, it goes on where it was. `warn` is told what may spoil the result. `within`:
    the task that this is part of, which hears of looks and may ask to stop, as Ctrl-C does.

    UserErrors for anything wrong with recipe, data, device or folder, before time is spent; TrialInterrupted after
    Ctrl-C, the state saved; TrainingError if a loss or the architecture stops being finite.
    """
    spec = resolve(recipe.detector)
    network = spec.network if recipe.cells.method == "none" else with_tower(spec.network)
    device = resolve_device(recipe.device)
    settings = recipe.cells
    splits = load_splits(recipe, masks=network.has_masks)
    train_set = splits[recipe.data.train]
    parts = halves(train_set, recipe.seed, least=settings.batch)
    check_run(recipe, [network], device)
    settings.autocast_dtype(torch.device(device))
    if is_checkpoint(Path(recipe.weights)):
        raise RecipeError("weights", "none, imagenet, or a file of weights of the backbone", "a whole detector's")
    _prepare_folder(folder, recipe)
    for name, half in zip(("architecture", "weights"), parts, strict=True):
        if missing := missing_classes(half):
            warn(f"the half of the {name} has no object of {', '.join(missing)}")
    history: Sequence[Choice] = ()
    seconds, cells = 0.0, dict[str, CellSpec]()
    if settings.method == "random":
        rng = np.random.default_rng(np.random.SeedSequence([recipe.seed, _ALPHA]))
        space = CellSpace(SETS[settings.operations])
        groups = build_supernet(network, 1, settings.supernet).groups
        cells = {group: space.sample(rng) for group in groups}
    elif settings.method == "search":
        supernet = _supernet(recipe, spec, len(train_set.classes))
        run = CellSearchRun(
            supernet,
            settings,
            identity={
                "network": format_network(network),
                "input": str(spec.input),
                "classes": list(train_set.classes),
                "weights": recipe.weights,
                "images": [summary(half)["digest"] for half in parts],
            },
            seed=recipe.seed,
            device=device,
            term=_term(supernet, settings, spec.input, device),
        )
        ours, theirs = (_loader(half, recipe, spec, number, network.has_masks) for number, half in enumerate(parts))
        with Stop() as stop:
            own = within or TrialContext(folder=folder, should_stop=stop.requested)
            context = replace(own, folder=folder, device=device)
            history = search_cells(run, ours, theirs, context, progress=progress)
        cells, seconds = dict(history[-1].cells), run.seconds
    found = (with_cells(network, cells) if cells else network).at(spec.input)
    facts = {
        "detector": format_detector(found),
        "cells": {group: str(cell) for group, cell in cells.items()},
        "from": format_detector(spec),
        "iterations": history[-1].iteration if history else 0,
        "seconds": round(seconds, 1),
        "history": [choice.record() for choice in history],
        "images": [len(part) for part in parts],
        "seed": recipe.seed,
        "device": device,
        "device_name": device_name(device),
    }
    write_text(folder / DETECTOR, f"{facts['detector']}\n")
    shared = {name: getattr(recipe, name) for name in Run.model_fields}
    write_recipe(located(TrainRecipe(detector=str(facts["detector"]), **shared)), folder / TRAIN)
    write_json(folder / FOUND, facts)
    return HeadFound(found, cells, history, logs.read(folder / LOG), facts)


def _supernet(recipe: HeadSearchRecipe, spec: DetectorSpec, num_classes: int) -> Supernet:
    """A fresh one, from the seed, with the backbone's weights that the recipe names."""
    seed_all(recipe.seed)
    entropy = np.random.SeedSequence([recipe.seed, _ALPHA]).generate_state(1)
    generator = torch.Generator().manual_seed(int(entropy[0]))
    supernet = build_supernet(spec.network, num_classes, recipe.cells.supernet, generator=generator)
    if recipe.weights != "none":
        load_pretrained(supernet.detector.parts()["backbone"], recipe.weights)
    return supernet


def _loader(half: Dataset, recipe: HeadSearchRecipe, spec: DetectorSpec, number: int, masks: bool) -> TrainLoader[Pair]:
    seed = int(np.random.SeedSequence([recipe.seed, _HALF, number]).generate_state(1)[0])
    return train_loader(
        half,
        spec.input,
        batch=recipe.cells.batch,
        seed=seed,
        augmentation=recipe.augmentation,
        workers=recipe.cells.workers,
        cache_mb=recipe.data.cache_mb // 2,
        masks=masks,
    )


def _term(
    supernet: Supernet, settings: CellSearchSettings, size: InputSize, device: str
) -> Callable[[Architecture], Tensor] | None:
    """What the cells cost, as a part of the architecture's loss."""
    if not settings.cost_weight:
        return None
    costs = {}
    for group, width in supernet.widths.items():
        operations = supernet.architecture.choices[group]
        if settings.cost == "macs":
            costs[group] = macs(operations, width)
        else:
            maps = [torch.randn(b, width, h, w, device=device) for b, h, w in supernet.maps(size)]
            costs[group] = latencies(operations, width, maps)
    return ExpectedCost(shares(costs, supernet.architecture), settings.cost_weight).to(device)


def _deciding(recipe: HeadSearchRecipe) -> dict[str, Any]:
    """What the search depends on; where the data file lies counts, the training that may follow does not."""
    same = located(recipe)
    fixed = same.model_dump(mode="json", include={"detector", "augmentation", "weights", "seed", "device"})
    return {**fixed, "data": (same.data.file, same.data.train), "cells": recipe.cells.deciding()}


def _prepare_folder(folder: Path, recipe: HeadSearchRecipe) -> None:
    """Write the recipe into the folder, made if need be; an error, and nothing written, if another run is in it."""
    path = folder / RECIPE
    if path.exists():
        if _deciding(load_recipe(HeadSearchRecipe, path)) != _deciding(recipe):
            hint = "choose another --out, or repeat the command that it was made with"
            raise StudyError(str(folder), "an empty folder or one of the same recipe", "another search's", hint)
    elif other := next((name for name in (DATABASE, CHECKPOINT, METRICS, STATE) if (folder / name).exists()), None):
        raise StudyError(str(folder), "an empty folder", f"one with a {other} and no {RECIPE}", "choose another --out")
    write_recipe(located(recipe), path)
