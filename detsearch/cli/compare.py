"""``compare``: arms over seeds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from detsearch.cli import options
from detsearch.cli.output import log, print_json, say
from detsearch.errors import TrainingError


def register(app: typer.Typer) -> None:
    app.command()(compare)


def compare(
    recipe: options.CompareRecipe = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the comparison; an existing one is gone on with.")
    ] = Path("runs/compare"),
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at once. Sets workers.")] = None,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Run the same training, or search of a head, in several arms over the same seeds, and print the table: means with
    95 % intervals, and differences from the first arm at equal seeds.

    Everything is checked, for all arms, before the first run begins. A run that fails on its way ends only itself: it
    is named below the table, and the exit status is 1.

    Ctrl-C saves; the same command goes on, also with more arms and seeds.
    """
    from detsearch.files import write_json, write_text
    from detsearch.report.comparison import markdown_comparison
    from detsearch.runs import compare as runs
    from detsearch.runs.recipe import load_recipe
    from detsearch.runs.settings import CompareRecipe
    from detsearch.search.trial import TrialInterrupted

    chosen = load_recipe(CompareRecipe, recipe, settings or (), {"workers": workers})
    try:
        found = runs.compare(chosen, out, tell=log)
    except TrialInterrupted:
        log(f"detsearch: stopped on request; saved in {out}; repeat the command to go on")
        raise typer.Exit(130) from None
    table = markdown_comparison(found)
    record = {"device": found.device, "rows": [asdict(row) for row in found.rows], "failed": dict(found.failed)}
    write_text(out / "table.md", table)
    write_json(out / "table.json", record)
    if json:
        print_json({"folder": str(out), **record})
    else:
        say(table)
        say(f"table: {out / 'table.md'}")
    if found.failed:
        count = f"{len(found.failed)} of {len(chosen.arms) * len(chosen.seeds)}"
        names = ", ".join(found.failed)
        raise TrainingError(f"{count} runs failed: {names}; the same command tries them again")
