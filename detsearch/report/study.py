"""From a study's folder to its report."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, get_args

from detsearch.arch.code import format_detector
from detsearch.arch.presets import resolve
from detsearch.arch.spaces.section import AnySpace, read_space
from detsearch.arch.spaces.structures import StructuresSpace
from detsearch.arch.spec import DetectorSpec
from detsearch.errors import RecipeError, SpecError, StudyError
from detsearch.files import write_json, write_text
from detsearch.nn.backbones.weights import IMAGENET
from detsearch.report.analysis import markdown_analysis
from detsearch.report.beside import beside_known
from detsearch.report.html import html_report
from detsearch.report.scene import By
from detsearch.report.stages import stages_scene
from detsearch.report.static_plot import FORMATS, save_correlations, save_front, save_stages
from detsearch.report.tables import markdown_report
from detsearch.report.view import FirstStage, StudyView, count
from detsearch.runs.analyse import analysis_of
from detsearch.runs.folders import RECIPE
from detsearch.runs.recipe import load_recipe, to_yaml
from detsearch.runs.revision import named, versions
from detsearch.runs.search import read_data_summary, read_test_scores
from detsearch.runs.settings import SearchRecipe
from detsearch.search.analysis import Analysis
from detsearch.search.ledger import StudyRecord, read_study
from detsearch.search.lift import Lift, lifts
from detsearch.search.objective import Limit
from detsearch.search.pareto import front, measured
from detsearch.search.storage import DATABASE
from detsearch.search.trial import GIVEN, Trial

HTML: Final = "report.html"
MARKDOWN: Final = "report.md"
LONGEST: Final = 32
"""Characters of a detector's text that stands in a figure."""


def write_report(
    folder: Path,
    out: Path | None = None,
    *,
    first: Path | None = None,
    modules: Path | None = None,
    pictures: str | None = None,
    beside: int = 0,
) -> list[Path]:
    """Write ``report.html`` and ``report.md`` of a study into `out`, or into its own folder; their paths.

    `first`: the study of structures from which this one, inside of some of them, began; `modules`: a study inside of
    structures of this one. `pictures`: also the figures, as still pictures of this format, such as ``svg``. `beside`:
    on the page so many images of the validation split with what a detector of the front and a known one find in them.

    StudyError where a folder holds no study, or `out` another one, or `modules` one that took none of these structures,
    or there are no two detectors for `beside`; DataError or CheckpointError where these have no images or weights;
    ResourceError where nothing can be written, or drawn.
    """
    study = read_study(folder)
    if out is not None and (out / DATABASE).exists() and not out.samefile(folder):
        raise StudyError(str(out), "a folder without a study of its own", "another study's", "choose another --out")
    view = study_view(study, first=first, modules=modules, beside=beside)
    out = out or folder
    written = []
    for name, text in ((HTML, html_report(view, study.trials)), (MARKDOWN, markdown_report(view, study.trials))):
        write_text(out / name, text)
        written.append(out / name)
    return written + ([] if pictures is None else draw_pictures(view, study.trials, out, pictures))


def draw_pictures(view: StudyView, trials: Sequence[Trial], folder: Path, suffix: str) -> list[Path]:
    """The figures of a study as files ``NAME.suffix``: the front, coloured by input and by backbone; where there are
    any, correlations, and stage two's front over stage one's points; their paths."""
    written = []
    for by in get_args(By):
        written.append(folder / f"front-by-{by}.{suffix}")
        save_front(written[-1], view, trials, by)
    if view.analysis is not None and view.analysis.groups:
        written.append(folder / f"correlations.{suffix}")
        save_correlations(written[-1], view.analysis)
    if (both := stages_scene(view, trials)) is not None:
        written.append(folder / f"stages.{suffix}")
        save_stages(written[-1], both)
    return written


def write_analysis(found: Analysis, path: Path) -> None:
    """Write an analysis as ``.json``, as ``.md``, or its correlations as a picture, by how the name ends. RecipeError
    for another end, StudyError where there are no correlations to draw, ResourceError where nothing can be written."""
    if path.suffix == ".json":
        write_json(path, found.to_json())
    elif path.suffix == ".md":
        write_text(path, markdown_analysis(found) + "\n")
    elif path.suffix not in FORMATS:
        raise RecipeError("--out", f"a name that ends in .json, .md, {', '.join(FORMATS)}", repr(path.name))
    elif not found.groups:
        raise StudyError(str(path), "correlations to draw", "no trial with a block code", "write .json or .md")
    else:
        save_correlations(path, found)


