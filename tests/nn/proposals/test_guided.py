from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detsearch.nn.ops.anchors import Anchors
from detsearch.nn.ops.boxes import iou
from detsearch.nn.ops.matching import BACKGROUND, IGNORED
from detsearch.nn.proposals.guided import CENTRE, SURROUNDINGS, location_targets, shape_targets
from detsearch.nn.structures import Targets
from tests.nn.scenes import random_targets

PADDED = (64, 64)
GRIDS = [(8, 8), (4, 4), (2, 2)]
SIDES = [64.0, 128.0, 256.0]
STARTS = (0, 64, 80, 84)


def _targets(*boxes: tuple[float, float, float, float]) -> tuple[Tensor, Tensor]:
    return torch.tensor(boxes, dtype=torch.float32).view(1, -1, 4), torch.ones((1, len(boxes)), dtype=torch.bool)


def _square(side: int, first: int, last: int) -> Tensor:
    found = torch.zeros(side, side, dtype=torch.bool)
    found[first : last + 1, first : last + 1] = True
    return found


def _levels(places: Tensor) -> list[Tensor]:
    """The square maps of one image."""
    return [places[0, a:b].view(grid) for a, b, grid in zip(STARTS, STARTS[1:], GRIDS, strict=False)]


def test_the_papers_shares() -> None:
    assert (CENTRE, SURROUNDINGS) == (0.2, 0.5)


def test_location_by_hand() -> None:
    """A box of 64 pixels around (32, 32): in strides of 8 its centre covers 3.2..4.8 and its surroundings 2..6; in
    strides of 16, those are 1..3; two levels away it is of no account."""
    positive, counted = location_targets(*_targets((0, 0, 64, 64)), GRIDS, PADDED, SIDES)
    for found, expected in zip(
        _levels(positive), [_square(8, 3, 5), _square(4, 0, -1), _square(2, 0, -1)], strict=True
    ):
        assert torch.equal(found, expected)
    around = [_square(8, 2, 6) & ~_square(8, 3, 5), _square(4, 1, 3), _square(2, 0, -1)]
    for found, expected in zip(_levels(~counted), around, strict=True):
        assert torch.equal(found, expected)


def test_a_centre_is_positive_in_the_surroundings_of_another() -> None:
    """The second object, 40 pixels a side, belongs to the first level too; its centre covers 4.2..5.8 there."""
    positive, counted = location_targets(*_targets((0, 0, 64, 64), (20, 20, 60, 60)), GRIDS, PADDED, SIDES)
    assert torch.equal(_levels(positive)[0], _square(8, 3, 5) | _square(8, 5, 6) | _square(8, 4, 6))
    assert (counted | ~positive).all()


@pytest.mark.parametrize(
    ("side", "level"), [(1, 0), (64, 0), (90, 0), (91, 1), (128, 1), (181, 1), (182, 2), (256, 2), (4000, 2)]
)
def test_objects_belong_to_the_nearest_side(side: float, level: int) -> None:
    box = (32 - side, 32 - side / 4, 32 + side, 32 + side / 4)  # as large as a square of this side
    positive, _ = location_targets(*_targets(box), GRIDS, PADDED, SIDES)
    assert [bool(found.any()) for found in _levels(positive)] == [i == level for i in range(3)]


@pytest.mark.parametrize("corner", [(0.0, 0.0), (63.5, 63.5), (0.0, 63.5), (3.9, 4.0)])
def test_the_smallest_object_at_the_border_has_a_place(corner: tuple[float, float]) -> None:
    x, y = corner
    positive, _ = location_targets(*_targets((x, y, x + 0.5, y + 0.5)), GRIDS, PADDED, SIDES)
    assert positive.any()


