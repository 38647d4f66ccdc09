"""What predictions at every place of a map are turned into before anything is computed from them."""

from __future__ import annotations

import torch
from torch import Tensor


def per_place(answers: Tensor, values: int) -> Tensor:
    """(B, n * values, H, W) to (B, H * W * n, values); a view where channels come last in memory."""
    return answers.permute(0, 2, 3, 1).reshape(len(answers), -1, values)


def precise(values: Tensor) -> Tensor:
    """At least float32: what autocast computed in less is not precise enough for losses and boxes."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
