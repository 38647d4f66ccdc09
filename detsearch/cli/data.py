"""``data check`` and ``data convert``: what is in a dataset and what is wrong with it; the same in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from detsearch.cli import options
from detsearch.cli.output import print_json, say


def register(app: typer.Typer) -> None:
    commands = typer.Typer(no_args_is_help=True, help="Look at datasets, and convert them.")
    commands.command()(check)
    commands.command()(convert)
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

    Exit status 2 if the set cannot be used as it is; what can be drawn of it still is.
    """
    from detsearch.data.check import check as check_data
    from detsearch.files import make_folder
    from detsearch.report.drawing import draw_samples
    from detsearch.runs.data import open_datafile

    datafile = open_datafile(file)
    if samples is not None:
        make_folder(samples)  # one that cannot be made is told before every image is read
    report = check_data(datafile)
    drawn = {} if samples is None else draw_samples(datafile, samples, count, seed)
    if json:
        print_json({**report.to_json(), "drawn": [str(path) for paths in drawn.values() for path in paths]})
    else:
        for line in report.lines():
            say(line)
        for split, paths in drawn.items():
            for path in paths:
                say(f"drawn: {path}")
            if not paths:
                say(f"nothing drawn of {split}: it has no image that can be used")
    if not report.usable:
        raise typer.Exit(2)


def convert(
    file: Annotated[str, typer.Argument(help="Data file (YAML), or `synthetic`.")],
    to: Annotated[Literal["coco", "voc", "yolo", "bdd"], typer.Option(help="Format to write.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New or empty folder; nothing is overwritten.")],
    split: Annotated[
        list[str] | None, typer.Option(help="Split to convert; may be repeated. All if not given.")
    ] = None,
    images: Annotated[
        Literal["copy", "link"],
        typer.Option(help="Copy the image files, or link to them: hard links, on the same file system."),
    ] = "copy",
    json: options.Json = False,
) -> None:
    """Write a dataset in another format, with images and a data file that can be used at once.

    What the format has no place for is said in one line, with how often it occurred.
    """
    from detsearch.data.convert import convert as convert_data
    from detsearch.runs.data import open_datafile

    found = convert_data(open_datafile(file), to, out, splits=split or (), link=images == "link")
    if json:
        print_json(found.to_json())
        return
    for line in found.lines():
        say(line)
