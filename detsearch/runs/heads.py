"""``detsearch search head``: cells for a detector's head, searched on one half of the training images against the
other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from detsearch.arch.catalogue import catalogue
from detsearch.arch.cells import SETS, CellSpec
from detsearch.arch.code import format_detector, format_network
from detsearch.arch.head_cells import with_tower
from detsearch.arch.presets import resolve
from detsearch.arch.spaces.cells import CellSpace
from detsearch.arch.spec import DetectorSpec, NetworkSpec
from detsearch.cost.latency import device_name
from detsearch.data.dataset import Dataset
from detsearch.data.halves import halves, missing_classes, shared_images
from detsearch.data.loader import TrainLoader, train_loader
from detsearch.errors import RecipeError, StudyError
from detsearch.files import write_json, write_text
from detsearch.nn.backbones.weights import load_pretrained
from detsearch.runs.checks import check_frozen, check_run, load_splits
from detsearch.runs.device import resolve_device
from detsearch.runs.folders import claim
from detsearch.runs.identity import located, summary
from detsearch.runs.interrupt import Stop
from detsearch.runs.recipe import write_recipe
from detsearch.runs.revision import versions
from detsearch.runs.settings import HeadSearchRecipe, Run, TrainRecipe
from detsearch.search.trial import TrialContext
from detsearch.supernet.derive import Choice
from detsearch.supernet.detector import Supernet, build_supernet, widths_of, with_cells
from detsearch.supernet.expected_cost import latencies, macs
from detsearch.supernet.run import CellSearchRun, Pair
from detsearch.supernet.search import LOG, search_cells
from detsearch.supernet.settings import CellSearchSettings
from detsearch.training import log as logs
from detsearch.training.checkpoint import is_checkpoint
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


@dataclass(frozen=True)
class Checked:
    """What a search begins with: the detector, the network that is searched, its device, and the halves of the training
    images, none where nothing is searched."""

    spec: DetectorSpec
    network: NetworkSpec
    device: str
    parts: tuple[Dataset, ...]


def check_search(recipe: HeadSearchRecipe) -> Checked:
    """Look at all that the user can have got wrong but the folder and the training that may follow: detector, device,
    splits, halves, weights, what is frozen.

    UserErrors for what is found.
    """
    spec = resolve(recipe.detector)
    network = spec.network if recipe.cells.method == "none" else with_tower(spec.network)
    device = resolve_device(recipe.device)
    settings = recipe.cells
    train_set = load_splits(recipe, masks=network.has_masks)[recipe.data.train]
    parts = halves(train_set, recipe.seed, least=settings.batch) if settings.method == "search" else ()
    check_run(recipe, [network], device)
    settings.autocast_dtype(torch.device(device))
    check_frozen("cells.frozen_stages", settings.frozen_stages, [network], recipe.weights)
    if settings.method == "search":
        catalogue().check_input(network.at(_searched_at(recipe, spec)), "cells.input")
    if is_checkpoint(Path(recipe.weights)):
        raise RecipeError("weights", "none, imagenet, or a file of weights of the backbone", "a whole detector's")
    return Checked(spec, network, device, parts)


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
    Ctrl-C, the state saved; TrainingError if a loss or the architecture stops being finite: the same recipe with lower
    learning rates then goes on from the state last saved.
    """
    checked = check_search(recipe)
    spec, network, device, parts = checked.spec, checked.network, checked.device, checked.parts
    settings = recipe.cells
    claim(folder, located(recipe), partial(_goes_on, folder))
    for name, half in zip(("architecture", "weights"), parts, strict=False):
        if missing := missing_classes(half):
            warn(f"the half of the {name} has no object of {', '.join(missing)}")
    cells: Mapping[str, CellSpec] = {}
    run: CellSearchRun | None = None
    if settings.method == "random":
        rng = np.random.default_rng(np.random.SeedSequence([recipe.seed, _ALPHA]))
        space = CellSpace(SETS[settings.operations])
        cells = {group: space.sample(rng) for group in widths_of(network)}
    elif settings.method == "search":
        run = _begun(recipe, spec, network, parts, device)
        size = _searched_at(recipe, spec)
        ours, theirs = (_loader(half, recipe, size, number, network.has_masks) for number, half in enumerate(parts))
        with Stop() as stop:
            own = within or TrialContext(folder=folder, should_stop=stop.requested)
            context = replace(own, folder=folder, device=device)
            cells = search_cells(run, ours, theirs, context, progress=progress)[-1].cells
    found = (with_cells(network, cells) if cells else network).at(spec.input)
    facts = {
        "detector": format_detector(found),
        "cells": {group: str(cell) for group, cell in cells.items()},
        "from": format_detector(spec),
        "method": settings.method,
        "settings": settings.model_dump(mode="json", exclude={"method"}),
        "transformations": len(SETS[settings.operations]) if cells else None,
        "repeats": settings.cells,
        "widths": widths_of(network),
        **_effort(run),
        "images": [len(part) for part in parts],
        "seed": recipe.seed,
        "device": device,
        "device_name": device_name(device),
        "versions": versions(),
    }
    write_text(folder / DETECTOR, f"{facts['detector']}\n")
    shared = {name: getattr(recipe, name) for name in Run.model_fields}
    write_recipe(located(TrainRecipe(detector=str(facts["detector"]), **shared)), folder / TRAIN)
    write_json(folder / FOUND, facts)
    return HeadFound(found, cells, () if run is None else tuple(run.history), logs.read(folder / LOG), facts)


