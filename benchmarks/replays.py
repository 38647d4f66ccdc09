"""The searches that `searchers.py` compares, and how one of them is replayed on a recorded table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from detsearch.arch.partial_order import leq
from detsearch.arch.presets import resolve
from detsearch.arch.spaces.base import Space
from detsearch.arch.spaces.section import read_space
from detsearch.runs.settings import PAUSES, TRIALS, SearchSettings
from detsearch.search.anytime import Curve, anytime
from detsearch.search.early import EARLY, Early
from detsearch.search.evolution import Evolution
from detsearch.search.given import GivenFirst
from detsearch.search.halving import Halving
from detsearch.search.objective import Objective
from detsearch.search.optuna_samplers import OptunaSampler
from detsearch.search.pareto import hypervolume
from detsearch.search.random_search import RandomSearch
from detsearch.search.replay import replay
from detsearch.search.study import Search
from detsearch.search.surrogate import Surrogate
from detsearch.search.survey import Survey
from detsearch.search.table import Table
from detsearch.search.tablefile import read_table
from detsearch.search.thawing import Thawing
from detsearch.search.trial import Strategy

INITIAL = 8


@dataclass(frozen=True)
class World:
    """A table, what searchers are judged by, and how many full trainings they may spend."""

    table: Table
    space: Space
    objectives: tuple[Objective, ...]
    start: tuple[str, ...]
    trainings: int

    @property
    def points(self) -> np.ndarray:
        return self.table.values(self.objectives)

    @property
    def reference(self) -> list[float]:
        return [float(worst) for worst in np.nanmax(self.points, axis=0)]


@dataclass(frozen=True)
class Searcher:
    """What is compared: `about` says what it is, `baseline` whether the default has to beat it."""

    name: str
    about: str
    strategy: Callable[[World], Strategy]
    baseline: bool = False
    rungs: tuple[float, ...] = ()  # as shares of the full training
    eta: int = 3
    prune: bool = False
    slack: float = 0.0
    workers: int = 1


def evolution(world: World) -> Strategy:
    return Evolution(space=world.space, objectives=world.objectives, initial=INITIAL)


def surrogate(world: World) -> Strategy:
    return model(world)


def model(world: World, initial: int = INITIAL, *, aware: bool = True, early: Early = EARLY) -> Surrogate:
    return Surrogate(space=world.space, objectives=world.objectives, initial=initial, aware=aware, early=early)


def rungs_of(shares: Sequence[float], table: Table) -> tuple[int, ...]:
    """The recorded epochs that are nearest to shares of the full training, then that."""
    full = table.full.epochs
    wanted = (min(table.epochs[:-1], key=lambda e: abs(e - share * full)) for share in shares)
    return (*sorted(set(wanted)), full)


def thawing(*shares: float, initial: int = INITIAL, early: Early = EARLY) -> Callable[[World], Strategy]:
    def make(world: World) -> Strategy:
        return Thawing(surrogate=model(world, initial, early=early), rungs=rungs_of(shares, world.table))

    return make


def surveyed(strategy: Callable[[World], Strategy], share: float = 1.0) -> Callable[[World], Strategy]:
    """After as many costs as a recipe has by default, or a share of them."""

    def make(world: World) -> Strategy:
        return Survey(space=world.space, strategy=strategy(world), count=round(share * default_survey(world)))

    return make


def default_survey(world: World) -> int:
    return SearchSettings().surveyed(world.trainings, [objective.name for objective in world.objectives])


def unaware(world: World) -> Strategy:
    return model(world, aware=False)


def given(world: World) -> Strategy:
    return GivenFirst(detectors=tuple(map(resolve, world.start)), strategy=surrogate(world))


def drawn(world: World) -> Strategy:
    return RandomSearch(space=world.space)


def nsga2(world: World) -> Strategy:
    return OptunaSampler(space=world.space, objectives=world.objectives, sampler="nsga2", initial=INITIAL)


def tpe(world: World) -> Strategy:
    return OptunaSampler(space=world.space, objectives=world.objectives, sampler="tpe", initial=INITIAL)


EARLY = (1 / 3,)
PAPER, DEFAULT = "evolution", "costs first, thawing"
SEARCHERS = [
    Searcher("random", "random search", drawn, baseline=True),
    Searcher("nsga2", "NSGA-II (optuna)", nsga2, baseline=True),
    Searcher("tpe", "TPE for several objectives (optuna)", tpe, baseline=True),
    Searcher(PAPER, "the paper's: evolution with pruning", evolution, baseline=True, prune=True),
    Searcher("evolution, no pruning", "what pruning brings to evolution", evolution),
    Searcher("evolution, halving", "what early comparison brings to evolution", evolution, rungs=EARLY, prune=True),
    Searcher("surrogate", "a model proposes, all are trained in full", surrogate),
    Searcher("surrogate, pruning", "and the partial order prunes", surrogate, prune=True),
    Searcher("surrogate, pruning 0.01", "the same with slack 0.01 AP", surrogate, prune=True, slack=0.01),
    Searcher("surrogate, 4 at once", "four workers", surrogate, workers=4),
    Searcher("surrogate, 4 at once, unaware", "four workers, blind to what runs", unaware, workers=4),
    Searcher("given, surrogate", "known good detectors first", given),
    Searcher("surrogate, pruning, halving", "a third go on from a third of the training", surrogate, rungs=EARLY,
             prune=True),
    Searcher("surrogate, pruning, halving, eta 2", "half go on", surrogate, rungs=EARLY, eta=2, prune=True),
    Searcher("costs first, surrogate", "a survey of costs, then all are trained in full", surveyed(surrogate),
             prune=True, slack=0.01),
    Searcher("thawing", "trainings pause at a third and two thirds, and the model decides which go on",
             thawing(*PAUSES), prune=True, slack=0.01),
    Searcher(DEFAULT, "the same after a survey of costs", surveyed(thawing(*PAUSES)), prune=True, slack=0.01),
    Searcher("costs first, thawing, AP early", "the model sees early AP, as before it was a weighted sum",
             surveyed(thawing(*PAUSES, early={})), prune=True, slack=0.01),
    Searcher("costs first, thawing, recall early", "the model sees early AR at 10 boxes",
             surveyed(thawing(*PAUSES, early={"ap": {"ar_10": 1.0}})), prune=True, slack=0.01),
    Searcher("costs first, thawing, no pruning", "what pruning brings to it", surveyed(thawing(*PAUSES))),
    Searcher("half of the costs first, thawing", "a smaller survey", surveyed(thawing(*PAUSES), 0.5),
             prune=True, slack=0.01),
    Searcher("costs first, thawing 1/3", "paused once", surveyed(thawing(1 / 3)), prune=True, slack=0.01),
    Searcher("costs first, thawing 1/6 1/2", "paused early and late", surveyed(thawing(1 / 6, 1 / 2)),
             prune=True, slack=0.01),
    Searcher("costs first, thawing, 4 first", "four first members in place of eight",
             surveyed(thawing(*PAUSES, initial=INITIAL // 2)), prune=True, slack=0.01),
    Searcher("costs first, thawing, 4 at once", "four workers", surveyed(thawing(*PAUSES)), prune=True,
             slack=0.01, workers=4),
]  # fmt: skip


def study(world: World, searcher: Searcher, seed: int, epochs: int | None) -> Curve:
    table = world.table
    rungs = rungs_of(searcher.rungs, table)
    search = Search(
        strategy=searcher.strategy(world),
        cost=table.cost,
        evaluate=table.evaluate,
        fidelity=table.full,
        seed=seed,
        halving=Halving(objectives=world.objectives, rungs=rungs, eta=searcher.eta) if len(rungs) > 1 else None,
        leq=leq if searcher.prune else None,
        slack=searcher.slack,
    )
    done = replay(search, world.objectives, epochs=epochs, workers=searcher.workers, name=table.code)
    truth = dict(zip((row.spec for row in table.rows), world.points, strict=True))
    return anytime(
        done.steps(),
        truth.__getitem__,
        world.objectives,
        fidelity=table.full,
        reference=world.reference,
        whole=hypervolume(world.points, world.reference),
    )


@cache
def world_of(path: str, objectives: tuple[str, ...], start: tuple[str, ...], epochs: int | None = None) -> World:
    table = read_table(Path(path))
    space = table.within(read_space(table.choices))
    trainings = TRIALS if epochs is None else max(1, epochs // table.full.epochs)
    return World(table, space, tuple(map(Objective.parse, objectives)), start, trainings)


def job(task: tuple[tuple[Any, ...], str, int, int | None]) -> tuple[str, Curve, float]:
    where, name, seed, epochs = task
    begin = time.perf_counter()
    searcher = next(s for s in [*SEARCHERS, *EXHAUSTIVE] if s.name == name)
    curve = study(world_of(*where), searcher, seed, epochs)
    return name, curve, time.perf_counter() - begin


UNPRUNED = "all, random order"
EXHAUSTIVE = [
    Searcher(UNPRUNED, "", drawn),
    Searcher("all, random order, pruning", "", drawn, prune=True),
    Searcher("all, random order, pruning 0.01", "", drawn, prune=True, slack=0.01),
]


@dataclass
class Result:
    """All seeds of one searcher."""

    curves: list[Curve] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def shares(self, epochs: Sequence[int]) -> np.ndarray:
        return np.array([curve.at(epochs) for curve in self.curves])

    def until(self, share: float) -> float:
        return float(np.median(self.all_until(share)))

    def all_until(self, share: float) -> np.ndarray:
        return np.array([curve.until(share) for curve in self.curves])
