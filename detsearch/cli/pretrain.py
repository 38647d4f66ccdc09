"""``pretrain``: a backbone as a classifier of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detsearch.arch.spec import Norm
from detsearch.cli import options
from detsearch.cli.output import log, print_json, quantity, resumable, say, stderr


def register(app: typer.Typer) -> None:
    app.command()(pretrain)


def pretrain(
    backbone: Annotated[
        str | None,
        typer.Argument(
            help="Block code, name such as resnet18, or a detector's preset (E0), code (quote it) or file, whose "
            "backbone is meant; from recipe or --study if not given."
        ),
    ] = None,
    recipe: options.PretrainRecipe = None,
    study: Annotated[Path | None, typer.Option(help="Take the backbone of a trial of this study.")] = None,
    trial: Annotated[int | None, typer.Option(min=0, help="Number of the trial, with --study.")] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", help="Folder with train/CLASS/*.jpg and val/CLASS/*.jpg. Sets data.root."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for checkpoint, log, figures and backbone.pt.")
    ] = Path("runs/pretrain"),
    epochs: Annotated[int | None, typer.Option(min=1, help="Sets training.epochs.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the images that the network sees, pixels.")] = None,
    norm: Annotated[Norm | None, typer.Option(help="Norm of the backbone, bn if not given.")] = None,
    device: options.Device = None,
    devices: options.Devices = None,
    seed: options.Seed = None,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Train a backbone as an image classifier and report top-1 and top-5 accuracy. Ctrl-C saves; the same command goes
    on where it stopped.

    A detector with that backbone and norm then begins with its weights: `train ... --set weights=OUT/backbone.pt`.
    """
    from detsearch.runs.pretrain import pretrain as run
    from detsearch.runs.pretrain_recipe import PretrainRecipe
    from detsearch.runs.recipe import load_recipe
    from detsearch.runs.search import code_of_trial
    from detsearch.training.progress import progress_on

    if (found_in := options.trial_of(study, trial, backbone, "backbone")) is not None:
        backbone = code_of_trial(*found_in)
    values = {
        "backbone": backbone,
        "data.root": data,
        "training.epochs": epochs,
        "size": size,
        "norm": norm,
        "device": device,
        "devices": devices,
        "seed": seed,
    }
    chosen = load_recipe(PretrainRecipe, recipe, settings or (), values)
    with resumable(out):
        found = run(chosen, out, progress=progress_on(stderr), tell=log)
    if json:
        print_json(found)
        return
    say(found["code"])
    images = ", ".join(f"{count:,} {split}" for split, count in found["images"].items())
    took = f"{found['train_seconds']:.0f} s on {found['device_name']}"
    say(f"{found['classes']} classes, {images} images of {found['input']}; {found['epochs']} epochs in {took}")
    say(f"{quantity(found['params'])} parameters, {quantity(found['macs'])} MACs")
    say(f"top-1 {100 * found['top1']:.2f} %, top-5 {100 * found['top5']:.2f} %")
    if "published" in found:
        say(f"published by {found['published']['source']}: top-1 {100 * found['published']['top1']:.2f} %")
    say(f"checkpoint: {found['checkpoint']}")
    say(f"weights of the backbone: {found['weights']}")
