"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from detsearch.errors import RecipeError

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")]


def _recipe(kind: str) -> Any:
    text = f"Recipe (YAML). `detsearch schema {kind}` prints what may stand in it."
    return typer.Option("--recipe", "-r", help=text)


TrainRecipe = Annotated[Path | None, _recipe("train")]
PretrainRecipe = Annotated[Path | None, _recipe("pretrain")]
SearchRecipe = Annotated[Path | None, _recipe("search")]
HeadRecipe = Annotated[Path | None, _recipe("head")]
CompareRecipe = Annotated[Path | None, _recipe("compare")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="FIELD=VALUE", help="Set a field of the recipe, as training.epochs=5."),
]
Data = Annotated[str | None, typer.Option("--data", "-d", help="Data file (YAML), or `synthetic`. Sets data.file.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of everything random. Sets seed.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda:0, ... Sets device.")]
Devices = Annotated[
    int | None, typer.Option(min=1, help="Share every batch among so many: GPUs, or processes. Sets devices.")
]
Trials = Annotated[int | None, typer.Option(min=1, help="Candidates to train. Sets budget.trials.")]
Hours = Annotated[float | None, typer.Option(min=0.001, help="Wall time. Sets budget.hours.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Trials at once. Sets execution.workers.")]
Executor = Annotated[
    str | None, typer.Option(help="processes, or ray: a cluster that runs already. Sets execution.executor.")
]
Address = Annotated[str | None, typer.Option(help="Of the Ray cluster. Sets execution.address.")]
Input = Annotated[str | None, typer.Option("--input", "-i", metavar="WxH", help="Input size in pixels.")]
Detector = Annotated[
    str,
    typer.Argument(
        help="Preset, such as faster_rcnn_r50_fpn or fcos_r18_fpn@800x600 (`detsearch modules` lists all), code, such "
        "as resnet18/fpn/retinanet@512x512 (quote it), or a file that holds one."
    ),
]


def trial_of(study: Path | None, trial: int | None, named: str | None, what: str) -> tuple[Path, int] | None:
    """The trial that ``--study`` and ``--trial`` name, if they do; RecipeError for one of the two alone, and where the
    command line has `named` another `what`."""
    if (study is None) != (trial is None):
        raise RecipeError("--study", "--study and --trial together", "one of them")
    if study is None or trial is None:
        return None
    if named is not None:
        raise RecipeError("--study", f"no {what} beside it", named)
    return study, trial
