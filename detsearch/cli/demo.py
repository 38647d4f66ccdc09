"""``demo``: the whole road in minutes, with nothing downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detsearch.cli import options
from detsearch.cli.search import run_search
from detsearch.runs.settings import SearchRecipe


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the study.")] = Path("runs/demo"),
    seed: options.Seed = None,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Search slim detectors on the built-in synthetic images: a front and its report in a few minutes on a CPU."""
    from detsearch.runs.recipe import builtin, load_recipe

    run_search(load_recipe(SearchRecipe, builtin("demo"), settings or (), {"seed": seed}), out, json=json)
