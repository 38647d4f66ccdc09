"""Anchors on the grids of feature maps, in torchvision's conventions: sizes and corners are whole pixels, and the step
between places is the padded side // the grid's side, whatever the level's nominal stride."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

SCALES: Final = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
RATIOS: Final = (0.5, 1.0, 2.0)
"""Height : width (RetinaNet, Lin et al., ICCV 2017, sec. 4)."""
CACHED: Final = 16
"""Input shapes whose anchors are kept: training at several scales cycles through few."""


class Anchors(nn.Module):
    """Nine anchors a place, whose smallest side is ``anchor_scale`` strides; order row, column, ratio, scale."""

    def __init__(self, strides: Sequence[int], anchor_scale: float = 4.0) -> None:
        super().__init__()
        self.cells = [_cell(anchor_scale * stride) for stride in strides]
        self.cache: OrderedDict[object, Tensor] = OrderedDict()

    @property
    def per_place(self) -> int:
        return len(SCALES) * len(RATIOS)

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


def _cell(base: float) -> Tensor:
    """(9, 4) anchors around the origin."""
    sizes = torch.tensor([float(int(base * scale)) for scale in SCALES])
    root = torch.tensor(RATIOS).sqrt()
    widths, heights = ((1 / root)[:, None] * sizes).flatten(), (root[:, None] * sizes).flatten()
    return (torch.stack([-widths, -heights, widths, heights], dim=1) / 2).round()


def _grid(cell: Tensor, grid: tuple[int, int], padded: tuple[int, int]) -> Tensor:
    """(height * width * 9, 4) anchors of one map."""
    y = torch.arange(grid[0]) * (padded[0] // grid[0])
    x = torch.arange(grid[1]) * (padded[1] // grid[1])
    yy, xx = torch.meshgrid(y, x, indexing="ij")
    places = torch.stack([xx, yy, xx, yy], dim=-1)
    return (places[:, :, None] + cell).reshape(-1, 4)
