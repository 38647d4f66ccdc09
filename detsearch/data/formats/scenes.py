"""Scenes of the synthetic set: which shapes stand where (`compose`), and how that looks (`paint`).

Both are functions of (style, seed, index) alone. Composing is apart from painting because boxes are needed for every
image when the dataset is made, pixels only when it is loaded. Shapes overlap; the later one is in front.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from detsearch.data.masks import RunLengths, encode

MIN_VISIBLE = 0.4  # part of an object that must stay uncovered; a shape that would cover more is not drawn
MAX_SIDE = 0.75  # of the image's short side
MIN_CONTRAST = 70  # sum over the channels of the difference to the mean ground, of 765
MAX_TILT = math.radians(20)

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]


def _cross(u: Array, v: Array) -> Mask:
    horizontal, vertical = np.abs(u), np.abs(v)
    return (np.minimum(horizontal, vertical) <= 0.33) & (np.maximum(horizontal, vertical) <= 1)


def _ring(u: Array, v: Array) -> Mask:
    radius = u * u + v * v
    return (radius <= 1) & (radius >= 0.3)


# Inside or not, in coordinates where the shape spans -1..1 both ways.
SHAPES: dict[str, Callable[[Array, Array], Mask]] = {
    "circle": lambda u, v: u * u + v * v <= 1,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) <= 1,
    "triangle": lambda u, v: (np.abs(u) * 2 <= v + 1) & (v <= 1),
    "cross": _cross,
    "ring": _ring,
}


@dataclass(frozen=True, slots=True)
class Style:
    """What scenes look like: class names by label, image size, fewest and most objects, smallest side; in pixels.
    `tinted`: every class has a colour of its own and the ground is grey, which makes the classes easy to tell.
    `bright`: the ground is dark and shapes are not, so that only their form has to be learnt; not with `tinted`."""

    classes: tuple[str, ...]
    width: int
    height: int
    objects: tuple[int, int]
    min_side: int
    tinted: bool = False
    bright: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """One object: its label, the window of the image (rows, columns) that holds it, its mask and its u in there."""

    label: int
    window: tuple[slice, slice]
    mask: Mask
    u: Array


@dataclass(frozen=True, slots=True)
class Scene:
    """Shapes from back to front. `owner` (H, W) int16 is the number of the shape seen at a pixel, -1 for the ground."""

    shapes: tuple[Shape, ...]
    owner: NDArray[np.int16]

    def visible(self) -> Iterator[tuple[tuple[float, float, float, float], int, float]]:
        """(box, label, area) of every shape, tight around the pixels of it that are seen."""
        for number, shape in enumerate(self.shapes):
            rows, columns = shape.window
            seen = self.owner[shape.window] == number
            ys, xs = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
            box = (
                float(columns.start + xs[0]),
                float(rows.start + ys[0]),
                float(columns.start + xs[-1] + 1),
                float(rows.start + ys[-1] + 1),
            )
            yield box, shape.label, float(seen.sum())

    def masks(self) -> Iterator[RunLengths]:
        """What is seen of every shape, as COCO's annotators outline objects: not what lies behind others."""
        for number, shape in enumerate(self.shapes):
            rows, columns = shape.window
            height, width = self.owner.shape
            yield encode(self.owner[shape.window] == number, columns.start, rows.start, (width, height))


def compose(style: Style, seed: int, index: int) -> Scene:
    """The scene number `index` of `seed`."""
    rng = np.random.default_rng([1, seed, index])
    owner = np.full((style.height, style.width), -1, dtype=np.int16)
    shapes: list[Shape] = []
    full: list[int] = []
    left: list[int] = []
    for _ in range(int(rng.integers(style.objects[0], style.objects[1] + 1))):
        shape = _shape(style, rng)
        beneath = owner[shape.window]
        covered = np.bincount(beneath[shape.mask] + 1, minlength=len(shapes) + 1)[1:]
        if any(left[i] - covered[i] < MIN_VISIBLE * full[i] for i in range(len(shapes))):
            continue
        for i, count in enumerate(covered):
            left[i] -= int(count)
        beneath[shape.mask] = len(shapes)
        full.append(int(shape.mask.sum()))
        left.append(full[-1])
        shapes.append(shape)
    return Scene(tuple(shapes), owner)