def study_view(
    study: StudyRecord, *, first: Path | None = None, modules: Path | None = None, beside: int = 0
) -> StudyView:
    """What the report shows of a study beside its trials; `first`, `modules` and `beside` as in `write_report`."""
    recipe = load_recipe(SearchRecipe, study.folder / RECIPE)
    data = recipe.data
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"file": _near(recipe.data.file)})})
    place = shlex.quote(str(study.folder))
    space = read_space(recipe.space)
    known, parts = _known(study, recipe, space), _parts(study, space)
    times = [trial.started for trial in study.trials if trial.started] + [
        t.finished for t in study.trials if t.finished
    ]
    return StudyView(
        name=study.folder.name,
        folder=str(study.folder),
        objectives=study.objectives,
        seed=recipe.seed,
        limits=tuple(Limit.parse(text) for text in recipe.limits),
        space_size=space.size(),
        created=min(times, default=None),
        finished=max(times, default=None),
        device=f"{study.identity['device_name']} ({study.identity['device']})",
        recipe=to_yaml(recipe),
        data=_data(recipe, read_data_summary(study.folder)),
        versions={
            "detsearch": named(versions()),
            "Trained with detsearch": trained_with(study.trials),
            **{name: version(name) for name in ("torch", "torchvision")},
        },
        commands={
            "Go on, with more trials": f"detsearch search structure --recipe {place}/{RECIPE} --out {place} --trials N",
            "Repeat from the start": f"detsearch search structure --recipe {place}/{RECIPE} --out {place}-again",
            "List the trials": f"detsearch study show {place}",
        },
        train_commands={
            trial.number: f"detsearch train --study {place} --trial {trial.number} --out {place}-{trial.number}"
            for trial in front(study.trials, study.objectives)
        },
        test={number: _figures(scores) for number, scores in read_test_scores(study.folder).items()},
        known=known,
        chosen=frozenset() if modules is None else _chosen(study, modules),
        lifts=_lifts(study, space),
        parts=parts,
        first=None if first is None else _first(first, study.folder),
        training=_training(recipe),
        beside=beside_known(study, known, parts.values(), data, beside),
        analysis=analysis_of(study, space),
    )


def _known(study: StudyRecord, recipe: SearchRecipe, space: AnySpace) -> dict[int, str]:
    """The trials that are known detectors: those that the recipe names to begin with, and baselines."""
    names: dict[DetectorSpec, str] = {}
    for number, text in enumerate(recipe.search.start, 1):
        with suppress(SpecError):  # a file that has gone
            names[resolve(text)] = text if len(text) <= LONGEST else f"start {number}"
    if isinstance(space, StructuresSpace):
        names |= {spec: f"baseline {number}" for number, spec in enumerate(space.baselines, 1)}
    known = (trial for trial in study.trials if trial.origin == GIVEN or trial.spec in names)
    return {trial.number: names.get(trial.spec, "start") for trial in known}


def _chosen(study: StudyRecord, modules: Path) -> frozenset[int]:
    """The trials inside of which the study `modules` searched; StudyError where it is no such study of this one."""
    taken = _structures(modules)
    found = frozenset(trial.number for trial in study.trials if trial.spec in taken)
    if not found:
        raise StudyError(str(modules), f"a search inside of structures of {study.folder}", "one of others")
    return found


def _first(folder: Path, modules: Path) -> FirstStage:
    """What is shown of stage one, the study in `folder`, beside stage two, that in `modules`."""
    study = read_study(folder)
    recipe = load_recipe(SearchRecipe, folder / RECIPE)
    return FirstStage(
        folder=str(folder),
        trials=tuple(measured(study.trials, study.objectives)),
        chosen=_chosen(study, modules),
        training=_training(recipe),
    )


def _structures(folder: Path) -> set[DetectorSpec]:
    """Inside of which a study searched; StudyError where it did not."""
    read_study(folder)  # the better message where there is none
    space = read_space(load_recipe(SearchRecipe, folder / RECIPE).space)
    if not isinstance(space, StructuresSpace):
        raise StudyError(str(folder), "a search inside of structures", "one of another kind")
    return {part.structure for part in space.parts}


def _training(recipe: SearchRecipe) -> str:
    begun = {"none": "from scratch", IMAGENET: "from ImageNet weights"}.get(recipe.weights, "from given weights")
    inherited = ", or the weights of a parent" if recipe.search.inherit else ""
    return f"{count(recipe.training.epochs, 'epoch')} {begun}{inherited}"


def _parts(study: StudyRecord, space: AnySpace) -> dict[str, frozenset[int]]:
    """The trials of each structure inside of which was searched."""
    if not isinstance(space, StructuresSpace):
        return {}
    numbers = {trial.number: space.part_of(trial.spec) for trial in study.trials}
    return {
        format_detector(part.structure): frozenset(trial for trial, of in numbers.items() if of == number)
        for number, part in enumerate(space.parts)
    }


def _lifts(study: StudyRecord, space: AnySpace) -> dict[str, Lift | str]:
    """How far structures were lifted by a search inside of them; nothing of other searches."""
    if not isinstance(space, StructuresSpace):
        return {}
    found = lifts(study.trials, study.objectives, space.baselines, space.part_of)
    return {format_detector(spec): lift for spec, lift in zip(space.baselines, found, strict=True)}


def trained_with(trials: Iterable[Trial]) -> str:
    """The versions, with their commits, that trials were trained with: one, unless the code changed meanwhile."""
    made = (trial.metrics.provenance for trial in trials if trial.metrics is not None)
    return ", ".join(dict.fromkeys(named(p) for p in made if "detsearch" in p))


def _near(path: str) -> str:
    """A path below the working folder as one would type it there; reports are shown to others."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _data(recipe: SearchRecipe, images: dict[str, Any]) -> dict[str, object]:
    roles = {"Training": recipe.data.train, "Validation": recipe.data.val, "Test": recipe.data.test}
    counts = {
        f"{role} images": f"{images[split]['images']} of split {split}, {images[split]['boxes']} objects"
        for role, split in roles.items()
        if split is not None
    }
    return {"Data": recipe.data.file, "Classes": ", ".join(images[recipe.data.train]["classes"]), **counts}


def _figures(scores: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if isinstance(value, float)}
