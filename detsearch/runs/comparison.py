"""What the runs of a comparison found, put together over seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

from detsearch.arch.presets import resolve
from detsearch.cost.latency import device_name
from detsearch.errors import RecipeError, StudyError
from detsearch.files import write_json
from detsearch.intervals import Interval, mean_interval
from detsearch.runs.folders import METRICS
from detsearch.runs.inspect import describe, measure_latency
from detsearch.runs.settings import CompareRecipe, HeadSearchRecipe, TrainRecipe

COSTS: Final = "costs.json"
COUNTED: Final = ("params", "macs", "latency_ms")
NORM, RATE = "norm", "lr"
"""Columns that are no fields of a recipe: the detector's norm, and the learning rate that its batch makes of it."""
RATED: Final = ("training.lr", "training.base_batch")
"""What the column `RATE` is made of, beside the batch."""
SHOWN: Final = frozenset({"detector", "norm", "seed"})
"""Fields of which the table tells in columns of their own."""
ROUNDS: Final = 3
"""How often latencies are measured, in turn: what else the machine does meets all detectors alike."""
SEARCHED: Final = ("transformations", "search_seconds", "search_peak_bytes")
"""What a search of a head says of itself, beside what its detector costs."""

Arm: TypeAlias = TrainRecipe | HeadSearchRecipe
"""The recipe of one run."""


@dataclass(frozen=True)
class Spread:
    """A mean, and the least and the most."""

    mean: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        return cls(sum(values) / len(values), min(values), max(values))


@dataclass(frozen=True)
class Figure(Interval):
    """A mean over seeds with its interval, and the values by seed: with another arm's at equal seeds they give the
    interval of the difference."""

    by_seed: Mapping[int, float]

    @classmethod
    def of(cls, by_seed: Mapping[int, float]) -> Self | None:
        """None of no values."""
        found = mean_interval(list(by_seed.values()))
        return None if found is None else cls(found.mean, found.half, found.count, by_seed)


@dataclass(frozen=True)
class Row:
    """An arm: its `settings`, by column; its figures, by name (``test ap``), over the seeds that are done, and their
    differences from the first arm's at equal seeds, None where there is nothing, and for the first arm no differences;
    what its detectors cost, and its searches did; its detectors, by seed; and whether each of their latencies, if they
    were measured, was steady."""

    arm: str
    settings: Mapping[str, str]
    figures: Mapping[str, Figure | None]
    differences: Mapping[str, Interval | None]
    costs: Mapping[str, Spread]
    detectors: Mapping[int, str]
    steady: bool = True


@dataclass(frozen=True)
class Comparison:
    """All arms in the recipe's order, and what failed, by run."""

    rows: tuple[Row, ...]
    names: tuple[str, ...]
    failed: Mapping[str, str]
    device: str


def column(run: Arm, field: str) -> str:
    """What a run's recipe says in a field (dotted path, `NORM` or `RATE`), as text. RecipeError where there is none."""
    if field == NORM:
        return str(resolve(run.detector).network.norm)
    if field == RATE:
        return "auto" if run.training.batch == 0 else f"{run.training.scaled_lr:g}"
    value: Any = run.model_dump(mode="json")
    for name in field.split("."):
        if not isinstance(value, dict) or name not in value:
            known = f"a field of the arms' recipes, such as training.batch, or {NORM} or {RATE}"
            raise RecipeError("columns", known, field)
        value = value[name]
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def varying(runs: Sequence[Arm]) -> list[str]:
    """Columns in which runs differ: fields of their recipes but those in `SHOWN`; their detectors' norm; and, where
    batches are known, the learning rate in place of the fields that it is made of."""
    values = [dict(_leaves(run.model_dump(mode="json"))) for run in runs]
    fields = dict.fromkeys(name for found in values for name in found)
    differ = [name for name in fields if any(found.get(name) != values[0].get(name) for found in values)]
    differ = [name for name in differ if name not in SHOWN]
    rates = {column(run, RATE) for run in runs}
    if len(rates) > 1 and not any(run.training.finds_batch for run in runs):
        differ = [*(name for name in differ if name not in RATED), RATE]
    return [NORM, *differ] if len({column(run, NORM) for run in runs}) > 1 else differ


