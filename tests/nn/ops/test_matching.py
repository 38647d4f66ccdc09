from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from detsearch.nn.ops import matching
from detsearch.nn.ops.matching import BACKGROUND, IGNORED, match

ANCHORS = torch.tensor(
    [[x, y, x + side, y + side] for side in (8.0, 16.0) for x in range(0, 33, 8) for y in range(0, 33, 8)]
)


def _match(boxes: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    return match(boxes, valid, ANCHORS, high=0.5, low=0.4)


integers = st.integers(0, 24)
box = st.tuples(integers, integers, st.integers(1, 16), st.integers(1, 16)).map(
    lambda b: [float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3])]
)


@given(st.lists(st.lists(box, max_size=4), min_size=1, max_size=3), st.integers(1, 400))
def test_equal_to_torchvisions(images: list[list[list[float]]], pairs: int) -> None:
    """On whole pixels, so that ties are frequent; in chunks of any size."""
    most = max(map(len, images))
    boxes = torch.zeros(len(images), most, 4)
    valid = torch.zeros(len(images), most, dtype=torch.bool)
    for i, image in enumerate(images):
        for j, one in enumerate(image):
            boxes[i, j], valid[i, j] = torch.tensor(one), True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "PAIRS", pairs)
        found = _match(boxes, valid)
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    for i, image in enumerate(images):
        if image:
            assert torch.equal(found[i], matcher(box_iou(torch.tensor(image), ANCHORS)))
        else:
            assert (found[i] == BACKGROUND).all()


def test_thresholds() -> None:
    """An anchor of IoU 0.45 is ignored, of 0.5 positive, below 0.4 background."""
    boxes = torch.tensor([[[0.0, 0, 8, 8]]])
    anchors = torch.tensor([[0, 0, 8, 8], [0, 0, 8, 4], [0, 0, 8, 3.6], [0, 0, 8, 3.0]])
    found = match(boxes, torch.ones(1, 1, dtype=torch.bool), anchors, high=0.5, low=0.4)
    assert found.tolist() == [[0, 0, IGNORED, BACKGROUND]]


def test_best_anchor_of_a_poorly_covered_object_is_positive() -> None:
    found = _match(torch.tensor([[[1.0, 1, 3, 3]]]), torch.ones(1, 1, dtype=torch.bool))
    assert (found >= 0).sum() == 1


def test_untouched_object_claims_nothing() -> None:
    found = _match(torch.tensor([[[500.0, 500, 520, 520], [0, 0, 8, 8]]]), torch.tensor([[True, True]]))
    assert (found == 0).sum() == 0
    assert (found == 1).sum() > 0


def test_padding_rows_and_no_rows() -> None:
    boxes = torch.tensor([[[0.0, 0, 8, 8], [0, 0, 0, 0]]])
    found = _match(boxes, torch.tensor([[True, False]]))
    assert torch.equal(found, _match(boxes[:, :1], torch.tensor([[True]])))
    assert (_match(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool)) == BACKGROUND).all()


@given(
    st.lists(st.tuples(st.lists(box, min_size=1, max_size=4), st.lists(box, min_size=6, max_size=6)), min_size=1,
             max_size=3),
    st.integers(1, 60),
)  # fmt: skip
def test_candidates_of_each_image_without_claims(
    images: list[tuple[list[list[float]], list[list[float]]]], pairs: int
) -> None:
    """Proposals, of which an object gets those that fit, and none only because nothing fits better."""
    most = max(len(objects) for objects, _ in images)
    boxes, valid = torch.zeros(len(images), most, 4), torch.zeros(len(images), most, dtype=torch.bool)
    for i, (objects, _) in enumerate(images):
        boxes[i, : len(objects)], valid[i, : len(objects)] = torch.tensor(objects), True
    candidates = torch.tensor([own for _, own in images])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "PAIRS", pairs)
        found = match(boxes, valid, candidates, high=0.5, low=0.3, claim=False)
    matcher = Matcher(0.5, 0.3, allow_low_quality_matches=False)
    for i, (objects, own) in enumerate(images):
        assert torch.equal(found[i], matcher(box_iou(torch.tensor(objects), torch.tensor(own))))


def test_no_candidates() -> None:
    boxes, valid = torch.tensor([[[0.0, 0, 8, 8]]]), torch.tensor([[True]])
    assert match(boxes, valid, torch.zeros(1, 0, 4), high=0.5, low=0.5, claim=False).shape == (1, 0)
    assert match(boxes[:, :0], valid[:, :0], torch.zeros(1, 5, 4), high=0.5, low=0.5).tolist() == [[BACKGROUND] * 5]
