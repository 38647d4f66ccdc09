"""RoIAlign whose gradient is fast on a CPU, and can be differentiated again."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torchvision.ops import roi_align

MOST_PLACES: Final = 1 << 14
"""Of a map, up to which products of matrices are faster on a CPU than torchvision's loop over corners: 6 times on maps
of 24x18 places, 3 times on 80x64, 1.4 times on 168x100, half as fast on 336x200 (one thread)."""
MOST_VALUES: Final = 1 << 22
"""In a product between the two directions: what bounds the memory of a gradient."""


def align(level: Tensor, rois: Tensor, size: int, scale: float, sampling: int) -> Tensor:
    """RoIAlign (He et al., "Mask R-CNN", ICCV 2017), as `torchvision.ops.roi_align` without a shift by half a pixel:
    the mean of `sampling` x `sampling` points in each of `size` x `size` cells.

    `level` (B, C, H, W) of stride 1 / `scale`; `rois` (N, 5): number of the image, corners in pixels, which get no
    gradient; (N, C, size, size). Values are torchvision's own; gradients equal its own up to rounding.
    """
    if not (torch.is_grad_enabled() and level.requires_grad):
        aligned: Tensor = roi_align(level, rois, size, scale, sampling)
    else:
        aligned = _Align.apply(level, rois, size, scale, sampling)
    return aligned


class _Align(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, level: Tensor, rois: Tensor, size: int, scale: float, sampling: int) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.shape, ctx.fields = level.shape, (size, scale, sampling)
        aligned: Tensor = roi_align(level, rois, size, scale, sampling)
        return aligned

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (rois,) = ctx.saved_tensors
        size, scale, sampling = ctx.fields
        images, channels, height, width = ctx.shape
        again = torch.is_grad_enabled()  # the gradient itself is to be differentiated: torchvision's cannot be
        if again or (gradient.device.type == "cpu" and height * width <= MOST_PLACES):
            with torch.autocast(gradient.device.type, enabled=False):  # shares of a place need their precision
                back = spread(gradient, rois, scale, sampling, ctx.shape)
        else:
            back = torch.ops.torchvision._roi_align_backward(
                gradient, rois, scale, size, size, images, channels, height, width, sampling, False
            )
        return back, None, None, None, None


def spread(gradient: Tensor, rois: Tensor, scale: float, sampling: int, shape: torch.Size) -> Tensor:
    """The gradient of `align` by its map of `shape`, from that by what it gave, (N, C, size, size).

    A point between four places is interpolated along x and along y, and the points of a region form a grid: so the
    weight of a place in a cell is a product of one for its column and one for its row, and both directions become
    products of matrices.
    """
    images, channels, height, width = shape
    size = gradient.shape[-1]
    x1, y1, x2, y2 = (rois[:, 1:] * scale).unbind(1)
    rows = _shares(y1, (y2 - y1).clamp(min=1), size, sampling, height)
    columns = _shares(x1, (x2 - x1).clamp(min=1), size, sampling, width)
    lines = gradient.transpose(1, 2).reshape(len(rois), size * channels, size)
    most = max(1, MOST_VALUES // (size * channels * width))
    found = []
    for image in range(images):  # each has regions, and so a shape, of its own
        total = gradient.new_zeros((height, channels * width))
        for part in torch.split((rois[:, 0] == image).nonzero().squeeze(1), most):
            across = torch.bmm(lines[part], columns[part]).view(-1, channels * width)
            total = torch.addmm(total, rows[part].flatten(0, 1).t(), across)
        found.append(total.view(height, channels, width).transpose(0, 1))
    return torch.stack(found)


def _shares(start: Tensor, length: Tensor, cells: int, sampling: int, places: int) -> Tensor:
    """(N, cells, places): the weight of each place of a line in each cell of N regions on it, in units of places.

    Points less than a place outside the line stand for its end, those farther out for nothing.
    """
    numbers = torch.arange(max(cells, sampling, places), dtype=start.dtype, device=start.device)
    cell = (length / cells)[:, None, None]
    # In torchvision's order of operations, so that points are rounded to the same places.
    at = start[:, None, None] + numbers[:cells, None] * cell + (numbers[:sampling] + 0.5) * cell / sampling
    inside = (at >= -1) & (at <= places)
    off = at.clamp(0, places - 1)[..., None] - numbers[:places]
    return ((1 - off.abs()).clamp(min=0) * inside[..., None]).mean(dim=2)
