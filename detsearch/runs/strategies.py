"""The strategy that a recipe asks for, and the search around it."""

from __future__ import annotations

import math
from typing import Final

from detsearch.arch.code import format_detector
from detsearch.arch.partial_order import leq
from detsearch.arch.presets import resolve
from detsearch.arch.spaces.base import Space
from detsearch.arch.spaces.modular import ModularSpace
from detsearch.arch.spaces.section import expect_listable
from detsearch.arch.spaces.structures import StructuresSpace
from detsearch.arch.spec import DetectorSpec
from detsearch.errors import RecipeError, SpecError
from detsearch.runs.settings import SearchSettings
from detsearch.search.evolution import Evolution
from detsearch.search.exhaustive import Exhaustive
from detsearch.search.given import GivenFirst
from detsearch.search.halving import Halving
from detsearch.search.inheritance import Inheriting
from detsearch.search.joint import Joint, Part
from detsearch.search.objective import Limit, Objective
from detsearch.search.optuna_samplers import OptunaSampler
from detsearch.search.random_search import RandomSearch
from detsearch.search.study import Search
from detsearch.search.surrogate import Surrogate
from detsearch.search.survey import Survey
from detsearch.search.thawing import Thawing
from detsearch.search.trial import Cost, Evaluate, Strategy
from detsearch.types import Fidelity

LISTING: Final = ("all", "nsga2", "tpe")
"""Strategies that list the whole space."""


def make_search(
    settings: SearchSettings,
    space: Space,
    objectives: tuple[Objective, ...],
    *,
    rungs: tuple[int, ...],
    trainings: int,
    cost: Cost,
    evaluate: Evaluate,
    seed: int,
    limits: tuple[Limit, ...] = (),
    counted: Cost | None = None,
) -> Search:
    """The whole search that settings describe, with a strategy as `make_strategy` has it."""
    return Search(
        strategy=make_strategy(settings, space, objectives, rungs=rungs, trainings=trainings),
        cost=cost,
        evaluate=evaluate,
        fidelity=Fidelity(rungs[-1]),
        seed=seed,
        halving=_halving(settings, objectives, rungs),
        leq=leq if settings.prune and settings.strategy != "all" else None,
        slack=settings.slack,
        limits=limits,
        counted=counted,
    )


def _halving(settings: SearchSettings, objectives: tuple[Objective, ...], rungs: tuple[int, ...]) -> Halving | None:
    if len(rungs) == 1 or settings.by_model:
        return None
    return Halving(objectives=objectives, rungs=rungs, eta=settings.eta)


def make_strategy(
    settings: SearchSettings, space: Space, objectives: tuple[Objective, ...], *, rungs: tuple[int, ...], trainings: int
) -> Strategy:
    """A strategy in `space`: a survey of costs, detectors that are given, then what the settings name. Inside of
    several structures each has a survey and a strategy of its own, and their baselines come before all others. With
    ``inherit`` candidates are told whose weights they begin with. `rungs` are the epochs after which a training pauses,
    ascending, and last those of a full one. The budget is worth so many `trainings`, which says how many are costed
    first; inside of several structures, each its share of these. RecipeError for a start that is no member, and for a
    space too large to be listed where the strategy does that."""
    if settings.strategy in LISTING:
        expect_listable(space, f"strategy {settings.strategy}")
    given = tuple(_member(space, spec, number) for number, spec in enumerate(read_start(settings)))
    survey = settings.surveyed(trainings, [objective.name for objective in objectives])
    if isinstance(space, StructuresSpace):
        share = math.ceil(survey / len(space.parts))
        parts = (
            Part(space=part, strategy=_after(share, part, _in_one(settings, part, objectives, rungs)), baseline=line)
            for part, line in zip(space.parts, space.baselines, strict=True)
        )
        strategy = _given((*space.baselines, *given), Joint(parts=tuple(parts)))
    else:
        strategy = _after(survey, space, _given(given, _in_one(settings, space, objectives, rungs)))
    return Inheriting(strategy=strategy) if settings.inherit else strategy


def _in_one(
    settings: SearchSettings, space: Space, objectives: tuple[Objective, ...], rungs: tuple[int, ...]
) -> Strategy:
    match settings.strategy:
        case "all":
            return Exhaustive(space=space)
        case "random":
            return RandomSearch(space=space)
        case "evolution":
            return Evolution(space=space, objectives=objectives, initial=settings.initial)
        case "surrogate":
            model = Surrogate(space=space, objectives=objectives, initial=settings.initial, early=settings.standing)
            return Thawing(surrogate=model, rungs=rungs) if len(rungs) > 1 and settings.by_model else model
        case "nsga2" | "tpe" as sampler:
            return OptunaSampler(space=space, objectives=objectives, sampler=sampler, initial=settings.initial)


def _given(detectors: tuple[DetectorSpec, ...], strategy: Strategy) -> Strategy:
    return GivenFirst(detectors=detectors, strategy=strategy) if detectors else strategy


def _after(survey: int, space: Space, strategy: Strategy) -> Strategy:
    """A strategy after a survey of so many costs."""
    return Survey(space=space, strategy=strategy, count=survey) if survey else strategy


def read_start(settings: SearchSettings) -> list[DetectorSpec]:
    """The detectors that a recipe names as a start; RecipeError for what is none."""
    found = []
    for number, text in enumerate(settings.start):
        try:
            found.append(resolve(text))
        except SpecError as error:
            wanted = "a preset or a detector's code"
            raise RecipeError(f"search.start[{number}]", wanted, f"{text!r} ({error})") from None
    return found


def _member(space: Space, spec: DetectorSpec, number: int) -> DetectorSpec:
    if not space.contains(spec):
        why = "`detsearch space` lists them"
        if isinstance(space, ModularSpace | StructuresSpace):
            why = space.fault(spec) or why
        raise RecipeError(f"search.start[{number}]", "a member of the space", format_detector(spec), why)
    return spec