def _slowly(targets: Targets, image: int, grids: list[tuple[int, int]], padded: tuple[int, int]) -> tuple[Tensor, ...]:
    """Object by object and place by place."""
    positive = [torch.zeros(grid, dtype=torch.bool) for grid in grids]
    around = [torch.zeros(grid, dtype=torch.bool) for grid in grids]
    for x1, y1, x2, y2 in targets.boxes[image][targets.valid[image]].tolist():
        size = ((x2 - x1) * (y2 - y1)) ** 0.5
        ratios = [max(size / side, side / size) for side in SIDES]
        own = ratios.index(min(ratios))
        for level, (height, width) in enumerate(grids):
            for places, share in ((positive, CENTRE), (around, SURROUNDINGS)):
                if abs(level - own) > (places is around):
                    continue
                for row in range(height):
                    for column in range(width):
                        inside = True
                        for place, count, pixels, a, b in (
                            (row, height, padded[0], y1, y2),
                            (column, width, padded[1], x1, x2),
                        ):
                            step = pixels // count
                            first = (a + (0.5 - share / 2) * (b - a)) / step
                            last = (b - (0.5 - share / 2) * (b - a)) / step
                            nearest = min(max(first, 0), count - 1)
                            inside &= (place - 0.5 <= last and place + 0.5 >= first) or (
                                (first > count - 0.5 or last < -0.5) and place == nearest
                            )
                        places[level][row, column] |= inside
    found = torch.cat([p.flatten() for p in positive])
    return found, found | ~torch.cat([a.flatten() for a in around])


@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 5), min_size=1, max_size=3))
@settings(max_examples=40)
def test_location_as_place_by_place(seed: int, counts: list[int]) -> None:
    padded = (61, 93)
    grids = [(8, 12), (4, 6), (2, 3)]
    targets = random_targets(counts, [(60, 90)] * len(counts), 2, seed, dtype=torch.float64)
    positive, counted = location_targets(targets.boxes, targets.valid, grids, padded, SIDES)
    for image, count in enumerate(counts):
        expected = _slowly(targets, image, grids, padded)
        assert torch.equal(positive[image], expected[0])
        assert torch.equal(counted[image], expected[1])
        assert positive[image].any() == (count > 0)


def _samples() -> Tensor:
    return Anchors([[16, 20, 25]])([torch.zeros(1, 1, 8, 8)], PADDED, torch.float64).view(64, 9, 4)


@given(seed=st.integers(0, 10**6), counts=st.lists(st.integers(0, 6), min_size=1, max_size=3))
@settings(max_examples=40)
def test_shape_targets_are_matched_by_the_best_sample(seed: int, counts: list[int]) -> None:
    samples = _samples()
    targets = random_targets(counts, [PADDED] * len(counts), 2, seed, dtype=torch.float64)
    found = shape_targets(targets.boxes, targets.valid, samples, high=0.7, low=0.3)
    for image, count in enumerate(counts):
        if count == 0:
            assert (found[image] == BACKGROUND).all()
            continue
        best = iou(targets.boxes[image, :count], samples.flatten(0, 1)).view(count, 64, 9).amax(dim=2)
        most = best.amax(dim=1, keepdim=True)
        for place in range(64):
            value, row = best[:, place].max(dim=0)
            if value >= 0.7 or (best[:, place] == most[:, 0]).any():
                assert found[image, place] == row
            else:
                assert found[image, place] == (BACKGROUND if value < 0.3 else IGNORED)


def test_shape_targets_by_hand() -> None:
    """A place whose sample is the object itself answers for it; one a step of 8 beside reaches (25 - 8) / (25 + 8) with
    the same sample, which is between the thresholds; a far one none."""
    samples = _samples()
    box = samples[8 * 3 + 3, 5].view(1, 1, 4)
    width = float(box[0, 0, 2] - box[0, 0, 0])
    assert width == 24  # the sample of side 25, whose corners are whole pixels
    found = shape_targets(box, torch.ones(1, 1, dtype=torch.bool), samples, high=0.7, low=0.3)
    assert found[0, 8 * 3 + 3] == 0
    assert found[0, 8 * 3 + 4] == IGNORED  # 16 of 32 pixels a row: 0.5
    assert found[0, 0] == BACKGROUND


def test_no_objects() -> None:
    boxes, valid = torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool)
    positive, counted = location_targets(boxes, valid, GRIDS, PADDED, SIDES)
    assert positive.shape == counted.shape == (2, 84)
    assert not positive.any()
    assert counted.all()
    assert (shape_targets(boxes, valid, _samples().float(), high=0.7, low=0.3) == BACKGROUND).all()
