"""Square crops of images for a classifier: at random while it trains, from the middle when it answers.

As networks are trained and compared on ImageNet since Szegedy et al. ("Going deeper with convolutions", CVPR 2015,
sec. 6) and He et al. (CVPR 2016, sec. 3.4). Images are uint8 (3, H, W) RGB, before and after.
"""

from __future__ import annotations

from typing import Annotated, Final, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from detsearch.data.transforms import Probability
from detsearch.yamlfile import Section

LONGEST: Final = 8
"""Times its short side: what of a longer image is cut off at both ends before it is scaled, since a strip of a few
pixels' width would become one of gigabytes."""

Share = Annotated[float, Field(gt=0, le=1)]
Ratio = Annotated[float, Field(ge=0.1, le=10)]


class CropAugmentation(Section):
    """How training images are varied: a part of the image whose area is a share in `scale` of the whole and whose width
    is `ratio` times its height, both drawn, is scaled to the square; `brightness`, `contrast` and `saturation` are the
    largest change of each, as a fraction."""

    scale: tuple[Share, Share] = (0.08, 1.0)
    ratio: tuple[Ratio, Ratio] = (3 / 4, 4 / 3)
    horizontal_flip: Probability = 0.5
    brightness: Probability = 0.0
    contrast: Probability = 0.0
    saturation: Probability = 0.0

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: the least first, not [{low:g}, {high:g}]")
        return self


class RandomCrop:
    """Crops of `size` x `size` pixels. Which one is drawn depends on the seed that it is called with alone."""

    def __init__(self, size: int, augmentation: CropAugmentation) -> None:
        how = augmentation
        steps: list[torch.nn.Module] = [
            v2.RandomResizedCrop(size, scale=how.scale, ratio=how.ratio, antialias=True),
            v2.RandomHorizontalFlip(how.horizontal_flip),
        ]
        if how.brightness or how.contrast or how.saturation:
            steps.append(v2.ColorJitter(how.brightness, how.contrast, how.saturation))
        self._steps = steps

    def __call__(self, pixels: Tensor, seed: int) -> Tensor:
        # torchvision draws from the global generator, which training draws from too.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for step in self._steps:
                pixels = step(pixels)
        return pixels


def centre_crop(pixels: Tensor, size: int, resize: int) -> Tensor:
    """The middle `size` x `size` pixels of the image at a short side of `resize` >= `size`, its ratio kept."""
    height, width = pixels.shape[1:]
    longest = LONGEST * min(height, width)
    if max(height, width) > longest:
        pixels = F.center_crop(pixels, [min(height, longest), min(width, longest)])
    cropped: Tensor = F.center_crop(F.resize(pixels, [resize], antialias=True), [size, size])
    return cropped


def usual_resize(size: int) -> int:
    """The short side at which an image is answered: 256 for 224, and as much larger for other sizes."""
    return round(size * 256 / 224)
