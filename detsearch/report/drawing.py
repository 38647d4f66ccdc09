"""Boxes with names, and masks, drawn into images."""

from __future__ import annotations

import colorsys
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from itertools import count as numbers
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from detsearch.data import images
from detsearch.data.datafile import DataFile
from detsearch.data.masks import Segmentation, decode
from detsearch.errors import DataError
from detsearch.evaluation.predict import ImagePrediction
from detsearch.files import replacing

OPACITY = 0.45  # of a mask
GOLDEN = 0.618034  # a step of the hue that keeps neighbouring classes apart, whatever their number

Colour = tuple[int, int, int]


def class_colour(label: int) -> Colour:
    """A clear colour, the same for a label everywhere."""
    red, green, blue = colorsys.hsv_to_rgb(label * GOLDEN % 1, 0.85 if label % 2 else 0.65, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_boxes(
    pixels: Tensor,
    boxes: ArrayLike,
    labels: Sequence[int],
    names: Sequence[str],
    scores: Sequence[float] | None = None,
    masks: Sequence[Segmentation | None] | None = None,
) -> Image.Image:
    """`pixels` (3, H, W) uint8 with `boxes` (M, 4) x1, y1, x2, y2, each under the name of its label and its score, and
    translucent `masks` (M) in the same colours."""
    canvas = pixels.permute(1, 2, 0).cpu().numpy().copy()
    for label, mask in zip(labels, masks or (), strict=False):
        if mask is not None:
            inside = decode([mask], (canvas.shape[1], canvas.shape[0]))[0].numpy() > 0
            tint = np.asarray(class_colour(label))
            canvas[inside] = (canvas[inside] * (1 - OPACITY) + tint * OPACITY).astype(np.uint8)
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    short = min(image.size)
    line = max(1, round(short / 250))
    font = ImageFont.load_default(size=min(28, max(10, short // 30)))
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    # Large ones first, so that small ones lie on top.
    for i in np.argsort(-(corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]), kind="stable").tolist():
        x1, y1, x2, y2 = corners[i].tolist()
        colour = class_colour(labels[i])
        # The last pixel that a box covers is the one before its far corner.
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=line)
        text = names[labels[i]] if scores is None else f"{names[labels[i]]} {scores[i]:.2f}"
        _label(draw, text, x1, y1, font, colour, image.size)
    return image


def _label(
    draw: ImageDraw.ImageDraw,
    text: str,
    x: float,
    y: float,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    colour: Colour,
    size: tuple[int, int],
) -> None:
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    x = max(0, min(x, size[0] - width))
    y = max(0, y - height)
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    draw.text((x + 2 - left, y + 2 - top), text, font=font, fill=(0, 0, 0) if bright else (255, 255, 255))


def draw_samples(datafile: DataFile, folder: Path, count: int, seed: int) -> dict[str, list[Path]]:
    """Draw `count` images of every split, chosen at random, as PNG files in `folder`; their paths by split.

    Images that cannot be used, damaged ones among them, are passed over, and so are objects, and splits that cannot be
    read at all. ResourceError if the folder cannot be written.
    """
    drawn: dict[str, list[Path]] = {}
    for split in datafile.splits:
        drawn[split] = []
        try:
            dataset, _ = datafile.inspect(split, decode=True, masks=True)
        except DataError:  # `data check` says what is wrong with it
            continue
        chosen = random.Random(f"{seed} {split}").sample(range(len(dataset)), min(count, len(dataset)))
        for record in (dataset.records[i] for i in sorted(chosen)):
            image = draw_boxes(
                record.load(), record.boxes, record.labels.tolist(), dataset.classes, masks=record.segmentations
            )
            path = folder / f"{split}_{record.image_id}_{record.path.stem}.png"
            save_image(image, path)
            drawn[split].append(path)
    return drawn


@dataclass(frozen=True, slots=True)
class Answer:
    """What a detector, called `title`, found in an image, and the `names` of its classes."""

    title: str
    prediction: ImagePrediction
    names: Sequence[str]


def draw_predictions(path: Path, answers: Sequence[Answer], folder: Path, *, threshold: float) -> Path:
    """Draw the detections of an image from `threshold` on into a PNG copy of it in `folder`; its path. Of several
    detectors each draws into a copy of its own, side by side under their titles; classes of equal names have one
    colour.

    The file's name has a number where another file stands already; nothing is overwritten. DataError if the image
    cannot be read, ResourceError if the folder cannot be written.
    """
    image = draw_answers(images.decode(path), answers, threshold=threshold)
    names_left = (f"{path.stem}{suffix}.png" for suffix in chain([""], (f"-{n}" for n in numbers(2))))
    file = next(folder / name for name in names_left if not (folder / name).exists())
    save_image(image, file)
    return file


def draw_answers(pixels: Tensor, answers: Sequence[Answer], *, threshold: float) -> Image.Image:
    """`pixels` (3, H, W) uint8 with the detections from `threshold` on, as `draw_predictions` puts them in a file."""
    names = list(dict.fromkeys(chain.from_iterable(answer.names for answer in answers)))
    drawn = []
    for answer in answers:
        kept = answer.prediction.scores >= threshold
        masks = answer.prediction.masks
        drawn.append(
            draw_boxes(
                pixels,
                answer.prediction.boxes[kept],
                [names.index(answer.names[label]) for label in answer.prediction.labels[kept].tolist()],
                names,
                answer.prediction.scores[kept].tolist(),
                None if masks is None else [masks[i] for i in np.flatnonzero(kept)],
            )
        )
    return drawn[0] if len(drawn) == 1 else side_by_side(drawn, [answer.title for answer in answers])


def side_by_side(pictures: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Pictures of one size beside each other, each under its title, which is cut where it is wider."""
    width, height = pictures[0].size
    size = min(28, max(10, width // 24))
    font = ImageFont.load_default(size=size)
    top, gap = 2 * size, max(2, width // 60)
    sheet = Image.new("RGB", (len(pictures) * (width + gap) - gap, top + height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        left, shown = number * (width + gap), title
        while shown and draw.textlength(shown, font=font) > width - 4:
            shown = shown[1:]  # the end tells files apart
        draw.text((left + 2, size // 2), shown, font=font, fill=(0, 0, 0))
        sheet.paste(picture, (left, top))
    return sheet


def save_image(image: Image.Image, path: Path) -> None:
    """Write an image whole or not at all, its folder made if need be; ResourceError if that cannot be done."""
    with replacing(path) as partial:
        image.save(partial)
