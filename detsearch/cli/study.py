"""``study show`` and ``report``: what a study has found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detsearch.cli import options
from detsearch.cli.output import print_json, say, stdout

Folder = Annotated[Path, typer.Argument(help="Folder of a study.")]


def register(app: typer.Typer) -> None:
    commands = typer.Typer(no_args_is_help=True, help="Look at studies.")
    commands.command()(show)
    commands.callback()(lambda: None)
    app.add_typer(commands, name="study")
    app.command()(report)


def show(folder: Folder, json: options.Json = False) -> None:
    """The trials of a study, finished or running, its front marked."""
    from detsearch.search.ledger import read_study
    from detsearch.search.pareto import front

    if not json:
        print_study(folder)
        return
    study = read_study(folder)
    on_front = {trial.number for trial in front(study.trials, study.objectives)}
    print_json(
        {
            "folder": str(folder),
            "objectives": [str(objective) for objective in study.objectives],
            "front": sorted(on_front),
            "trials": [trial.to_json() for trial in study.trials],
        }
    )


def report(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to write it; the study's folder if not given.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Write the report of a study: one self-contained HTML file, and the tables as Markdown."""
    from detsearch.report.study import write_report

    written = [str(path) for path in write_report(folder, out)]
    if json:
        print_json({"report": written})
        return
    for path in written:
        say(path)


def print_study(folder: Path) -> None:
    """The table of a study's trials."""
    from detsearch.report.tables import terminal_table
    from detsearch.search.ledger import read_study

    study = read_study(folder)
    stdout.print(terminal_table(study.trials, study.objectives))
