"""What predictions at every place of a map are turned into before anything is computed from them."""

from __future__ import annotations

import torch
from torch import Tensor


def per_place(answers: Tensor, values: int) -> Tensor:
    """(B, n * values, H, W) to (B, H * W * n, values); a view where channels come last in memory."""
    return answers.permute(0, 2, 3, 1).reshape(len(answers), -1, values)


def best_pairs(scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, places and classes, each (B, K), of the K = min(`count`, all) best pairs of place and class in (B, A, C)
    `scores`, best first."""
    classes = scores.shape[-1]
    rows = best_places(scores.amax(dim=-1), count) if classes > 1 else None
    if rows is not None:
        scores = scores.gather(1, rows[..., None].expand(-1, -1, classes))
    best, index = scores.flatten(1).topk(min(count, scores[0].numel()), dim=1)
    row, label = index // classes, index % classes
    return best, row if rows is None else rows.gather(1, row), label


def best_places(best: Tensor, count: int) -> Tensor | None:
    """The `count` places whose best class is best, of (B, A) such scores; None if that is all of them. They hold the
    `count` best pairs of place and class, which are then found among far fewer values."""
    return best.topk(count, dim=1, sorted=False).indices if best.shape[1] > count else None


def precise(values: Tensor) -> Tensor:
    """At least float32: what autocast computed in less is not precise enough for losses and boxes."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
