"""The searches that `searchers.py` compares, and how one of them is replayed on a recorded table."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from detsearch.arch.spaces.base import Space
from detsearch.arch.spaces.section import read_space
from detsearch.errors import StudyError
from detsearch.runs.settings import TRIALS, SearchSettings
from detsearch.runs.strategies import make_search
from detsearch.search.anytime import Curve, anytime
from detsearch.search.objective import Objective
from detsearch.search.pareto import hypervolume, non_dominated
from detsearch.search.replay import BEGIN, Replayed, replay
from detsearch.search.study import Search
from detsearch.search.surrogate import Surrogate
from detsearch.search.survey import Survey
from detsearch.search.table import Table
from detsearch.search.tablefacts import read_objectives, true_front
from detsearch.search.tablefile import read_table
from detsearch.search.thawing import Thawing
from detsearch.search.trial import Strategy, Trial, TrialState
from detsearch.training.schedule import WARMUP_LIMIT
from detsearch.training.settings import TrainingSettings

STARTED = 3
"""Detectors that a search is given to start with, where it is."""


@dataclass(frozen=True)
class World:
    """A table, what searchers are judged by, and how many full trainings they may spend."""

    table: Table
    space: Space
    objectives: tuple[Objective, ...]
    trainings: int

    @property
    def points(self) -> np.ndarray:
        return self.table.values(self.objectives)

    @property
    def reference(self) -> list[float]:
        return [float(worst) for worst in np.nanmax(self.points, axis=0)]

    @property
    def survey(self) -> int:
        """Of how many members a recipe for this budget has the costs measured first."""
        return SearchSettings().surveyed(self.trainings, [objective.name for objective in self.objectives])

    @property
    def pauses(self) -> tuple[int, ...]:
        """After how many epochs a recipe has trainings pause that are like those of the table; where it does not say
        how long their warm-up was, as if it had been as long as it may be. StudyError for what no training can be."""
        epochs, told = self.table.full.epochs, self.table.provenance
        warmup = WARMUP_LIMIT * epochs
        match told:
            case {"training": dict(training), "data": {"train": str(split)}, "images": dict(images)} if split in images:
                try:
                    settings = TrainingSettings.model_validate({**training, "epochs": epochs})
                    warmup = settings.warmup_epochs(int(images[split]["images"]))
                except (ValidationError, LookupError, TypeError, ValueError):
                    wanted = "the training and the images of a recipe, or nothing of them"
                    raise StudyError("provenance of the table", wanted, f"{training}, {images[split]}") from None
        return SearchSettings().pauses(epochs, warmup)

    def recorded(self, epochs: Iterable[float]) -> list[int]:
        """The epochs at which the table has figures that are nearest to those. StudyError where it has none early."""
        early = self.table.epochs[:-1]
        if not early:
            raise StudyError("table", "figures after several epochs", "those of full trainings alone")
        return sorted({min(early, key=lambda e: abs(e - wanted)) for wanted in epochs})

    def start(self, kind: Literal["good", "poor"]) -> list[str]:
        """Codes of detectors spread along the true front, the most and the least that knowing good ones can mean, or
        of others, drawn."""
        if kind == "good":
            best = [row.code for row, _ in true_front(self.table, self.objectives)]
            return [best[index] for index in np.unique(np.linspace(0, len(best) - 1, STARTED).round().astype(int))]
        behind = np.flatnonzero(~non_dominated(self.points))
        drawn = np.random.default_rng(0).choice(behind, min(STARTED, len(behind)), replace=False)
        return [self.table.rows[index].code for index in drawn]


@dataclass(frozen=True)
class Searcher:
    """What is compared: `about` says what it is, `baseline` whether the default has to beat it. It is what a recipe
    with the section `settings` of a search would do, but that it pauses at the recorded epochs nearest to a recipe's
    own, as many of these as `pauses` says, or to `pauses`, shares of a full training; that `survey` is a share of the
    costs that a recipe has measured first; that it may be given a `start`; and that it may be blind to what runs."""

    name: str
    about: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    pauses: int | tuple[float, ...] = 0
    survey: float = 1.0
    start: Literal["good", "poor"] | None = None
    aware: bool = True
    workers: int = 1
    baseline: bool = False

    def recipe(self, world: World) -> SearchSettings:
        full, own = world.table.full.epochs, self.pauses
        wanted: Iterable[float] = world.pauses[:own] if isinstance(own, int) else (share * full for share in own)
        fields = {"rungs": world.recorded(wanted), **self.settings}
        if self.survey != 1:
            fields["survey"] = round(self.survey * world.survey)
        if self.start is not None:
            fields["start"] = world.start(self.start)
        return SearchSettings(**fields)

    def search(self, world: World, seed: int) -> Search:
        settings, table = self.recipe(world), world.table
        made = make_search(
            settings,
            world.space,
            world.objectives,
            rungs=(*(settings.rungs or ()), table.full.epochs),
            trainings=world.trainings,
            cost=table.cost,
            evaluate=table.evaluate,
            seed=seed,
        )
        return made if self.aware else replace(made, strategy=unaware(made.strategy))


def unaware(strategy: Strategy) -> Strategy:
    """The same, blind to what runs."""
    match strategy:
        case Surrogate():
            return replace(strategy, aware=False)
        case Thawing():
            return replace(strategy, surrogate=replace(strategy.surrogate, aware=False))
        case Survey():
            return replace(strategy, strategy=unaware(strategy.strategy))
    raise AssertionError(f"{strategy} has no model")


THIRD, LATE = (1 / 3,), (1 / 3, 2 / 3)
BOTH = 2
"""Pauses that a recipe has."""
PAPER, DEFAULT = "evolution", "default"
PLAIN = {"survey": 0, "prune": False}
AP_EARLY: Mapping[str, Any] = {"early": {}}
RECALL_EARLY = {"early": {"ap": {"ar_10": 1.0}}}
SEARCHERS = [
    Searcher("random", "random search", {"strategy": "random", "prune": False}, baseline=True),
    Searcher("nsga2", "NSGA-II (optuna)", {"strategy": "nsga2", "prune": False}, baseline=True),
    Searcher("tpe", "TPE for several objectives (optuna)", {"strategy": "tpe", "prune": False}, baseline=True),
    Searcher(PAPER, "SM-NAS's evolution, with pruning (slack 0)", {"strategy": "evolution", "slack": 0.0},
             baseline=True),
    Searcher("evolution, no pruning", "SM-NAS's evolution, all that it proposes is trained",
             {"strategy": "evolution", "prune": False}, baseline=True),
    Searcher("evolution, halving", "SM-NAS's evolution with pruning; the best third go on from a third of the training",
             {"strategy": "evolution", "slack": 0.0}, THIRD),
    Searcher("surrogate", "a model proposes, all are trained in full; no costs first, no pruning", PLAIN),
    Searcher("surrogate, pruning", "surrogate with pruning (slack 0)", {"survey": 0, "slack": 0.0}),
    Searcher("surrogate, pruning 0.01", "surrogate with pruning (slack 0.01)", {"survey": 0}),
    Searcher("surrogate, 4 at once", "surrogate with four workers", PLAIN, workers=4),
    Searcher("surrogate, 4 at once, unaware", "the same, blind to what runs", PLAIN, workers=4, aware=False),
    Searcher("surrogate, halving", "surrogate with pruning (slack 0); the best third go on from a third of the "
             "training", {"survey": 0, "slack": 0.0, "promote": "rank"}, THIRD),
    Searcher("surrogate, costs first", "surrogate with pruning (slack 0.01) after a survey of costs"),
    Searcher("surrogate, pauses", "surrogate with pruning (slack 0.01); trainings pause twice, and the model decides "
             "which go on", {"survey": 0}, BOTH),
    Searcher(DEFAULT, "what a recipe gets that says nothing: a survey of costs, a model proposes, trainings pause "
             "twice, and it decides which go on; pruning (slack 0.01)", {}, BOTH),
    Searcher("default, AP early", "the default, but the model sees AP at a pause", AP_EARLY, BOTH),
    Searcher("default, recall early", "the default, but the model sees AR at 10 boxes at a pause", RECALL_EARLY,
             BOTH),
    Searcher("default, no pruning", "the default without pruning", {"prune": False}, BOTH),
    Searcher("default, half the costs", "the default with a survey half as large", {}, BOTH, survey=0.5),
    Searcher("default, one pause", "the default, paused at the first of the two alone", {}, 1),
    Searcher("default, later pauses", "the default, paused at a third and two thirds", {}, LATE),
    Searcher("default, 4 first", "the default with four first members in place of eight", {"initial": 4}, BOTH),
    Searcher("default, 4 at once", "the default with four workers", {}, BOTH, workers=4),
    Searcher("default, 4 at once, unaware", "the same, blind to what runs", {}, BOTH, workers=4, aware=False),
    Searcher("default, good start", f"the default, given {STARTED} detectors of the true front", {}, BOTH,
             start="good"),
    Searcher("default, poor start", f"the default, given {STARTED} drawn detectors behind the true front", {}, BOTH,
             start="poor"),
]  # fmt: skip
UNPRUNED = "all, random order"
EXHAUSTIVE = [
    Searcher(UNPRUNED, "", {"strategy": "random", "prune": False}),
    Searcher("all, random order, pruning", "", {"strategy": "random", "slack": 0.0}),
    Searcher("all, random order, pruning 0.01", "", {"strategy": "random"}),
]
BY_NAME = {searcher.name: searcher for searcher in (*SEARCHERS, *EXHAUSTIVE)}


@dataclass(frozen=True)
class Run:
    """A replayed search: its curve, by each point of it the seconds and the costs that had been measured by then, all
    epochs that it spent, and how long the replay took."""

    curve: Curve
    seconds: np.ndarray
    costs: np.ndarray
    spent: int
    took: float


def study(world: World, searcher: Searcher, seed: int, *, epochs: int | None = None, trials: int | None = None) -> Run:
    began = time.perf_counter()
    table, search = world.table, searcher.search(world, seed)
    done = replay(search, world.objectives, epochs=epochs, trials=trials, workers=searcher.workers, name=table.code)
    truth = dict(zip((row.spec for row in table.rows), world.points, strict=True))
    steps = done.steps()
    curve = anytime(
        steps,
        truth.__getitem__,
        world.objectives,
        fidelity=table.full,
        reference=world.reference,
        whole=hypervolume(world.points, world.reference),
    )
    ends = [trial for _, trial in steps if trial.state is TrialState.COMPLETE and trial.fidelity == table.full]
    return Run(
        curve=curve,
        seconds=np.array([_seconds(trial) for trial in ends]),
        costs=np.array([_costs(done, trial) for trial in ends]),
        spent=max((spent for spent, _ in steps), default=0),
        took=time.perf_counter() - began,
    )


def _seconds(trial: Trial) -> float:
    """Simulated ones since the begin."""
    return 0.0 if trial.finished is None else (trial.finished - BEGIN).total_seconds()


def _costs(done: Replayed, trial: Trial) -> int:
    """Of how many detectors the cost had been asked for when a trial began."""
    return len({earlier.spec for earlier in done.trials[: trial.number + 1]})


@cache
def world_of(path: str, objectives: tuple[str, ...], trainings: int = TRIALS) -> World:
    """UserErrors for a file that is no table, and for objectives that it has no figures of."""
    table = read_table(Path(path))
    space = table.within(read_space(table.choices))
    return World(table, space, read_objectives(table, objectives), trainings)


@dataclass(frozen=True)
class Task:
    """A search of `key`'s; `trainings` is the budget that it knows of, and what it may spend unless `trials` says, or
    `whole` that it may try everything."""

    key: str
    name: str
    seed: int
    path: str
    objectives: tuple[str, ...]
    trainings: int = TRIALS
    trials: int | None = None
    whole: bool = False


def job(task: Task) -> tuple[str, Run]:
    world = world_of(task.path, task.objectives, task.trainings)
    limited = task.trials is None and not task.whole
    epochs = task.trainings * world.table.full.epochs if limited else None
    return task.key, study(world, BY_NAME[task.name], task.seed, epochs=epochs, trials=task.trials)


@dataclass
class Result:
    """All seeds of one searcher."""

    runs: list[Run] = field(default_factory=list)

    def shares(self, epochs: Sequence[int]) -> np.ndarray:
        """(seeds, epochs) of the hypervolume."""
        return np.array([run.curve.at(epochs) for run in self.runs])

    def until(self, share: float) -> np.ndarray:
        """(seeds,) epochs until so much was reached for the first time; infinite where it never was."""
        return np.array([run.curve.until(share) for run in self.runs])

    def seconds_until(self, share: float, cost: float) -> np.ndarray:
        """The same in seconds, of which measuring a cost takes `cost`."""
        found = []
        for run in self.runs:
            reached = np.flatnonzero(run.curve.share >= share)
            found.append(run.seconds[reached[0]] + cost * run.costs[reached[0]] if len(reached) else np.inf)
        return np.array(found)
