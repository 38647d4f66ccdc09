"""``data check``: what is in a dataset, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detsearch.cli import options
from detsearch.cli.output import print_json, say


def register(app: typer.Typer) -> None:
    commands = typer.Typer(no_args_is_help=True, help="Look at datasets.")
    commands.command()(check)
    app.add_typer(commands, name="data")


def check(
    file: Annotated[str, typer.Argument(help="Data file (YAML), or `synthetic`.")],
    samples: Annotated[
        Path | None, typer.Option(help="Folder for drawings of some images with their boxes and masks.")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1000, help="Number of drawings a split.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the choice of images to draw.")] = 0,
    json: options.Json = False,
) -> None:
    """Count images and objects, find every defect and say what is done about each.

    Exit status 2 if the set cannot be used as it is.
    """
    from detsearch.data.check import check as check_data
    from detsearch.report.drawing import draw_samples
    from detsearch.runs.data import open_datafile

    datafile = open_datafile(file)
    report = check_data(datafile)
    drawn = [] if samples is None or not report.usable else draw_samples(datafile, samples, count, seed)
    if json:
        print_json({**report.to_json(), "drawn": [str(path) for path in drawn]})
    else:
        for line in report.lines():
            say(line)
        for path in drawn:
            say(f"drawn: {path}")
    if not report.usable:
        raise typer.Exit(2)
