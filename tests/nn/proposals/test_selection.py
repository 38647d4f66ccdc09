from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops.boxes import _batched_nms_vanilla

from detsearch.nn.ops.boxes import clip, decode
from detsearch.nn.proposals.selection import best_proposals

SIZES = torch.tensor([[60, 64], [64, 50]])


def _answers(counts: list[int], seed: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Logits, deltas and anchors of levels of so many anchors, some outside the images."""
    generator = torch.Generator().manual_seed(seed)
    logits = [3 * torch.randn(2, count, generator=generator, dtype=torch.float64) for count in counts]
    deltas = [0.3 * torch.randn(2, count, 4, generator=generator, dtype=torch.float64) for count in counts]
    corners = [torch.rand(count, 2, generator=generator, dtype=torch.float64) * 80 - 10 for count in counts]
    return logits, deltas, [torch.cat([corner, corner + 12 + 4 * i], dim=1) for i, corner in enumerate(corners)]


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(1, 30), st.integers(1, 40), st.booleans(),
    st.integers(0, 2**16),
)  # fmt: skip
def test_the_best_of_every_level_then_of_all(
    counts: list[int], candidates: int, keep: int, own: bool, seed: int
) -> None:
    """As one image and one level after the other would find them; anchors shared by the images or each its own."""
    logits, deltas, anchors = _answers(counts, seed)
    if own:
        anchors = [torch.stack([level, level + 3]) for level in anchors]
    found = best_proposals(logits, deltas, anchors, SIZES, candidates=candidates, keep=keep, iou_threshold=0.5)
    for i in range(2):
        boxes, scores, levels = [], [], []
        for level, (logit, d, a) in enumerate(zip(logits, deltas, anchors, strict=True)):
            rows = logit[i].argsort(descending=True)[:candidates]
            decoded = decode(d[i][rows], (a[i] if own else a)[rows])
            boxes.append(clip(decoded[None], SIZES[i : i + 1])[0])
            scores.append(logit[i][rows].sigmoid())
            levels.append(torch.full_like(rows, level))
        box, score, level_of = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
        inside = ((box[:, 2:] - box[:, :2]) >= 1e-3).all(dim=1)
        box, score, level_of = box[inside], score[inside], level_of[inside]
        kept = _batched_nms_vanilla(box, score, level_of, 0.5)[:keep]
        number = len(kept)
        assert found.valid[i].tolist() == [True] * number + [False] * (keep - number)
        torch.testing.assert_close(found.boxes[i, :number], box[kept])
        torch.testing.assert_close(found.scores[i, :number], score[kept])
        assert not found.boxes[i, number:].any()


def test_filled_up_whatever_the_answers() -> None:
    """With `fill` there are `keep` even where all boxes are the same."""
    logits, deltas = [torch.zeros(2, 30), torch.zeros(2, 6)], [torch.zeros(2, 30, 4), torch.zeros(2, 6, 4)]
    anchors = [torch.tensor([[2.0, 2, 20, 20]]).expand(count, 4) for count in (30, 6)]
    few = best_proposals(logits, deltas, anchors, SIZES, candidates=10, keep=14, iou_threshold=0.7)
    assert few.valid.sum(dim=1).tolist() == [2, 2]
    full = best_proposals(logits, deltas, anchors, SIZES, candidates=10, keep=14, iou_threshold=0.7, fill=True)
    assert full.valid.all()


@pytest.mark.parametrize("wrong", [-torch.inf, torch.nan])
def test_what_must_not_be_taken(wrong: float) -> None:
    logits, deltas, anchors = _answers([20, 5], 0)
    logits[0][0], logits[1][0] = wrong, wrong
    found = best_proposals(logits, deltas, anchors, SIZES, candidates=50, keep=10, iou_threshold=0.5, fill=True)
    assert found.valid.any(dim=1).tolist() == [False, True]
    assert not found.boxes[0].any()
    deltas[0][1], deltas[1][1] = torch.nan, torch.nan
    assert not best_proposals(
        logits, deltas, anchors, SIZES, candidates=50, keep=10, iou_threshold=0.5, fill=True
    ).valid.any()


def test_no_gradient() -> None:
    logits, deltas, anchors = _answers([20], 0)
    deltas[0].requires_grad_()
    found = best_proposals(logits, deltas, anchors, SIZES, candidates=50, keep=10, iou_threshold=0.5)
    assert not found.boxes.requires_grad
