"""What is done to an image, its boxes and its masks on the way to a network: fitting, and augmentation.

Pixels stay uint8; every step carries boxes and masks. An image passes two steps, so that the first one's result can be
kept in memory: `prepare` shrinks it to what the input size and the strongest enlargement can use, `augment` does the
random part. Images are (3, H, W) RGB, boxes (M, 4) x1, y1, x2, y2 in pixels, continuous coordinates, masks (M, H, W)
uint8, 0 or 1. A box stays the annotator's, moved; it is not drawn anew around what is left of its mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional as F

from detsearch.types import InputSize
from detsearch.yamlfile import Section

MIN_VISIBLE = 0.3  # a box that keeps less of its area in a crop is dropped
MIN_SIDE = 1.0  # and so is one that is thinner than a pixel of the network's input

Probability = Annotated[float, Field(ge=0, le=1)]


class Augmentation(Section):
    """How training images are varied.

    `scale` is the range of a factor on the fitted size, drawn uniformly in its logarithm: a larger image is cropped at
    random to the input's box, a smaller one leaves more padding. `brightness`, `contrast` and `saturation` are the
    largest change of each, as a fraction.
    """

    horizontal_flip: Probability = 0.5
    vertical_flip: Probability = 0.0
    scale: tuple[Annotated[float, Field(ge=0.1, le=1)], Annotated[float, Field(ge=1, le=10)]] = (1.0, 1.0)
    brightness: Probability = 0.0
    contrast: Probability = 0.0
    saturation: Probability = 0.0

    @classmethod
    def none(cls) -> Self:
        """Nothing is varied."""
        return cls(horizontal_flip=0)


@dataclass(frozen=True, slots=True)
class Sample:
    """An image with its targets: `pixels` uint8 (3, H, W), `boxes` (M, 4) float32, `labels` (M,) int64; `masks`
    (M, H, W) uint8 where they are asked for."""

    pixels: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None

    @property
    def width(self) -> int:
        return self.pixels.shape[2]

    @property
    def height(self) -> int:
        return self.pixels.shape[1]

    def only(self, kept: Tensor) -> Self:
        """With the objects that `kept` (M,) bool chooses."""
        masks = None if self.masks is None else self.masks[kept]
        return replace(self, boxes=self.boxes[kept], labels=self.labels[kept], masks=masks)


def prepared_size(width: int, height: int, size: InputSize, enlarge: float = 1.0) -> tuple[int, int]:
    """(width, height) to which `prepare` brings an image: fitted, `enlarge` times as large, but never enlarged beyond
    both the fitted and the stored size."""
    fitted = size.fit(width, height)
    if enlarge == 1.0 or fitted[0] >= width:
        return fitted
    factor = min(enlarge, width / fitted[0])
    across, down = min(width, round(fitted[0] * factor)), min(height, round(fitted[1] * factor))
    return max(across, fitted[0]), max(down, fitted[1])


def prepare(pixels: Tensor, size: InputSize, enlarge: float = 1.0) -> Tensor:
    """The image at its `prepared_size`: a bilinear, antialiased resize on uint8."""
    return _resized(pixels, *prepared_size(pixels.shape[2], pixels.shape[1], size, enlarge))


def augment(sample: Sample, size: InputSize, augmentation: Augmentation, rng: np.random.Generator) -> Sample:
    """A prepared image varied at random, not larger than `size` (turned, for a portrait image).

    Every draw is made whether it is needed or not, so that one setting does not shift another's random numbers.
    """
    draws = rng.random(8)
    low, high = augmentation.scale
    factor = math.exp(math.log(low) + draws[0] * (math.log(high) - math.log(low)))
    sample = _scaled(sample, size, factor, draws[1], draws[2])
    if draws[3] < augmentation.horizontal_flip:
        sample = flip_horizontal(sample)
    if draws[4] < augmentation.vertical_flip:
        sample = flip_vertical(sample)
    sample = _recoloured(sample, augmentation, draws[5:])
    large_enough = (sample.boxes[:, 2:] - sample.boxes[:, :2] >= MIN_SIDE).all(dim=1)
    return sample.only(large_enough)


def resize(sample: Sample, width: int, height: int) -> Sample:
    """The sample stretched to `width` x `height`."""
    ratio = torch.tensor([width / sample.width, height / sample.height] * 2)
    boxes = sample.boxes * ratio
    boxes[:, 0::2].clamp_(max=width)  # rounding
    boxes[:, 1::2].clamp_(max=height)
    masks = None if sample.masks is None else resize_masks(sample.masks, width, height)
    return Sample(_resized(sample.pixels, width, height), boxes, sample.labels, masks)


def resize_masks(masks: Tensor, width: int, height: int) -> Tensor:
    """Masks (M, h, w) uint8 as (M, `height`, `width`): a pixel belongs to an object that covers its centre. To filter
    them like images takes four times as long, for what differs by half a pixel at most."""
    if len(masks) == 0:
        return masks.new_zeros((0, height, width))
    if masks.shape[1:] == (height, width):
        return masks
    return interpolate(masks[None], (height, width), mode="nearest-exact")[0]


def crop(sample: Sample, left: int, top: int, width: int, height: int) -> Sample:
    """A window of the sample. Boxes are cut at its edge; one of which less than `MIN_VISIBLE` is left is dropped."""
    rows, columns = slice(top, top + height), slice(left, left + width)
    limit = sample.boxes.new_tensor([width, height] * 2)
    moved = sample.boxes - sample.boxes.new_tensor([left, top] * 2)
    boxes = torch.minimum(moved.clamp(min=0), limit)
    kept = _area(boxes) >= MIN_VISIBLE * _area(sample.boxes)
    kept &= _area(boxes) > 0
    masks = None if sample.masks is None else sample.masks[:, rows, columns]
    return Sample(sample.pixels[:, rows, columns], boxes, sample.labels, masks).only(kept)


def flip_horizontal(sample: Sample) -> Sample:
    """Left and right exchanged."""
    x1, y1, x2, y2 = sample.boxes.unbind(dim=1)
    boxes = torch.stack([sample.width - x2, y1, sample.width - x1, y2], dim=1)
    return Sample(sample.pixels.flip(2), boxes, sample.labels, None if sample.masks is None else sample.masks.flip(2))


def flip_vertical(sample: Sample) -> Sample:
    """Top and bottom exchanged."""
    x1, y1, x2, y2 = sample.boxes.unbind(dim=1)
    boxes = torch.stack([x1, sample.height - y2, x2, sample.height - y1], dim=1)
    return Sample(sample.pixels.flip(1), boxes, sample.labels, None if sample.masks is None else sample.masks.flip(1))


def _scaled(sample: Sample, size: InputSize, factor: float, across: float, down: float) -> Sample:
    """The sample at `factor` times its fitted size, cropped to the input's box at the place (across, down) in 0..1."""
    fitted = size.fit(sample.width, sample.height)
    long, short = max(size.width, size.height), min(size.width, size.height)
    box = (long, short) if sample.width >= sample.height else (short, long)
    scaled = [max(1, round(side * factor)) for side in fitted]
    result = [min(scaled[i], box[i]) for i in (0, 1)]
    # Cropping first costs less than resizing first; the window is whole pixels of the prepared image.
    sides = (sample.width, sample.height)
    window = [max(1, round(sides[i] * result[i] / scaled[i])) for i in (0, 1)]
    left, top = (round(place * (side - part)) for place, side, part in zip((across, down), sides, window, strict=True))
    if tuple(window) != sides:
        sample = crop(sample, left, top, window[0], window[1])
    return resize(sample, result[0], result[1])


def _recoloured(
    sample: Sample, augmentation: Augmentation, draws: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> Sample:
    steps = (
        (augmentation.brightness, F.adjust_brightness),
        (augmentation.contrast, F.adjust_contrast),
        (augmentation.saturation, F.adjust_saturation),
    )
    pixels = sample.pixels
    for (strength, adjust), draw in zip(steps, draws, strict=True):
        if strength > 0:
            pixels = adjust(pixels, 1 + strength * (2 * float(draw) - 1))
    return replace(sample, pixels=pixels)


def _resized(pixels: Tensor, width: int, height: int) -> Tensor:
    if (pixels.shape[2], pixels.shape[1]) == (width, height):
        return pixels
    # torch 2.15's kernel for uint8 gives wrong pixels, or fails, where the result is one pixel wide.
    exact = pixels.float() if width == 1 else pixels
    result: Tensor = F.resize(exact, [height, width], antialias=True)
    return result.round().to(torch.uint8) if width == 1 else result


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
