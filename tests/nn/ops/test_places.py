from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection import FCOS

from detsearch.nn.ops.anchors import Anchors
from detsearch.nn.ops.places import assign, ranges

RADIUS = 1.5


def _grids(strides: tuple[int, ...], padded: tuple[int, int]) -> list[tuple[int, int]]:
    return [(math.ceil(padded[0] / s), math.ceil(padded[1] / s)) for s in strides]


def _torchvisions(boxes: list[Tensor], strides: tuple[int, ...], padded: tuple[int, int]) -> list[Tensor]:
    """What torchvision's FCOS hands to its head."""
    maps = [torch.empty(1, 1, *grid) for grid in _grids(strides, padded)]
    places = Anchors([[s] for s in strides], ratios=(1.0,))(maps, padded, boxes[0].dtype)
    sizes = [m.shape[-2] * m.shape[-1] for m in maps]
    head = SimpleNamespace(compute_loss=lambda targets, outputs, anchors, matched: matched)
    stub = SimpleNamespace(center_sampling_radius=RADIUS, head=head)
    targets = [{"boxes": image} for image in boxes]
    found: list[Tensor] = FCOS.compute_loss(stub, targets, {}, [places] * len(boxes), sizes)  # type: ignore[arg-type]
    return found


# Whole pixels, so that places stand exactly on borders, and sides that repeat, so that areas are equal.
corner = st.tuples(st.integers(0, 120), st.integers(0, 90))
side = st.sampled_from([1, 7, 8, 9, 16, 31, 32, 33, 64, 65, 128, 256])
objects = st.lists(st.tuples(corner, side, side), max_size=8)


@settings(max_examples=100)
@given(
    st.lists(objects, min_size=1, max_size=3),
    st.sampled_from([torch.float32, torch.float64]),
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.floats(-0.5, 0.5),
)
def test_same_as_torchvisions(
    images: list[list[tuple[tuple[int, int], int, int]]], dtype: torch.dtype, padded: tuple[int, int], shift: float
) -> None:
    """Ties and borders included, on inputs of any size, whose places are not a stride apart."""
    strides = (8, 16, 32, 64, 128)
    most = max(map(len, images))
    boxes, valid = torch.zeros(len(images), most, 4, dtype=dtype), torch.zeros(len(images), most, dtype=torch.bool)
    for i, image in enumerate(images):
        for row, ((x, y), w, h) in enumerate(image):
            boxes[i, row] = torch.tensor([x, y, x + w, y + h], dtype=dtype) + (shift if row % 2 else 0)
            valid[i, row] = True
    found = assign(boxes, valid, _grids(strides, padded), padded, strides=strides, radius=RADIUS)
    expected = _torchvisions([b[v] for b, v in zip(boxes, valid, strict=True)], strides, padded)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_the_smallest_object_is_answered_for() -> None:
    boxes = torch.tensor([[[0.0, 0, 64, 64], [16, 16, 48, 48], [16, 16, 48, 48]]])
    found = assign(boxes, torch.ones(1, 3, dtype=torch.bool), [(8, 8)], (64, 64), strides=(8,), radius=RADIUS)
    grid = found.view(8, 8)
    assert grid[3:6, 3:6].tolist() == [[1] * 3] * 3, "less than 12 pixels from the centre at 32; the first of equals"
    assert (grid.flatten() >= 0).sum() == 9
    none = assign(boxes, torch.zeros(1, 3, dtype=torch.bool), [(8, 8)], (64, 64), strides=(8,), radius=RADIUS)
    assert none.tolist() == [[-1] * 64]
    assert assign(boxes[:, :0], boxes.new_zeros((1, 0)).bool(), [(1, 2)], (8, 16), strides=(8,), radius=9).eq(-1).all()


def test_the_ends_of_a_range_belong_to_no_level() -> None:
    """Where an object's farthest side is exactly 64 pixels away, between P3 and P4, neither answers for it."""
    strides, padded = (8, 16), (128, 128)
    boxes = torch.tensor([[[0.0, 0, 128, 128]]])
    found = assign(boxes, torch.tensor([[True]]), _grids(strides, padded), padded, strides=strides, radius=RADIUS)
    assert torch.equal(found, torch.stack(_torchvisions([boxes[0]], strides, padded)))
    fine, coarse = found[0, :256].view(16, 16), found[0, 256:].view(8, 8)
    assert (fine < 0).all()
    assert coarse[4, 4] == -1
    assert coarse[4, 5] == 0


@pytest.mark.parametrize(
    ("strides", "expected"),
    [
        ((8, 16, 32, 64, 128), [(0, 64), (64, 128), (128, 256), (256, 512), (512, math.inf)]),
        ((32,), [(0, math.inf)]),
        ((4, 32, 64), [(0, 32), (32, 256), (256, math.inf)]),
    ],
)
def test_any_set_of_levels_covers_every_size(strides: tuple[int, ...], expected: list[tuple[float, float]]) -> None:
    assert ranges(strides) == expected


@pytest.mark.parametrize("strides", [(4,), (32,), (8, 64), (4, 16, 128)])
def test_an_object_of_any_size_finds_a_place(strides: tuple[int, ...]) -> None:
    """Centred on a place of every level, with sides that are on no border of a range."""
    padded = (1024, 1024)
    sides = torch.tensor([3.0, 9, 31, 65, 190, 311, 601, 1021])
    boxes = torch.stack([512 - sides / 2, 512 - sides / 2, 512 + sides / 2, 512 + sides / 2], dim=1)
    for box in boxes:
        one = torch.tensor([[True]])
        found = assign(box.view(1, 1, 4), one, _grids(strides, padded), padded, strides=strides, radius=RADIUS)
        assert (found >= 0).any(), box
