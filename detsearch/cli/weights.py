"""``weights``: published detectors as checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detsearch.cli import options
from detsearch.cli.output import print_json, say


def register(app: typer.Typer) -> None:
    app.command()(weights)


def weights(
    name: Annotated[
        str,
        typer.Argument(
            help="torchvision's name: fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn or retinanet_resnet50_fpn, each "
            "also with _v2, or fcos_resnet50_fpn."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Checkpoint to write, a new file; its name ends in .pt.")],
    file: Annotated[
        Path | None, typer.Option("--file", help="Local file of such weights, in place of the published ones.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Make a checkpoint of a detector that torchvision publishes, trained on COCO, for COCO's 80 classes.

    `eval`, `predict` and `latency` take it, and `train` begins with it: `--set weights=CHECKPOINT`, with the network
    that is printed; with other classes than COCO's, the layers that depend on their number begin afresh.
    """
    from detsearch.runs.weights import import_torchvision

    found = import_torchvision(name, file, out)
    if json:
        print_json(found)
        return
    say(f"{found['network']}@{found['input']}, {len(found['classes'])} classes")
    say(f"checkpoint: {found['checkpoint']}")
