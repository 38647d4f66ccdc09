"""``search structure``, ``search modules``, ``search all`` and ``search head``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detsearch.arch.spaces.modular import MODULES
from detsearch.cli import options
from detsearch.cli.output import log, print_json, resumable, say, stderr
from detsearch.errors import RecipeError, StudyError
from detsearch.runs.settings import SearchRecipe
from detsearch.yamlfile import read_yaml

if TYPE_CHECKING:
    from detsearch.runs.search import Finished


def register(app: typer.Typer) -> None:
    commands = typer.Typer(no_args_is_help=True, help="Search for detectors.")
    commands.command()(structure)
    commands.command()(modules)
    commands.command("all")(stages)
    commands.command()(head)
    app.add_typer(commands, name="search")


def structure(
    recipe: options.SearchRecipe = None,
    data: options.Data = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the study; an existing one is resumed.")] = Path(
        "runs/search"
    ),
    trials: options.Trials = None,
    hours: options.Hours = None,
    workers: options.Workers = None,
    executor: options.Executor = None,
    address: options.Address = None,
    device: options.Device = None,
    seed: options.Seed = None,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Search which modules at which input size give the front of accuracy against latency (SM-NAS, stage one).

    The space is the recipe's section `space`, or `--set 'space.backbone=[...]'`: lists of choices for backbone, neck,
    proposals, head, norm and input. A choice is a module's text, as `fpn(levels=3-4-5)`, or stands for the product of
    its lists: `{fpn: {levels: [3-4-5, 2-3-4-5], width: [64, 128]}}`. `detsearch modules` lists modules and fields.
    In place of these lists, `space.detectors` may list whole detectors, as recipes/preliminary.yaml does with the
    strategy `all`, which trains each of them once; or `space.cells` may vary the cells of one detector's head:
    `{detector: fcos_r18_fpn@512x512, operations: full}`. `detsearch space` prints what a recipe's space holds.

    Ctrl-C lets running trials save; the same command goes on where it stopped.
    """
    from detsearch.runs.recipe import load_recipe

    chosen = load_recipe(
        SearchRecipe,
        recipe,
        settings or (),
        {**_budget(trials, hours), **_how(data, workers, executor, address, device, seed)},
    )
    run_search(chosen, out, json=json)


def modules(
    study: Annotated[
        Path | None, typer.Option("--from", help="Folder of a search of structures, from whose front they are taken.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-k", min=1, help="How many structures: 6 if not given.")
    ] = None,
    trial: Annotated[
        list[int] | None, typer.Option("--trial", min=0, help="Number of a trial to take instead; may be repeated.")
    ] = None,
    recipe: options.SearchRecipe = None,
    data: options.Data = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the study; an existing one is resumed.")] = Path(
        "runs/modules"
    ),
    trials: options.Trials = None,
    hours: options.Hours = None,
    workers: options.Workers = None,
    executor: options.Executor = None,
    address: options.Address = None,
    device: options.Device = None,
    seed: options.Seed = None,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Search inside the modules of some structures: block code and widths, trained from scratch (SM-NAS, stage two).

    The structures are spread along the front of a study of `search structure`, or named by `--trial`; data and training
    are the study's where the recipe does not say otherwise (recipes/modules.yaml has the paper's training), but nothing
    is frozen, and `--set 'space.modules.base=[8,12]'` and the like say what may vary. Each structure is trained as it
    is first; all searches share one budget and one pool of workers, and the report shows how far each structure was
    lifted. Without `--from`, the recipe names the structures itself.

    Ctrl-C lets running trials save; the same command goes on where it stopped, inside of the same structures, whatever
    has become of the study.
    """
    from detsearch.runs.modules import modular_recipe
    from detsearch.runs.recipe import load_recipe

    values = {**_budget(trials, hours), **_how(data, workers, executor, address, device, seed)}
    if study is None:
        if count is not None or trial:
            raise RecipeError("--count and --trial", "--from beside them", "none")
        chosen = load_recipe(SearchRecipe, recipe, settings or (), values)
        if MODULES not in chosen.space:
            raise RecipeError("--from", f"a study, or a recipe with a section space.{MODULES}", "neither")
    else:
        chosen = modular_recipe(
            study,
            count=count,
            trials=trial or (),
            raw={} if recipe is None else read_yaml(recipe, RecipeError),
            where="recipe" if recipe is None else str(recipe),
            settings=settings or (),
            options=values,
            folder=out,
            tell=log,
        )
    run_search(chosen, out, json=json, first=study)


def stages(
    recipe: Annotated[
        Path,
        typer.Option(
            "--recipe", "-r", help="Recipe (YAML) of both stages. `detsearch schema all` prints what may stand in it."
        ),
    ],
    data: options.Data = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of both studies; an existing one is resumed.")
    ] = Path("runs/all"),
    trials: options.Trials = None,
    hours: options.Hours = None,
    workers: options.Workers = None,
    executor: options.Executor = None,
    address: options.Address = None,
    device: options.Device = None,
    seed: options.Seed = None,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Both stages of SM-NAS with one budget: structures, then inside the modules of those along the front.

    The studies are in `structure` and `modules` below the folder. Both stages are looked at before the first begins.
    Ctrl-C lets running trials save; the same command goes on where it stopped, and with more trials or hours it goes on
    further: once the second stage has begun, with that one, inside of the same structures.
    """
    from detsearch.report.study import write_report
    from detsearch.runs.folders import MODULES_FOLDER, STRUCTURE_FOLDER, expect_stages
    from detsearch.runs.modules import structures_in
    from detsearch.runs.recipe import load_recipe
    from detsearch.runs.settings import StagesRecipe
    from detsearch.runs.stages import check_second_stage, first_stage, second_stage

    chosen = load_recipe(StagesRecipe, recipe, settings or (), _budget(trials, hours))
    how = _how(data, workers, executor, address, device, seed)
    one, two = out / STRUCTURE_FOLDER, out / MODULES_FOLDER
    expect_stages(out)
    found: dict[str, Any] = {}
    spent = 0.0
    if structures_in(two) is None:
        first = first_stage(chosen, how)
        check_second_stage(chosen, first, how, tell=log)
        began = time.monotonic()
        finished, found[STRUCTURE_FOLDER] = _search(first, one, json=json)
        if (bad := _bad_end(finished, one)) is not None:
            if json:
                print_json(found)
            raise bad
        spent = (time.monotonic() - began) / 3600
    second = second_stage(chosen, one, hours=spent, options=how, folder=two, tell=log)
    finished, found[MODULES_FOLDER] = _search(second, two, json=json, first=one)
    if json:
        print_json(found)
    if (bad := _bad_end(finished, two)) is not None:
        raise bad
    write_report(one, modules=two)


