"""``eval`` and ``predict``: a checkpoint on a split, and on images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from detsearch.cli import options
from detsearch.cli.output import print_json, say
from detsearch.cli.tables import accuracy_lines
from detsearch.types import InputSize

if TYPE_CHECKING:
    from detsearch.evaluation.predict import ImagePrediction
    from detsearch.report.drawing import Answer

Checkpoint = Annotated[Path, typer.Argument(help="Checkpoint (checkpoint.pt) that a training wrote.")]


def register(app: typer.Typer) -> None:
    app.command(name="eval")(evaluate)
    app.command()(predict)


def evaluate(
    checkpoint: Checkpoint,
    data: Annotated[str, typer.Option("--data", "-d", help="Data file (YAML), or `synthetic`.")],
    split: Annotated[str, typer.Option(help="Split, or several joined by +.")] = "val",
    input: options.Input = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 8,
    voc: Annotated[
        Literal["area", "11points"],
        typer.Option(help="VOC's AP: area under the curve (2010 on), or the mean of 11 points (2007)."),
    ] = "area",
    device: options.Device = None,
    json: options.Json = False,
) -> None:
    """Score a checkpoint on a split: COCO's 12 numbers, AP by class, VOC's AP50."""
    from detsearch.runs.predict import evaluate_checkpoint

    found = evaluate_checkpoint(checkpoint, data, split, _size(input), device=device or "auto", batch=batch, voc=voc)
    if json:
        print_json(found)
        return
    say(found["code"])
    for line in accuracy_lines(f"{split} ({found['images']} images)", found):
        say(line)


def predict(
    checkpoint: Checkpoint,
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of images.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the images with what was found drawn.")
    ] = None,
    beside: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint of another detector, such as a known one: its answers, side by side in drawings."
        ),
    ] = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Least score of a box.")] = 0.5,
    input: options.Input = None,
    device: options.Device = None,
    json: options.Json = False,
) -> None:
    """Detect objects in images, and draw boxes and masks into copies of them with --out.

    With --json, masks are COCO's run lengths.
    """
    from detsearch.report.drawing import Answer, draw_predictions
    from detsearch.runs.predict import predict_images

    files = [checkpoint, *([] if beside is None else [beside])]
    answering = [predict_images(file, images, _size(input), device=device or "auto") for file in files]
    found = []
    for answers in zip(*answering, strict=True):
        path = answers[0][0]
        told = [
            Answer(str(Path(file.parent.name, file.name)), prediction, classes)
            for file, (_, prediction, classes) in zip(files, answers, strict=True)
        ]
        shown = [_detections(answer, threshold) for answer in told]
        drawn = None if out is None else draw_predictions(path, told, out, threshold=threshold)
        entry = {"image": str(path), "drawn": None if drawn is None else str(drawn), "detections": shown[0]}
        found.append(entry if beside is None else {**entry, "beside": shown[1]})
        if not json:
            listed = "; beside it: ".join(_counts(answer, some) for answer, some in zip(told, shown, strict=True))
            say(f"{path}: {listed}" + (f" -> {drawn}" if drawn else ""))
    if json:
        print_json(found)


def _counts(answer: Answer, detections: Sequence[Mapping[str, Any]]) -> str:
    """``3 cat, 1 dog``."""
    counts = {name: sum(d["class"] == name for d in detections) for name in answer.names}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing"


def _detections(answer: Answer, threshold: float) -> list[dict[str, Any]]:
    prediction = answer.prediction
    kept = (i for i in range(len(prediction)) if prediction.scores[i] >= threshold)
    return [_detection(prediction, i, answer.names) for i in kept]


def _detection(prediction: ImagePrediction, i: int, classes: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "box": [round(float(x), 2) for x in prediction.boxes[i]],
        "score": round(float(prediction.scores[i]), 4),
        "class": classes[int(prediction.labels[i])],
    }
    if prediction.masks is not None:
        found["mask"] = prediction.masks[i].to_coco()
    if prediction.mask_scores is not None:
        found["mask_score"] = round(float(prediction.mask_scores[i]), 4)
    return found


def _size(text: str | None) -> InputSize | None:
    return None if text is None else InputSize.parse(text)