def _shape(style: Style, rng: np.random.Generator) -> Shape:
    label = int(rng.integers(len(style.classes)))
    side = math.exp(rng.uniform(math.log(style.min_side), math.log(MAX_SIDE * min(style.width, style.height))))
    stretch = math.exp(rng.uniform(-0.3, 0.3))
    half_u, half_v = side / 2 * math.sqrt(stretch), side / 2 / math.sqrt(stretch)
    tilt = rng.uniform(-MAX_TILT, MAX_TILT)
    reach = math.hypot(half_u, half_v)
    # A centre this far inside leaves at most a third of the shape beyond the edge.
    x = rng.uniform(half_u * 0.4, style.width - half_u * 0.4)
    y = rng.uniform(half_v * 0.4, style.height - half_v * 0.4)
    rows = slice(max(0, math.floor(y - reach)), min(style.height, math.ceil(y + reach) + 1))
    columns = slice(max(0, math.floor(x - reach)), min(style.width, math.ceil(x + reach) + 1))
    dx = (np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5 - x))[None, :]
    dy = (np.arange(rows.start, rows.stop, dtype=np.float32) + np.float32(0.5 - y))[:, None]
    u: Array = (dx * math.cos(tilt) + dy * math.sin(tilt)) / half_u
    v: Array = (dy * math.cos(tilt) - dx * math.sin(tilt)) / half_v
    return Shape(label, (rows, columns), SHAPES[style.classes[label]](u, v), u)


def paint(scene: Scene, style: Style, seed: int, index: int) -> NDArray[np.uint8]:
    """The pixels of a scene, (H, W, 3) RGB."""
    rng = np.random.default_rng([2, seed, index])
    ground, mean = _ground(style, rng)
    canvas = ground.astype(np.int16)
    for number, shape in enumerate(scene.shapes):
        colour = _colour(style, shape.label, mean, rng)
        stripes = 1 + rng.uniform(0, 0.25) * np.sin(shape.u * rng.uniform(2, 12))
        seen = scene.owner[shape.window] == number
        canvas[shape.window][seen] = (stripes[seen][:, None] * colour).astype(np.int16)
    canvas += rng.integers(-14, 15, canvas.shape, dtype=np.int8)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _colour(style: Style, label: int, mean: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """A colour that stands out from the ground."""
    if style.tinted:
        tint = np.array(colorsys.hsv_to_rgb(label / len(style.classes), 0.9, 0.9)) * 255
        return np.asarray(np.clip(tint + rng.uniform(-30, 30, 3), 20, 236))
    if style.bright:
        return np.asarray(mean + rng.uniform(60, 140, 3))
    colour = rng.uniform(20, 236, 3)
    while np.abs(colour - mean).sum() < MIN_CONTRAST:
        colour = rng.uniform(20, 236, 3)
    return colour


def _ground(style: Style, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Soft blotches in related colours with some thin strokes, and its mean colour."""
    darkest, lightest = (10, 90) if style.bright else (40, 216)
    mean = np.repeat(rng.uniform(darkest, lightest), 3) if style.tinted else rng.uniform(darkest, lightest, 3)
    blotches = np.clip(mean + rng.normal(0, 22, (6, 8, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(blotches).resize((style.width, style.height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 7))):  # clutter that is no object
        ends = rng.uniform(0, 1, 4) * (style.width, style.height, style.width, style.height)
        red, green, blue = (int(value) for value in rng.integers(0, lightest + 40, 3))
        draw.line(tuple(ends.tolist()), fill=(red, green, blue), width=int(rng.integers(1, 3)))
    return np.array(image), mean
