"""Masks that a network gives in the cells of a box, as pixels of the image.

The geometry is torchvision's (`paste_masks_in_image`), so that a mask here is the same to the pixel: the box, one cell
wider on every side and cut to whole pixels, holds the probabilities of the cells between zeros, stretched bilinearly.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from detsearch.data.masks import RunLengths, encode

THRESHOLD: Final = 0.5
"""Probability above which a pixel belongs to the object."""


def paste(masks: Tensor, boxes: NDArray[np.float64], width: int, height: int) -> tuple[RunLengths, ...]:
    """Probabilities (N, S, S) of cells that divide `boxes` (N, 4) evenly, as masks of an image of `width` x `height`
    pixels. One mask at a time becomes pixels, those of its box only."""
    cells = masks.shape[-1]
    padded = F.pad(masks.float(), (1, 1, 1, 1))
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * ((cells + 2) / cells)
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    corners = np.concatenate([centre - half, centre + half], axis=1).astype(np.int64)  # towards zero, as torch casts
    found = []
    for mask, (x1, y1, x2, y2) in zip(padded, corners.tolist(), strict=True):
        size = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        inside = F.interpolate(mask[None, None], size=size, mode="bilinear", align_corners=False)[0, 0] > THRESHOLD
        left, top = max(x1, 0), max(y1, 0)
        window = inside[top - y1 : max(height - y1, 0), left - x1 : max(width - x1, 0)]
        found.append(encode(window.numpy(), left, top, (width, height)))
    return tuple(found)
