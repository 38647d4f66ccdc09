"""Which of many candidates a loss looks at."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Sampler(Protocol):
    """Chooses among the `positive` (B, A) bool and the `negative` (B, A) bool candidates of each image: those chosen of
    the first, those chosen of the second, (B, A) bool both. Injected, so that a test can choose without chance."""

    def __call__(self, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]: ...


class BalancedSampler:
    """At random (torch's global generator) `count` candidates an image, of which at most `positive_share` positive;
    where positives lack, negatives take their place (Ren et al., NeurIPS 2015, sec. 3.1.3)."""

    def __init__(self, count: int, positive_share: float) -> None:
        self.count = count
        self.positives = int(count * positive_share)

    def __call__(self, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        lots = torch.rand(positive.shape, device=positive.device)
        most = torch.full_like(positive[:, :1], self.positives, dtype=torch.int64)
        chosen = _drawn(lots, positive, self.positives, most)
        return chosen, _drawn(lots, negative, self.count, self.count - chosen.sum(dim=1, keepdim=True))


def _drawn(lots: Tensor, candidates: Tensor, limit: int, wanted: Tensor) -> Tensor:
    """(B, A) bool: the candidates with the highest lots, `wanted` (B, 1) of each image, which is at most `limit`."""
    best = lots.masked_fill(~candidates, -1.0).topk(min(limit, lots.shape[1]), dim=1).indices
    within = torch.arange(best.shape[1], device=best.device) < wanted
    return torch.zeros_like(candidates).scatter_(1, best, within) & candidates
