"""``detsearch study analyse``: what a finished search says of detectors."""

from __future__ import annotations

from pathlib import Path

from detsearch.arch.code import format_detector
from detsearch.arch.spaces.modular import ModularSpace
from detsearch.arch.spaces.section import AnySpace, read_space
from detsearch.arch.spaces.structures import StructuresSpace
from detsearch.errors import StudyError
from detsearch.runs.folders import RECIPE
from detsearch.runs.recipe import load_recipe
from detsearch.runs.settings import SearchRecipe
from detsearch.search.analysis import Analysis, analyse
from detsearch.search.ledger import StudyRecord, read_study


def analyse_study(folder: Path) -> Analysis:
    """The analysis of the study in `folder`, finished or running.

    StudyError where it holds no study, no trial that is complete, or nothing to analyse: no detector whose backbone has
    a block code, and no choice between detectors.
    """
    study = read_study(folder)
    found = analysis_of(study, read_space(load_recipe(SearchRecipe, folder / RECIPE).space))
    if found is None:
        raise StudyError(str(folder), "a complete trial", "none", "let the search go on until one is trained")
    if not found.groups and not found.effects:
        number, reason = next(iter(found.without_code.items()))
        raise StudyError(
            str(folder), "backbones with a block code, or a choice between detectors", f"trial {number}, where {reason}"
        )
    return found


def analysis_of(study: StudyRecord, space: AnySpace) -> Analysis | None:
    """The analysis of a study in `space`; None where no trial is complete."""
    structures = {}
    if isinstance(space, StructuresSpace):
        structures = {format_detector(part.structure): part for part in space.parts}
    inside = isinstance(space, StructuresSpace | ModularSpace)
    return analyse(study.trials, study.objectives, structures, inside=inside)
