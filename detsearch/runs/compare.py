"""``detsearch compare``: the same run in several arms, each over the same seeds."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from detsearch.arch.code import format_detector
from detsearch.arch.presets import resolve
from detsearch.cost.latency import device_name
from detsearch.errors import RecipeError, ResourceError, SpecError, StudyError
from detsearch.files import write_json
from detsearch.intervals import Interval, mean_interval
from detsearch.runs.device import resolve_device, threads_each
from detsearch.runs.found import arm_fields
from detsearch.runs.heads import search_head
from detsearch.runs.inspect import describe, measure_latency
from detsearch.runs.interrupt import Stop
from detsearch.runs.recipe import load_recipe, override, put, write_recipe
from detsearch.runs.settings import CompareRecipe, HeadSearchRecipe, Run, TrainRecipe
from detsearch.runs.train import METRICS, RECIPE, train_recipe
from detsearch.search.execution.base import Broken, Done, Event, Progress, Unusable
from detsearch.search.execution.processes import ProcessExecutor
from detsearch.search.trial import TrialContext, TrialInterrupted
from detsearch.types import InputSize

COSTS: Final = "costs.json"
TRAINED: Final = "trained"
"""Where, in the folder of an arm that searches, its training is."""
PRELOAD: Final = ("detsearch.runs.compare",)


@dataclass(frozen=True)
class Row:
    """An arm: its figures, by name (``test ap``), over the seeds that are done, and their differences from the first
    arm's at equal seeds; None where there is nothing, and for the first arm no differences."""

    arm: str
    detector: str
    seeds: int
    figures: Mapping[str, Interval | None]
    differences: Mapping[str, Interval | None]
    costs: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """All arms in the recipe's order, and what failed, by run."""

    rows: tuple[Row, ...]
    names: tuple[str, ...]
    failed: Mapping[str, str]
    device: str


def compare(recipe: CompareRecipe, folder: Path, *, tell: Callable[[str], None] = lambda _: None) -> Comparison:
    """Run what is not done yet, all arms of a seed before the next seed, in `folder`; called again with the same
    recipe, or one with more arms and seeds, it goes on. `tell` hears what begins and ends.

    RecipeError for an arm that cannot be, before time is spent; TrialInterrupted after Ctrl-C, the runs' state saved;
    ResourceError where the machine lacks something. An arm that fails ends nothing but itself.
    """
    runs = runs_of(recipe)
    _prepare_folder(folder, recipe)
    devices = {resolve_device(run.device) for run in runs.values()}
    if len(devices) > 1:
        raise RecipeError("arms", "one device for all", ", ".join(sorted(devices)))
    device = devices.pop()
    failed = _run_all(recipe, folder, runs, device, tell)
    found = {key: _scores(folder / key, recipe) for key in runs}
    rows = []
    first = next(iter(recipe.arms))
    names = tuple(dict.fromkeys(name for scores in found.values() for name in scores))
    for arm in recipe.arms:
        mine = {seed: found[f"{arm}-{seed}"] for seed in recipe.seeds}
        base = {seed: found[f"{first}-{seed}"] for seed in recipe.seeds}
        done = [seed for seed, scores in mine.items() if scores]
        one = folder / f"{arm}-{done[0]}" if done else None
        rows.append(
            Row(
                arm,
                "" if one is None else str(_read(_metrics(one, recipe))["code"]),
                len(done),
                {name: mean_interval([mine[seed][name] for seed in done if name in mine[seed]]) for name in names},
                {}
                if arm == first
                else {
                    name: mean_interval(
                        [mine[s][name] - base[s][name] for s in done if name in base[s] and name in mine[s]]
                    )
                    for name in names
                },
                {} if one is None else _costs(folder, one, recipe, runs[one.name], device),
            )
        )
    return Comparison(tuple(rows), names, failed, device_name(device))


