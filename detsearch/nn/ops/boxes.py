"""Box arithmetic, batched. Boxes are (..., 4) x1, y1, x2, y2 in pixels; deltas (..., 4) dx, dy, dw, dh."""

from __future__ import annotations

import math
from typing import Final, TypeAlias

import torch
from torch import Tensor

MAX_LOG_SCALE: Final = math.log(1000 / 16)
"""Largest dw and dh that are decoded: exp of more would overflow (torchvision's and detectron2's bound)."""

Weights: TypeAlias = tuple[float, float, float, float]
"""Factors of dx, dy, dw, dh, by which a network's answers are larger than the deltas; (10, 10, 5, 5) is usual (after
Girshick, "Fast R-CNN", ICCV 2015, sec. 2.3, where targets are divided by their deviations)."""
PLAIN: Final[Weights] = (1.0, 1.0, 1.0, 1.0)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every box of a (..., M, 4) with every box of b (..., N, 4): (..., M, N); 0 where both have no area."""
    # By coordinate: contiguous (M, N) planes instead of (M, N, 2) pairs, which vectorise badly.
    ax1, ay1, ax2, ay2 = (coordinate.unsqueeze(-1) for coordinate in a.unbind(-1))
    bx1, by1, bx2, by2 = (coordinate.unsqueeze(-2).contiguous() for coordinate in b.unbind(-1))
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp_(min=0)
    overlap = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp_(min=0).mul_(width)
    area = (ax2 - ax1) * (ay2 - ay1) + torch.finfo(a.dtype).tiny  # lost in rounding unless both areas are 0
    union = (area + (bx2 - bx1) * (by2 - by1)).sub_(overlap)
    return overlap.div_(union)


def encode(boxes: Tensor, anchors: Tensor, weights: Weights = PLAIN) -> Tensor:
    """Deltas that move `anchors` onto `boxes` (Girshick et al., CVPR 2014, appendix C), times `weights`."""
    centre_b, size_b = _centre_size(boxes)
    centre_a, size_a = _centre_size(anchors)
    deltas = torch.cat([(centre_b - centre_a) / size_a, torch.log(size_b / size_a)], dim=-1)
    return _scaled(deltas, weights)


def decode(deltas: Tensor, anchors: Tensor, weights: Weights = PLAIN) -> Tensor:
    """Boxes that `deltas` make of `anchors`; the inverse of `encode` up to MAX_LOG_SCALE."""
    x, y, w, h = weights
    deltas = _scaled(deltas, (1 / x, 1 / y, 1 / w, 1 / h))
    centre, size = _centre_size(anchors)
    centre = deltas[..., :2] * size + centre
    half = 0.5 * (deltas[..., 2:].clamp(max=MAX_LOG_SCALE).exp() * size)
    return torch.cat([centre - half, centre + half], dim=-1)


def encode_sides(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Distances (..., 4) of each anchor's centre from the left, upper, right and lower side of its box, in units of the
    anchor's sides; negative where the centre lies outside (Tian et al., "FCOS", ICCV 2019, eq. 1)."""
    centre, size = _centre_size(anchors)
    return torch.cat([(centre - boxes[..., :2]) / size, (boxes[..., 2:] - centre) / size], dim=-1)


def decode_sides(sides: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `encode_sides`."""
    centre, size = _centre_size(anchors)
    return torch.cat([centre - sides[..., :2] * size, centre + sides[..., 2:] * size], dim=-1)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (B, K, 4) cut at their image: `sizes` (B, 2) height and width."""
    limit = sizes.flip(-1).repeat(1, 2).unsqueeze(1).to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limit)


def at_least(boxes: Tensor, side: float) -> Tensor:
    """(...) bool: whether both sides of each box (..., 4) have `side` pixels."""
    return (boxes[..., 2:] - boxes[..., :2] >= side).all(dim=-1)


def _scaled(deltas: Tensor, factors: Weights) -> Tensor:
    """By coordinate: a tensor of factors would have to be sent to the device first."""
    if factors == PLAIN:
        return deltas
    return torch.stack([d * factor for d, factor in zip(deltas.unbind(-1), factors, strict=True)], dim=-1)


def _centre_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size
