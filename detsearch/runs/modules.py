"""``detsearch search modules``: from a study of structures to a search inside of some of them (SM-NAS, stage two)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from detsearch.arch.blockcode import BlockCode
from detsearch.arch.code import format_detector
from detsearch.arch.modules.backbones import coded
from detsearch.arch.spaces.modular import MODULES
from detsearch.arch.spaces.structures import STRUCTURES
from detsearch.arch.spec import DetectorSpec
from detsearch.errors import RecipeError, SpecError, StudyError
from detsearch.runs.recipe import load_recipe, override
from detsearch.runs.settings import Run, SearchRecipe
from detsearch.runs.train import RECIPE
from detsearch.search.ledger import StudyRecord, read_study
from detsearch.search.pareto import front, matrix, spread
from detsearch.search.trial import Trial

OBJECTIVES: Final = ("ap:max", "macs:min")
"""Of stage two: MACs rank backbones of one kind of block as well as time does, and do not depend on the norm."""
CHOSEN: Final = 6
"""As many as the paper takes on."""


def modular_recipe(
    study: Path,
    *,
    count: int = CHOSEN,
    trials: Sequence[int] = (),
    raw: Mapping[str, Any] = MappingProxyType({}),
    where: str = "recipe",
    settings: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> SearchRecipe:
    """The recipe of stage two on a study of stage one: inside `count` structures spread along its front (those that add
    most hypervolume, one after the other), or inside those of its `trials`; data, augmentation and the like are the
    study's, weights are none; what a recipe's values `raw`, read from `where`, `settings` and `options` say comes
    before.

    StudyError where the study has no complete trial or not those; RecipeError for what cannot be searched.
    """
    found = read_study(study)
    for trial in _named(found, trials) if trials else front(found.trials, found.objectives):
        _expect_code(trial)
    chosen = _named(found, trials) if trials else _spread(found, count)
    first = load_recipe(SearchRecipe, study / RECIPE)
    shared = {name: getattr(first, name).model_dump(mode="json") for name in ("data", "augmentation", "training")}
    evaluation = {
        "evaluation": first.evaluation.model_dump(mode="json"),
        "latency": first.latency.model_dump(mode="json"),
    }
    kept = {name: getattr(first, name) for name in ("device", "devices", "seed")}
    kept["execution"] = first.execution.model_dump(mode="json")
    assert {*shared, *evaluation, *kept} - {"execution"} | {"weights"} == set(Run.model_fields)
    merged = {
        **shared,
        **evaluation,
        **kept,
        "weights": "none",
        "objectives": list(OBJECTIVES),
        **copy.deepcopy(dict(raw)),
    }
    space = merged.setdefault("space", {})
    section = space.setdefault(MODULES, {}) if isinstance(space, dict) else None
    if not isinstance(section, dict) or STRUCTURES in section:
        raise RecipeError(f"space.{MODULES}", f"a section without {STRUCTURES}, which the study gives", repr(space))
    section[STRUCTURES] = list(dict.fromkeys(format_detector(trial.spec) for trial in chosen))
    return override(SearchRecipe, merged, settings, options, where)


def _expect_code(trial: Trial) -> None:
    try:
        coded(trial.spec.network.backbone)
    except SpecError as error:
        hint = "choose structures with --trial"
        raise StudyError(
            f"trial {trial.number}", f"a {error.where} that is {error.expected}", error.received, hint
        ) from None


def _spread(study: StudyRecord, count: int) -> list[Trial]:
    best = front(study.trials, study.objectives)
    if not best:
        hint = "let the search of structures go on until one is trained"
        raise StudyError(str(study.folder), "a complete trial", "none", hint)
    chosen: list[Trial] = []
    frames: list[DetectorSpec] = []
    for number in spread(matrix(best, study.objectives), len(best)):
        frame = _frame(best[number].spec)
        if frame not in frames and len(chosen) < count:
            chosen.append(best[number])
            frames.append(frame)
    return chosen


def _frame(spec: DetectorSpec) -> DetectorSpec:
    """A structure without what varies inside of it: structures that differ in nothing else would be searched twice."""
    code = coded(spec.network.backbone).code
    plain = replace(coded(spec.network.backbone), code=BlockCode(code.block, 4, ("1", "1", "1", "1")))
    neck: Any = spec.network.neck
    if neck is not None and hasattr(neck, "width"):
        neck = replace(neck, width=8)
    return spec.with_network(backbone=plain, neck=neck)


def _named(study: StudyRecord, numbers: Sequence[int]) -> list[Trial]:
    for number in numbers:
        if not 0 <= number < len(study.trials):
            raise StudyError(f"{study.folder} trial", f"a number from 0 to {len(study.trials) - 1}", str(number))
    return [study.trials[number] for number in numbers]
