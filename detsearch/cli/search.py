"""``search structure``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detsearch.cli import options
from detsearch.cli.output import log, print_json, say
from detsearch.errors import StudyError
from detsearch.runs.settings import SearchRecipe


def register(app: typer.Typer) -> None:
    commands = typer.Typer(no_args_is_help=True, help="Search for detectors.")
    commands.command()(structure)
    # With a single command typer would leave its name out.
    commands.callback()(lambda: None)
    app.add_typer(commands, name="search")


def structure(
    recipe: options.Recipe = None,
    data: options.Data = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the study; an existing one is resumed.")] = Path(
        "runs/search"
    ),
    trials: Annotated[int | None, typer.Option(min=1, help="Candidates to train. Sets budget.trials.")] = None,
    hours: Annotated[float | None, typer.Option(min=0.001, help="Wall time. Sets budget.hours.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Trials at once. Sets execution.workers.")] = None,
    device: options.Device = None,
    seed: options.Seed = None,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Search which modules at which input size give the front of accuracy against latency (SM-NAS, stage one).

    The space is the recipe's section `space`, or `--set space.backbone=[...]`: lists of choices for backbone, neck,
    proposals, head, norm and input. A choice is a module's text, as `fpn(levels=3-4-5)`, or stands for the product of
    its lists: `{fpn: {levels: [3-4-5, 2-3-4-5], width: [64, 128]}}`. `detsearch modules` lists modules and fields.
    In place of these lists, `space.detectors` may list whole detectors, as recipes/preliminary.yaml does with the
    strategy `all`, which trains each of them once. `detsearch space` prints what a recipe's space holds.

    Ctrl-C lets running trials save; the same command goes on where it stopped.
    """
    from detsearch.runs.recipe import load_recipe

    chosen = load_recipe(
        SearchRecipe,
        recipe,
        settings or (),
        {
            "data.file": data,
            "budget.trials": trials,
            "budget.hours": hours,
            "execution.workers": workers,
            "device": device,
            "seed": seed,
        },
    )
    run_search(chosen, out, json=json)


def run_search(recipe: SearchRecipe, out: Path, *, json: bool) -> None:
    """Run a search, write its report, and print the front; exit status 130 if it was interrupted."""
    from detsearch.cli.progress import print_event
    from detsearch.cli.study import print_study
    from detsearch.report.study import write_report
    from detsearch.runs.search import search_structure
    from detsearch.search.study import Ending

    finished = search_structure(
        recipe, out, on_event=print_event, on_start=lambda size: log(f"a space of {size} detectors")
    )
    written = write_report(out)
    log(f"ended: {finished.ending}; {finished.trained} trained of a space of {finished.space}")
    if json:
        print_json({"folder": str(out), "ending": str(finished.ending), "report": [str(path) for path in written],
                    "space": finished.space, "trained": finished.trained, "front": finished.front})  # fmt: skip
    else:
        print_study(out)
        for path in written:
            say(f"report: {path}")
    if finished.ending is Ending.INTERRUPTED:
        log("repeat the command to go on")
        raise typer.Exit(130)
    if not finished.trained:
        raise StudyError(str(out), "a trained candidate", "none", finished.reason)
