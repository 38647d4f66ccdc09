"""Losses of the heads."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PRIOR: Final = 0.01
"""Probability of an object that every place begins with, so that the focal loss does not begin with all that are none
(Lin et al., ICCV 2017, sec. 4.1)."""
SMOOTH_BETA: Final = 1 / 9
"""Where the smooth L1 of R-CNN's losses turns from square to linear."""
GIOU_EPS: Final = 1e-7
"""Square pixels added to areas that are divided by."""


def begin_with_prior(logits: nn.Conv2d) -> None:
    """Set the bias of a convolution that gives the logits of objects so that, at weights near zero, all of them have
    the probability `PRIOR`."""
    assert logits.bias is not None
    nn.init.constant_(logits.bias, -math.log((1 - PRIOR) / PRIOR))


def focal_loss(
    logits: Tensor, labels: Tensor, positive: Tensor, counted: Tensor, *, alpha: float, gamma: float
) -> Tensor:
    """Sum of the sigmoid focal loss per image, (B,) (Lin et al., ICCV 2017, eq. 5).

    `logits` (B, A, C); `labels` (B, A) the class of each anchor, used where `positive`; anchors outside `counted` add
    nothing. Nearly every target is 0, so all terms are taken as such and the few others put right: there is no
    (B, A, C) tensor of targets.
    """
    background = (1 - alpha) * _term(logits, gamma).sum(dim=-1)
    own = logits.gather(-1, labels[..., None]).squeeze(-1)
    change = alpha * _term(-own, gamma) - (1 - alpha) * _term(own, gamma)
    return (torch.where(counted, background, 0.0) + torch.where(positive, change, 0.0)).sum(dim=-1)


def _term(logits: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p with p = sigmoid(-logits), the probability given to what is right."""
    return logits.sigmoid().pow(gamma) * F.softplus(logits)


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 - GIoU of boxes (..., 4) with their targets, (...) (Rezatofighi et al., CVPR 2019); 1 where no box has any
    extent, and finite for any finite boxes."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    tx1, ty1, tx2, ty2 = targets.unbind(-1)
    width = torch.minimum(x2, tx2) - torch.maximum(x1, tx1)
    height = torch.minimum(y2, ty2) - torch.maximum(y1, ty1)
    overlap = torch.where((width > 0) & (height > 0), width * height, 0.0)
    union = (x2 - x1) * (y2 - y1) + (tx2 - tx1) * (ty2 - ty1) - overlap
    around = (torch.maximum(x2, tx2) - torch.minimum(x1, tx1)) * (torch.maximum(y2, ty2) - torch.minimum(y1, ty1))
    return 1 - overlap / (union + GIOU_EPS) + (around - union) / (around + GIOU_EPS)


def bounded_iou_loss(log_sides: Tensor, targets: Tensor, *, beta: float) -> Tensor:
    """Smooth L1 of 1 - min(w / w', w' / w), and the same of heights, elementwise (Tychsen-Smith and Petersson, CVPR
    2018; as in Wang et al., CVPR 2019, eq. 5). Both arguments are logarithms of sides, in any unit; the smaller of the
    two ratios is then exp(-|difference|), which cannot overflow."""
    missing = -torch.expm1(-(log_sides - targets).abs())
    return F.smooth_l1_loss(missing, torch.zeros_like(missing), reduction="none", beta=beta)
