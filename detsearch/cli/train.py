"""``train``: one detector, or one point of a study's front."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detsearch.arch.spec import Norm
from detsearch.cli import options
from detsearch.cli.output import print_json, resumable, say, stderr
from detsearch.cli.tables import accuracy_lines


def register(app: typer.Typer) -> None:
    app.command()(train)


def train(
    detector: Annotated[
        str | None,
        typer.Argument(help="Preset, code (quote it), or a file that holds one; from recipe or --study if not given."),
    ] = None,
    recipe: options.TrainRecipe = None,
    study: Annotated[
        Path | None,
        typer.Option(help="Train a trial of this study, as its recipe says, but for the sections of a --recipe."),
    ] = None,
    trial: Annotated[int | None, typer.Option(min=0, help="Number of the trial, with --study.")] = None,
    data: options.Data = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for checkpoint, log and figures.")] = Path(
        "runs/train"
    ),
    epochs: Annotated[int | None, typer.Option(min=1, help="Sets training.epochs.")] = None,
    input: options.Input = None,
    norm: Annotated[
        Norm | None, typer.Option(help="Norm in place of the detector's, such as bn after a search with gn_ws.")
    ] = None,
    device: options.Device = None,
    devices: options.Devices = None,
    seed: options.Seed = None,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Train a detector and score it. Ctrl-C saves; the same command goes on where it stopped."""
    from detsearch.arch.code import format_detector
    from detsearch.arch.presets import resolve
    from detsearch.runs.recipe import load_recipe
    from detsearch.runs.search import recipe_of_trial
    from detsearch.runs.settings import TrainRecipe
    from detsearch.runs.train import train_recipe
    from detsearch.training.progress import progress_on
    from detsearch.types import InputSize

    values = {
        "detector": detector,
        "data.file": data,
        "training.epochs": epochs,
        "norm": norm,
        "device": device,
        "devices": devices,
        "seed": seed,
    }
    if (found_in := options.trial_of(study, trial, detector, "detector")) is not None:
        chosen = recipe_of_trial(*found_in, settings or (), values, recipe)
    else:
        chosen = load_recipe(TrainRecipe, recipe, settings or (), values)
    if input is not None:
        spec = resolve(chosen.detector, InputSize.parse(input))
        chosen = chosen.model_copy(update={"detector": format_detector(spec)})
    with resumable(out):
        found = train_recipe(chosen, out, progress=progress_on(stderr))
    if json:
        print_json(found)
        return
    say(found["code"])
    took = f"{found['train_seconds']:.0f} s on {found['device_name']}"
    say(f"{found['epochs']} epochs of {found['images']} images in {took}")
    for split, accuracy in found["scores"].items():
        for line in accuracy_lines(split, accuracy):
            say(line)
    say(f"checkpoint: {found['checkpoint']}")