def head(
    detector: Annotated[
        str | None,
        typer.Option(help="Preset or code with an fcos or retinanet head, or with a mask branch. Sets detector."),
    ] = None,
    recipe: options.HeadRecipe = None,
    data: options.Data = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the search; an existing one is resumed.")] = Path(
        "runs/head"
    ),
    iterations: Annotated[int | None, typer.Option(min=1, help="Most iterations. Sets cells.iterations.")] = None,
    device: options.Device = None,
    seed: options.Seed = None,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Search the cells of a detector's head, or of its mask branch, by gradients (FAD).

    The training images are cut into two disjoint halves: on one the weights of all candidate operations are trained, on
    the other the choice between them. The result is a detector like any other, in `detector.txt` in the folder, with
    `train.yaml`, the recipe that trains it, and a report with its cells drawn. The recipe's section `cells` says how it
    is searched: which operations, what they share, how long; `--set cells.method=random` draws cells instead.

    Ctrl-C saves; the same command goes on where it stopped.
    """
    from detsearch.report.heads import train_command, write_head_report
    from detsearch.runs.heads import DETECTOR, search_head
    from detsearch.runs.recipe import load_recipe
    from detsearch.runs.settings import HeadSearchRecipe
    from detsearch.training.progress import progress_on

    chosen = load_recipe(
        HeadSearchRecipe,
        recipe,
        settings or (),
        {"detector": detector, "data.file": data, "cells.iterations": iterations, "device": device, "seed": seed},
    )
    with resumable(out):
        found = search_head(chosen, out, progress=progress_on(stderr), warn=log)
    report = write_head_report(out, found)
    if json:
        print_json({**found.facts, "folder": str(out), "file": str(out / DETECTOR), "report": str(report)})
        return
    for group, cell in found.cells.items():
        say(f"{group}: {cell}")
    say(f"detector: {found.facts['detector']}")
    say(f"report: {report}")
    say(f"train it: {train_command(out)}")


def run_search(recipe: SearchRecipe, out: Path, *, json: bool, first: Path | None = None) -> None:
    """Run a search, write its report, and print the front; exit status 130 if it was interrupted. `first` is the study
    of structures from which a search inside of some of them began."""
    finished, found = _search(recipe, out, json=json, first=first)
    if json:
        print_json(found)
    if (bad := _bad_end(finished, out)) is not None:
        raise bad


def _search(
    recipe: SearchRecipe, out: Path, *, json: bool, first: Path | None = None
) -> tuple[Finished, dict[str, Any]]:
    """Run a search, write its report, and print the front unless `json` is wanted; where it ended, also for that."""
    from detsearch.cli.progress import print_event
    from detsearch.cli.study import print_study
    from detsearch.report.study import write_report
    from detsearch.runs.search import search_structure

    finished = search_structure(
        recipe, out, on_event=print_event, on_start=lambda size: log(f"a space of {size} detectors")
    )
    written = write_report(out, first=first)
    log(f"ended: {finished.ending}; {finished.trained} trained of a space of {finished.space}")
    if not json:
        print_study(out)
        for path in written:
            say(f"report: {path}")
    return finished, {
        "folder": str(out), "ending": str(finished.ending), "report": [str(path) for path in written],
        "space": finished.space, "trained": finished.trained, "front": finished.front,
    }  # fmt: skip


def _bad_end(finished: Finished, out: Path) -> StudyError | typer.Exit | None:
    """What to raise where a search has trained nothing, or was interrupted: exit status 130."""
    from detsearch.search.study import Ending

    if finished.ending is Ending.INTERRUPTED:
        log("repeat the command to go on")
        return typer.Exit(130)
    return None if finished.trained else StudyError(str(out), "a trained candidate", "none", finished.reason)


def _budget(trials: int | None, hours: float | None) -> dict[str, Any]:
    """What the options say of what may be spent."""
    return {"budget.trials": trials, "budget.hours": hours}


def _how(
    data: str | None,
    workers: int | None,
    executor: str | None,
    address: str | None,
    device: str | None,
    seed: int | None,
) -> dict[str, Any]:
    """What the options that all searches of a space have say of how each stage is run."""
    return {
        "data.file": data,
        "execution.workers": workers,
        "execution.executor": executor,
        "execution.address": address,
        "device": device,
        "seed": seed,
    }
