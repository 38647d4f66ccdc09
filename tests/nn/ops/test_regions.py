from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import MultiScaleRoIAlign

from detsearch.nn.ops.regions import RegionPool
from detsearch.nn.structures import Regions
from detsearch.types import FeatureSpec


def _maps(
    levels: tuple[int, ...], images: int = 2, side: int = 256, dtype: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(images, 3, side >> k, side >> k, generator=generator, dtype=dtype) for k in levels]


def _boxes(count: int, seed: int, side: float = 256) -> torch.Tensor:
    """Of all sizes from less than a pixel on."""
    generator = torch.Generator().manual_seed(seed)
    size = side * 2 ** (-9 * torch.rand((count, 2), generator=generator))
    corner = torch.rand((count, 2), generator=generator) * (side - size)
    return torch.cat([corner, corner + size], dim=1)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 8), min_size=2, max_size=2), st.booleans(), st.integers(0, 2**16))
def test_equal_to_torchvisions_on_the_usual_pyramids(counts: list[int], exact: bool, seed: int) -> None:
    """P2 to P5 bit for bit, P6 beside them unused; values and gradients."""
    dtype = torch.float64 if exact else torch.float32
    boxes = [_boxes(count, seed + i).to(dtype) for i, count in enumerate(counts)]
    theirs = [x.requires_grad_() for x in _maps((2, 3, 4, 5), dtype=dtype)]
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    expected = pool(OrderedDict((str(i), x) for i, x in enumerate(theirs)), boxes, [(256, 256)] * 2)

    ours = [x.requires_grad_() for x in _maps((2, 3, 4, 5, 6), dtype=dtype)]
    image = torch.arange(2).repeat_interleave(torch.tensor(counts))
    found = RegionPool(FeatureSpec.of((2, 3, 4, 5, 6), (3,) * 5), 7)(ours, Regions(torch.cat(boxes), image))
    assert torch.equal(found, expected)
    weight = torch.randn(found.shape, dtype=dtype)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    for a, b in zip(ours[:4], theirs, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad)
    assert ours[4].grad is None


SIDES = [20.0, 111.9, 112, 223.9, 224, 447.9, 448, 2000]
"""Of squares that belong to P2, P2, P3, P3, P4, P4, P5 and P5."""


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ((2, 3, 4, 5), [2, 2, 3, 3, 4, 4, 5, 5]),
        ((2, 3, 4, 5, 6), [2, 2, 3, 3, 4, 4, 5, 5]),
        ((3, 4, 5, 6, 7), [3, 3, 3, 3, 4, 4, 5, 5]),
        ((2, 4, 6), [2, 2, 2, 2, 4, 4, 4, 4]),  # P3 lies between P2 and P4, P5 between P4 and P6: the finer
        ((2, 5), [2, 2, 2, 2, 5, 5, 5, 5]),
        ((3, 5, 6), [3, 3, 3, 3, 3, 3, 5, 5]),
        ((6, 7), [6] * 8),
        ((5,), [5] * 8),
    ],
)
def test_levels_by_size(levels: tuple[int, ...], expected: list[int]) -> None:
    pool = RegionPool(FeatureSpec.of(levels, (3,) * len(levels)), 7)
    boxes = torch.tensor([[10.0, 20, 10 + side, 20 + side] for side in SIDES])
    assert [levels[pool.used[i]] for i in pool.level_of(boxes).tolist()] == expected
    # A region of the same area and another shape belongs to the same level.
    boxes[:, 2:] = boxes[:, :2] + torch.tensor([[2 * side, side / 2] for side in SIDES])
    assert [levels[pool.used[i]] for i in pool.level_of(boxes).tolist()] == expected


@pytest.mark.parametrize("levels", [(2, 4, 6), (5,), (3, 4, 5, 6, 7)])
def test_what_is_pooled(levels: tuple[int, ...]) -> None:
    """On maps that hold, in pixels of the image, where each place is, and which level and image, a region's cells hold
    their own centres (half a cell of the map further: coordinates are not shifted by half a pixel)."""
    side = 512
    maps = []
    for k in levels:
        where = (torch.arange(side >> k) * 2.0**k)[:, None].expand(-1, side >> k)
        image = torch.stack([where, torch.full_like(where, k)])
        maps.append(torch.stack([image, image + 1000]))
    boxes = torch.tensor([[64.0, 96, 96, 128], [64, 64, 368, 368], [128, 64, 256, 384]])
    regions = Regions(boxes, torch.tensor([1, 0, 1]))
    pool = RegionPool(FeatureSpec.of(levels, (2,) * len(levels)), 4)
    found = pool(maps, regions)
    level = [levels[pool.used[i]] for i in pool.level_of(boxes).tolist()]
    for n, (box, image) in enumerate(zip(boxes.tolist(), regions.image.tolist(), strict=True)):
        height = max(box[3] - box[1], 2.0 ** level[n])  # less than a place is pooled as a place
        rows = torch.tensor([box[1] + (i + 0.5) * height / 4 for i in range(4)])
        last = (side >> level[n]) - 1
        expected = rows.clamp(max=last * 2.0 ** level[n]) + 1000 * image
        torch.testing.assert_close(found[n, 0], expected[:, None].expand(-1, 4))
        torch.testing.assert_close(found[n, 1], torch.full((4, 4), level[n] + 1000.0 * image))


def test_no_regions_and_regions_without_area() -> None:
    maps = [x.requires_grad_() for x in _maps((2, 3))]
    pool = RegionPool(FeatureSpec.of((2, 3), (3, 3)), 7)
    empty = pool(maps, Regions(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)))
    assert empty.shape == (0, 3, 7, 7)
    empty.sum().backward()
    assert all(x.grad is not None and not x.grad.any() for x in maps)
    wild = torch.tensor([[5.0, 5, 5, 5], [float("nan")] * 4, [0, 0, float("inf"), float("inf")]])
    assert pool(maps, Regions(wild, torch.zeros(3, dtype=torch.int64)))[0].isfinite().all()


def test_precision() -> None:
    """Coordinates stay exact on maps of less precision; what comes out is of the maps' kind."""
    maps, boxes = _maps((2, 3, 4, 5)), Regions(_boxes(9, 0) * 0.999, torch.zeros(9, dtype=torch.int64))
    pool = RegionPool(FeatureSpec.of((2, 3, 4, 5), (3,) * 4), 7)
    low = pool([x.bfloat16() for x in maps], boxes)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), pool([x.bfloat16().float() for x in maps], boxes), rtol=0.01, atol=0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(pool(maps, boxes), pool(maps, boxes))
    last = [x.contiguous(memory_format=torch.channels_last) for x in maps]
    assert torch.equal(pool(last, boxes), pool(maps, boxes))