def _begun(
    recipe: HeadSearchRecipe, spec: DetectorSpec, network: NetworkSpec, parts: Sequence[Dataset], device: str
) -> CellSearchRun:
    """The search, before its first iteration or the state of an earlier one."""
    assert not shared_images(*parts), "no image is in both halves"
    settings, classes = recipe.cells, parts[0].classes
    supernet = _supernet(recipe, spec, len(classes))
    return CellSearchRun(
        supernet,
        settings,
        identity={
            "network": format_network(network),
            "input": str(_searched_at(recipe, spec)),
            "classes": list(classes),
            "weights": recipe.weights,
            "images": [summary(half)["digest"] for half in parts],
        },
        seed=recipe.seed,
        device=device,
        measure=partial(_costs, supernet, settings, spec.input, torch.device(device)),
    )


def _searched_at(recipe: HeadSearchRecipe, spec: DetectorSpec) -> InputSize:
    return spec.input if recipe.cells.input is None else InputSize.parse(recipe.cells.input)


def _effort(run: CellSearchRun | None) -> dict[str, Any]:
    """What the search took, and how it went."""
    history = () if run is None else run.history
    return {
        "iterations": history[-1].iteration if history else 0,
        "search_seconds": None if run is None else round(run.seconds, 1),
        "search_peak_bytes": None if run is None else run.peak_bytes,
        "rates": [] if run is None else run.rates,
        "costs": {} if run is None else run.costs,
        "history": [choice.record() for choice in history],
    }


def _supernet(recipe: HeadSearchRecipe, spec: DetectorSpec, num_classes: int) -> Supernet:
    """A fresh one, from the seed, with the backbone's weights that the recipe names."""
    seed_all(recipe.seed)
    entropy = np.random.SeedSequence([recipe.seed, _ALPHA]).generate_state(1)
    generator = torch.Generator().manual_seed(int(entropy[0]))
    supernet = build_supernet(spec.network, num_classes, recipe.cells.supernet, generator=generator)
    if recipe.weights != "none":
        load_pretrained(supernet.detector.parts()["backbone"], recipe.weights)
    return supernet


def _loader(half: Dataset, recipe: HeadSearchRecipe, size: InputSize, number: int, masks: bool) -> TrainLoader[Pair]:
    seed = int(np.random.SeedSequence([recipe.seed, _HALF, number]).generate_state(1)[0])
    return train_loader(
        half,
        size,
        batch=recipe.cells.batch,
        seed=seed,
        augmentation=recipe.augmentation,
        workers=recipe.cells.workers,
        cache_mb=recipe.data.cache_mb // 2,
        masks=masks,
    )


def _costs(
    supernet: Supernet, settings: CellSearchSettings, size: InputSize, device: torch.device
) -> dict[str, Tensor]:
    """By group what its operations and 'none' cost, (K + 1,): latencies where the found detector answers an image of
    `size`, computed as the search computes."""
    costs = {}
    for group, width in supernet.widths.items():
        operations = supernet.architecture.choices[group]
        if settings.cost == "macs":
            costs[group] = macs(operations, width)
        else:
            maps = [torch.randn(b, width, h, w, device=device) for b, h, w in supernet.maps(size)]
            layout = torch.channels_last if settings.channels_last else torch.contiguous_format
            costs[group] = latencies(operations, width, maps, dtype=settings.autocast_dtype(device), layout=layout)
    return costs


def same_search(first: HeadSearchRecipe, second: HeadSearchRecipe) -> bool:
    """Would both find the same cells? The training that may follow does not count."""
    return _deciding(first) == _deciding(second)


def _deciding(recipe: HeadSearchRecipe) -> dict[str, Any]:
    """What the search depends on; where the data file lies counts, the training that may follow does not."""
    same = located(recipe)
    fixed = same.model_dump(mode="json", include={"detector", "augmentation", "weights", "seed", "device"})
    return {**fixed, "data": (same.data.file, same.data.train), "cells": recipe.cells.deciding()}


def _goes_on(folder: Path, held: HeadSearchRecipe, recipe: HeadSearchRecipe) -> bool:
    """Is it the search in the folder? StudyError where it is, with other learning rates than it can go on with."""
    if not same_search(held, recipe):
        return False
    _check_rates(folder, held.cells.rates, recipe.cells.rates)
    return True


def _check_rates(folder: Path, before: Mapping[str, float], now: Mapping[str, float]) -> None:
    """A search that goes on may do so with lower learning rates; StudyError for one that has ended, and for higher
    ones."""
    for name, rate in now.items():
        if rate > before[name] or (rate < before[name] and (folder / FOUND).exists()):
            expected = f"cells.{name} {before[name]:g} as in the search in it" + (
                ", which has ended" if (folder / FOUND).exists() else ", or a lower one"
            )
            raise StudyError(str(folder), expected, f"{rate:g}", "choose another --out")
