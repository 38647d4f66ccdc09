"""Anchors on the grids of feature maps, in torchvision's conventions: sizes and corners are whole pixels, and the step
between places is the padded side // the grid's side, whatever the level's nominal stride."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from detsearch.types import FeatureSpec

RATIOS: Final = (0.5, 1.0, 2.0)
"""Height : width (Ren et al., NeurIPS 2015, sec. 3.1.1)."""
OCTAVE: Final = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
"""Sizes of a level's anchors, times the smallest: three in every octave (Lin et al., ICCV 2017, sec. 4)."""
PYRAMID: Final = 5
"""Levels of a usual pyramid."""
CACHED: Final = 16
"""Input shapes whose anchors are kept: training at several scales cycles through few."""


def pyramid_sizes(
    features: FeatureSpec, anchor_scale: float, *, scales: Sequence[float] = (1.0,), finest: int
) -> list[list[float]]:
    """Sides of each level's anchors, in pixels: `anchor_scale` strides, times each of `scales`.

    Where there is one map only, it gets one size for each of the five levels from P`finest` on that a pyramid would
    have, as in the original Faster R-CNN, whose one map has anchors of several sizes (Ren et al., NeurIPS 2015, sec.
    3.1.1).
    """
    if len(features) == 1:
        return [[anchor_scale * 2**level for level in range(finest, finest + PYRAMID)]]
    return [[anchor_scale * stride * scale for scale in scales] for stride in features.strides]


class Anchors(nn.Module):
    """Anchors of the given `sizes` (by level) in all `ratios` at every place; order row, column, ratio, size. Every
    level has the same number of sizes."""

    def __init__(self, sizes: Sequence[Sequence[float]], ratios: Sequence[float] = RATIOS) -> None:
        super().__init__()
        assert len({len(level) for level in sizes}) == 1, "one number of anchors a place on all levels"
        self.cells = [_cell(level, ratios) for level in sizes]
        self.cache: OrderedDict[object, Tensor] = OrderedDict()

    @property
    def per_place(self) -> int:
        return len(self.cells[0])

    def forward(self, features: Sequence[Tensor], padded: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """(A, 4) for all levels one after the other; `padded` is the input's height and width."""
        grids = tuple((int(f.shape[-2]), int(f.shape[-1])) for f in features)
        key = (grids, padded, dtype, features[0].device)
        found = self.cache.get(key)
        if found is None:
            with torch.inference_mode(False):  # kept for training too, which refuses inference tensors
                levels = [_grid(cell, grid, padded) for cell, grid in zip(self.cells, grids, strict=True)]
                found = self.cache[key] = torch.cat(levels).to(device=features[0].device, dtype=dtype)
            if len(self.cache) > CACHED:
                self.cache.popitem(last=False)
        return found


def _cell(level: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """(sizes * ratios, 4) anchors around the origin."""
    sizes = torch.tensor([float(int(size)) for size in level])
    root = torch.tensor(ratios).sqrt()
    widths, heights = ((1 / root)[:, None] * sizes).flatten(), (root[:, None] * sizes).flatten()
    return (torch.stack([-widths, -heights, widths, heights], dim=1) / 2).round()


def _grid(cell: Tensor, grid: tuple[int, int], padded: tuple[int, int]) -> Tensor:
    """(height * width * anchors a place, 4) anchors of one map."""
    y = torch.arange(grid[0]) * (padded[0] // grid[0])
    x = torch.arange(grid[1]) * (padded[1] // grid[1])
    yy, xx = torch.meshgrid(y, x, indexing="ij")
    places = torch.stack([xx, yy, xx, yy], dim=-1)
    return (places[:, :, None] + cell).reshape(-1, 4)