def _leaves(section: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of nested sections by dotted path."""
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def collect(
    recipe: CompareRecipe,
    runs: Mapping[str, Arm],
    finished: Mapping[str, Path],
    searched: Mapping[str, Path],
    failed: Mapping[str, str],
    device: str,
    kept: Path,
) -> Comparison:
    """Put together what is done of `runs` (by ``ARM-SEED``), whose trainings are in the folders `finished`, and whose
    searches of heads, if any, wrote the files `searched`. What detectors cost is counted, and measured on `device` if
    the recipe wants latencies, once: it is `kept` in a file."""
    metrics = {key: _read(path / METRICS) for key, path in finished.items() if (path / METRICS).exists()}
    scores = {key: _scores(found, recipe) for key, found in metrics.items()}
    names = tuple(dict.fromkeys(name for found in scores.values() for name in found))
    known = _costs(kept, {str(found["code"]): (found, runs[key]) for key, found in metrics.items()}, recipe, device)
    first, rows = next(iter(recipe.arms)), []
    arms = {arm: runs[f"{arm}-{recipe.seeds[0]}"] for arm in recipe.arms}
    columns = varying(list(arms.values())) if recipe.columns is None else recipe.columns
    for arm in recipe.arms:
        keys = {seed: f"{arm}-{seed}" for seed in recipe.seeds if f"{arm}-{seed}" in metrics}
        mine = {seed: scores[key] for seed, key in keys.items()}
        base = {seed: scores.get(f"{first}-{seed}", {}) for seed in keys}
        figures = {name: Figure.of({s: found[name] for s, found in mine.items() if name in found}) for name in names}
        differences = {
            name: mean_interval([mine[s][name] - base[s][name] for s in keys if name in base[s] and name in mine[s]])
            for name in names
        }
        detectors = {seed: str(metrics[key]["code"]) for seed, key in keys.items()}
        costs = [
            {name: known[detectors[seed]][name] for name in COUNTED if name in known[detectors[seed]]}
            | (_numbers(_read(searched[key])) if key in searched and searched[key].exists() else {})
            for seed, key in keys.items()
        ]
        rows.append(
            Row(
                arm=arm,
                settings={field: column(arms[arm], field) for field in columns},
                figures=figures,
                differences={} if arm == first else differences,
                costs={
                    name: Spread.of([found[name] for found in costs if name in found])
                    for name in dict.fromkeys(name for found in costs for name in found)
                },
                detectors=detectors,
                steady=all(known[code].get("steady", True) for code in detectors.values()),
            )
        )
    return Comparison(tuple(rows), names, failed, device_name(device))


def _scores(metrics: Mapping[str, Any], recipe: CompareRecipe) -> dict[str, float]:
    """The figures of a finished run, ``split figure``."""
    scores = metrics["scores"]
    return {
        f"{split} {name}": float(scores[split][name])
        for split in scores
        for name in recipe.figures
        if isinstance(scores[split].get(name), int | float)
    }


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    """What a search says of itself; one that was not a search says nothing."""
    return {name: float(found[name]) for name in SEARCHED if isinstance(found.get(name), int | float)}


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        hint = "delete it and repeat the command, which makes it anew"
        raise StudyError(str(path), "figures by name", str(error), hint) from None


def _costs(
    path: Path, detectors: Mapping[str, tuple[Mapping[str, Any], Arm]], recipe: CompareRecipe, device: str
) -> dict[str, dict[str, Any]]:
    """What the detectors of finished runs cost, by their codes, computed once and kept in a file; latencies if wanted:
    medians over `ROUNDS`, each of which begins with another detector."""
    known: dict[str, dict[str, Any]] = _read(path) if path.exists() else {}
    classes = {code: len(next(iter(found["scores"].values()))["per_class"]) for code, (found, _) in detectors.items()}
    for code in detectors:
        if code not in known:
            counted = describe(resolve(code), classes[code])
            known[code] = {"params": counted["params"], "macs": counted["macs"]}
    new = [code for code in detectors if recipe.latency and "latency_ms" not in known[code]]
    measured: dict[str, list[dict[str, Any]]] = {code: [] for code in new}
    for number in range(ROUNDS):
        begin = number * len(new) // ROUNDS
        for code in [*new[begin:], *new[:begin]]:
            how = detectors[code][1].latency
            measured[code].append(measure_latency(code, None, classes[code], device=device, **how.model_dump()))
    for code, found in measured.items():
        median = statistics.median(one["median_ms"] for one in found)
        known[code] |= {"latency_ms": median, "steady": all(one["steady"] for one in found)}
    write_json(path, known)
    return known
