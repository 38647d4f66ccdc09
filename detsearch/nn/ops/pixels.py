"""What images are turned into before a network sees them."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from detsearch.nn.interfaces import PixelScaled
from detsearch.nn.structures import ImageBatch

MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
"""Of ImageNet, RGB in 0..1: what published backbones were trained with."""


def per_channel(values: tuple[float, float, float]) -> Tensor:
    """(3, 1, 1) of values in 0..1, for pixels in 0..255."""
    return torch.tensor(values).view(3, 1, 1) * 255


def statistics_for(backbone: object) -> tuple[Tensor, Tensor]:
    """Mean and deviation, (3, 1, 1) for pixels in 0..255, that a backbone's pixels are normalised with: its own, or
    ImageNet's."""
    if isinstance(backbone, PixelScaled):
        return per_channel(backbone.pixel_mean), per_channel(backbone.pixel_std)
    return per_channel(MEAN), per_channel(STD)


def normalised(images: ImageBatch, mean: Tensor, std: Tensor) -> ImageBatch:
    """uint8 pixels to zero mean and unit variance in the precision of `mean` and `std` (3, 1, 1), whatever lies in the
    padding to zero; floating-point pixels are taken as normalised already."""
    if images.pixels.is_floating_point():
        return images
    height, width = images.padded
    device = images.pixels.device
    rows = torch.arange(height, device=device) < images.sizes[:, :1]
    columns = torch.arange(width, device=device) < images.sizes[:, 1:]
    inside = (rows[:, None, :, None] & columns[:, None, None, :]).to(mean.dtype)
    return ImageBatch(images.pixels.to(mean.dtype).sub_(mean).div_(std).mul_(inside), images.sizes)
