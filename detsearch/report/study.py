"""From a study's folder to its report."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from detsearch import __version__
from detsearch.arch.code import format_detector
from detsearch.arch.spaces.base import Space
from detsearch.arch.spaces.section import read_space
from detsearch.arch.spaces.structures import StructuresSpace
from detsearch.errors import StudyError
from detsearch.files import write_text
from detsearch.report.html import html_report
from detsearch.report.tables import markdown_report
from detsearch.report.view import StudyView
from detsearch.runs.recipe import load_recipe, to_yaml
from detsearch.runs.revision import commit
from detsearch.runs.search import read_data_summary, read_test_scores
from detsearch.runs.settings import SearchRecipe
from detsearch.runs.train import RECIPE
from detsearch.search.ledger import StudyRecord, read_study
from detsearch.search.lift import Lift, lifts
from detsearch.search.objective import Limit
from detsearch.search.pareto import front
from detsearch.search.storage import DATABASE
from detsearch.search.trial import Trial

HTML: Final = "report.html"
MARKDOWN: Final = "report.md"


def write_report(folder: Path, out: Path | None = None) -> list[Path]:
    """Write ``report.html`` and ``report.md`` of a study into `out`, or into its own folder; their paths.

    StudyError where the folder holds no study, or `out` another one; ResourceError where nothing can be written.
    """
    study = read_study(folder)
    if out is not None and (out / DATABASE).exists() and not out.samefile(folder):
        raise StudyError(str(out), "a folder without a study of its own", "another study's", "choose another --out")
    view = study_view(study)
    out = out or folder
    written = []
    for name, text in ((HTML, html_report(view, study.trials)), (MARKDOWN, markdown_report(view, study.trials))):
        write_text(out / name, text)
        written.append(out / name)
    return written


def study_view(study: StudyRecord) -> StudyView:
    """What the report shows of a study beside its trials."""
    recipe = load_recipe(SearchRecipe, study.folder / RECIPE)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"file": _near(recipe.data.file)})})
    place = shlex.quote(str(study.folder))
    space = read_space(recipe.space)
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
            "detsearch": _named(__version__, commit()),
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
        lifts=_lifts(study, space),
    )


def _lifts(study: StudyRecord, space: Space) -> dict[str, Lift | None]:
    """How far structures were lifted by a search inside of them; nothing of other searches."""
    if not isinstance(space, StructuresSpace):
        return {}
    found = lifts(study.trials, study.objectives, space.baselines, space.part_of)
    return {format_detector(spec): lift for spec, lift in zip(space.baselines, found, strict=True)}


def trained_with(trials: Iterable[Trial]) -> str:
    """The versions, with their commits, that trials were trained with: one, unless the code changed meanwhile."""
    made = (trial.metrics.provenance for trial in trials if trial.metrics is not None)
    return ", ".join(dict.fromkeys(_named(p["detsearch"], p.get("commit")) for p in made if "detsearch" in p))


def _named(number: object, revision: object) -> str:
    return f"{number}" if revision is None else f"{number} ({revision})"


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
