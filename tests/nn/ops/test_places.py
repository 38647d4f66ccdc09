from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection import FCOS

from detsearch.nn.ops import places as places_module
from detsearch.nn.ops.anchors import Anchors
from detsearch.nn.ops.places import assign, ranges

RADIUS = 1.5


def _places(strides: tuple[int, ...], height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, list[int]]:
    maps = [torch.empty(1, 1, math.ceil(height / s), math.ceil(width / s)) for s in strides]
    grid = Anchors([[s] for s in strides], ratios=(1.0,))(maps, (height, width), dtype)
    return grid, [m.shape[-2] * m.shape[-1] for m in maps]


def _torchvisions(boxes: list[Tensor], places: Tensor, sizes: list[int]) -> list[Tensor]:
    """What torchvision's FCOS hands to its head."""
    head = SimpleNamespace(compute_loss=lambda targets, outputs, anchors, matched: matched)
    stub = SimpleNamespace(center_sampling_radius=RADIUS, head=head)
    targets = [{"boxes": image} for image in boxes]
    found: list[Tensor] = FCOS.compute_loss(stub, targets, {}, [places] * len(boxes), sizes)  # type: ignore[arg-type]
    return found


# Whole pixels, so that places stand exactly on borders, and sides that repeat, so that areas are equal.
corner = st.tuples(st.integers(0, 120), st.integers(0, 90))
side = st.sampled_from([1, 7, 8, 9, 16, 31, 32, 33, 64, 65, 128, 256])
objects = st.lists(st.tuples(corner, side, side), max_size=8)


@settings(max_examples=60)
@given(st.lists(objects, min_size=1, max_size=3), st.sampled_from([torch.float32, torch.float64]), st.booleans())
def test_same_as_torchvisions(
    images: list[list[tuple[tuple[int, int], int, int]]], dtype: torch.dtype, chunked: bool
) -> None:
    """Ties and borders included, whether images are taken together or one by one."""
    strides = (8, 16, 32, 64, 128)
    places, sizes = _places(strides, 160, 192, dtype)
    most = max(map(len, images))
    boxes, valid = torch.zeros(len(images), most, 4, dtype=dtype), torch.zeros(len(images), most, dtype=torch.bool)
    for i, image in enumerate(images):
        for row, ((x, y), w, h) in enumerate(image):
            boxes[i, row], valid[i, row] = torch.tensor([x, y, x + w, y + h], dtype=dtype), True
    with pytest.MonkeyPatch.context() as patch:
        if chunked:
            patch.setattr(places_module, "PAIRS", 1)
        found = assign(boxes, valid, places, sizes, ranges=ranges(strides), radius=RADIUS)
    expected = _torchvisions([b[v] for b, v in zip(boxes, valid, strict=True)], places, sizes)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_the_smallest_object_is_answered_for() -> None:
    places, sizes = _places((8,), 64, 64, torch.float32)
    boxes = torch.tensor([[[0.0, 0, 64, 64], [16, 16, 48, 48], [16, 16, 48, 48]]])
    found = assign(boxes, torch.ones(1, 3, dtype=torch.bool), places, sizes, ranges=ranges((8,)), radius=RADIUS)
    grid = found.view(8, 8)
    assert grid[3:6, 3:6].tolist() == [[1] * 3] * 3, "less than 12 pixels from the centre at 32; the first of equals"
    assert (grid.flatten() >= 0).sum() == 9
    assert assign(boxes, torch.zeros(1, 3, dtype=torch.bool), places, sizes, ranges=ranges((8,)), radius=9).eq(-1).all()


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
    places, sizes = _places(strides, 1024, 1024, torch.float32)
    sides = torch.tensor([3.0, 9, 31, 65, 190, 311, 601, 1021])
    boxes = torch.stack([512 - sides / 2, 512 - sides / 2, 512 + sides / 2, 512 + sides / 2], dim=1)
    for box in boxes:
        found = assign(box.view(1, 1, 4), torch.tensor([[True]]), places, sizes, ranges=ranges(strides), radius=RADIUS)
        assert (found >= 0).any(), box