def runs_of(recipe: CompareRecipe) -> dict[str, Run]:
    """The recipes of all runs by their names, ``ARM-SEED``, all arms of a seed before the next seed. RecipeError for an
    arm that cannot be."""
    kind = TrainRecipe if recipe.kind == "train" else HeadSearchRecipe
    arms = {name: arm_fields(name, fields) for name, fields in recipe.arms.items()}
    size = None if recipe.input is None else InputSize.parse(recipe.input)
    runs: dict[str, Run] = {}
    for seed in recipe.seeds:
        for name, fields in arms.items():
            raw = copy.deepcopy(recipe.base)
            for field, value in {**fields, "seed": seed}.items():
                put(raw, field, value)
            run = override(kind, raw, (), None, f"arm {name}")
            assert isinstance(run, TrainRecipe | HeadSearchRecipe)
            try:
                detector = format_detector(resolve(run.detector, size))
            except SpecError as error:
                raise RecipeError(f"arm {name}", "a detector", f"{run.detector!r} ({error})") from None
            runs[f"{name}-{seed}"] = run.model_copy(update={"detector": detector})
    return runs


def run_arm(run: TrainRecipe | HeadSearchRecipe, context: TrialContext) -> None:
    """One run of one arm, in a process of its own."""
    if isinstance(run, TrainRecipe):
        train_recipe(run, context.folder, within=context)
        return
    found = search_head(run, context.folder, within=context)
    shared = {name: getattr(run, name) for name in Run.model_fields}
    training = TrainRecipe(detector=str(found.facts["detector"]), **shared)
    train_recipe(training, context.folder / TRAINED, within=context)


def _run_all(
    recipe: CompareRecipe,
    folder: Path,
    runs: Mapping[str, Run],
    device: str,
    tell: Callable[[str], None],
) -> dict[str, str]:
    """Everything that is not done; what failed, by run, with the reason."""
    keys = list(runs)
    todo = [number for number, key in enumerate(keys) if not _metrics(folder / key, recipe).exists()]
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


def _metrics(folder: Path, recipe: CompareRecipe) -> Path:
    return (folder if recipe.kind == "train" else folder / TRAINED) / METRICS


def _scores(folder: Path, recipe: CompareRecipe) -> dict[str, float]:
    """The figures of a finished run, ``split figure``; none where it is not finished."""
    path = _metrics(folder, recipe)
    if not path.exists():
        return {}
    scores = _read(path)["scores"]
    return {
        f"{split} {name}": float(scores[split][name])
        for split in scores
        for name in recipe.figures
        if isinstance(scores[split].get(name), int | float)
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        hint = "delete it and repeat the command, which makes it anew"
        raise StudyError(str(path), "figures by name", str(error), hint) from None


def _costs(folder: Path, one: Path, recipe: CompareRecipe, run: Run, device: str) -> dict[str, float]:
    """What the detector of a finished run costs, computed once; its latency if wanted."""
    path, metrics = folder / COSTS, _read(_metrics(one, recipe))
    detector, scores = str(metrics["code"]), metrics["scores"]
    known = _read(path) if path.exists() else {}
    if detector not in known or (recipe.latency and "latency_ms" not in known[detector]):
        classes = len(next(iter(scores.values()))["per_class"])
        counted = describe(resolve(detector), classes)
        found = {"params": counted["params"], "macs": counted["macs"]}
        if recipe.latency:
            how = run.latency
            measured = measure_latency(
                detector, None, classes, device=device, threads=how.threads, runs=how.runs, seconds=how.seconds
            )
            found["latency_ms"] = measured["median_ms"]
        known[detector] = found
        write_json(path, known)
    return {name: float(value) for name, value in known[detector].items()}


def _prepare_folder(folder: Path, recipe: CompareRecipe) -> None:
    """Write the recipe; StudyError where the folder holds another comparison or run."""
    path = folder / RECIPE
    if path.exists():
        held = load_recipe(CompareRecipe, path)
        if (held.kind, held.base, held.input) != (recipe.kind, recipe.base, recipe.input):
            hint = "choose another --out; only arms and seeds may be added"
            raise StudyError(str(folder), "an empty folder or one of the same comparison", "another's", hint)
    write_recipe(recipe, path)
