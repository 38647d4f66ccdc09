from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import nms
from torchvision.ops.boxes import _batched_nms_vanilla

from detsearch.nn.ops.nms import best_per_class


def _candidates(images: int, count: int, classes: int, seed: int, levels: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand((images, count, 2), generator=generator) * 30
    boxes = torch.cat([corner, corner + 5 + torch.rand((images, count, 2), generator=generator) * 20], dim=-1)
    scores = torch.randint(0, levels, (images, count), generator=generator) / levels
    labels = torch.randint(0, classes, (images, count), generator=generator)
    valid = torch.rand((images, count), generator=generator) < 0.8
    return boxes, scores, labels, valid


@given(st.integers(1, 3), st.integers(0, 40), st.integers(1, 4), st.integers(0, 2**16), st.sampled_from([3, 2**20]))
def test_equal_to_suppression_of_each_class_alone(
    images: int, count: int, classes: int, seed: int, levels: int
) -> None:
    """With many equal scores and with hardly any."""
    boxes, scores, labels, valid = _candidates(images, count, classes, seed, levels)
    found = best_per_class(boxes, scores, labels, valid, iou_threshold=0.5, keep=12)
    for i in range(images):
        b, s, c = boxes[i][valid[i]], scores[i][valid[i]], labels[i][valid[i]]
        order = s.argsort(descending=True, stable=True)
        alive = torch.zeros(len(s), dtype=torch.bool)
        alive[_batched_nms_vanilla(b[order], s[order], c[order], 0.5)] = True
        kept = order[alive][:12]
        number = len(kept)
        assert found.valid[i].tolist() == [True] * number + [False] * (12 - number)
        assert torch.equal(found.boxes[i, :number], b[kept])
        assert torch.equal(found.scores[i, :number], s[kept])
        assert torch.equal(found.labels[i, :number], c[kept])
        assert not found.boxes[i, number:].any()
        assert not found.scores[i, number:].any()
        assert not found.labels[i, number:].any()


@pytest.mark.parametrize(("count", "classes", "together"), [(400, 1, False), (400, 40, True), (900, 3, False)])
def test_many_and_few(count: int, classes: int, together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of suppression, as chosen, and against each other."""
    candidates = _candidates(2, count, classes, 0, 2**20)
    calls: list[int] = []

    def counted(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
        calls.append(len(boxes))
        return nms(boxes, scores, threshold)

    monkeypatch.setattr("detsearch.nn.ops.nms.nms", counted)
    found = best_per_class(*candidates, iou_threshold=0.5, keep=count)
    assert len(calls) == (1 if together else 2 * classes)
    monkeypatch.setattr("detsearch.nn.ops.nms.TOGETHER", 0 if together else 10**9)
    other = best_per_class(*candidates, iou_threshold=0.5, keep=count)
    assert len(calls) == 1 + 2 * classes
    assert torch.equal(found.boxes, other.boxes)
    assert torch.equal(found.labels, other.labels)
    assert torch.equal(found.scores, other.scores)


def test_a_box_that_is_not_finite_spoils_no_other() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 11], [float("inf"), 0, float("nan"), 5], [50, 50, 60, 60]]])
    labels = torch.tensor([[0, 0, 1, 0]])
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6]])
    found = best_per_class(boxes, scores, labels, scores > 0, iou_threshold=0.5, keep=4)
    assert [round(score, 1) for score in found.scores[0].tolist()] == [0.9, 0.7, 0.6, 0.0]


def test_equal_scores_keep_the_first() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 11], [50, 50, 60, 60]]])
    found = best_per_class(
        boxes, torch.full((1, 3), 0.5), torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool),
        iou_threshold=0.5, keep=4,
    )  # fmt: skip
    assert found.boxes[0, :2].tolist() == [[0, 0, 10, 10], [50, 50, 60, 60]]
    assert found.valid.sum() == 2


def test_classes_and_images_do_not_suppress_each_other() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]]).expand(2, 3, 4)
    labels = torch.tensor([[0, 1, 1], [1, 0, 2]])
    scores = torch.tensor([[0.9, 0.8, 0.7], [0.9, 0.8, 0.7]])
    found = best_per_class(boxes, scores, labels, scores > 0, iou_threshold=0.5, keep=3)
    assert found.valid.sum(dim=1).tolist() == [2, 3]


@given(st.integers(1, 3), st.integers(0, 40), st.integers(1, 4), st.integers(0, 2**16), st.integers(1, 30))
def test_filled_up_with_the_best_of_the_suppressed(images: int, count: int, classes: int, seed: int, keep: int) -> None:
    """First what there is without filling, then the others in the order of their scores, as long as there are any."""
    boxes, scores, labels, valid = _candidates(images, count, classes, seed, 2**20)
    given_ = {"iou_threshold": 0.3, "keep": keep}
    plain = best_per_class(boxes, scores, labels, valid, **given_)  # type: ignore[arg-type]
    filled = best_per_class(boxes, scores, labels, valid, **given_, fill=True)  # type: ignore[arg-type]
    for i in range(images):
        number = int(plain.valid[i].sum())
        assert torch.equal(filled.boxes[i, :number], plain.boxes[i, :number])
        rest = sorted(set(scores[i][valid[i]].tolist()) - set(plain.scores[i, :number].tolist()), reverse=True)
        total = min(keep, int(valid[i].sum()))
        assert filled.valid[i].tolist() == [True] * total + [False] * (keep - total)
        assert filled.scores[i, number:total].tolist() == rest[: total - number]
        assert not filled.boxes[i, total:].any()
