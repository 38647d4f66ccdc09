from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from detsearch.nn.ops import masks as mask_ops
from detsearch.nn.ops.masks import crop, share_inside


def _scene(seed: int, objects: int, regions: int, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Noise masks, and regions some of which leave the image or have no area."""
    generator = torch.Generator().manual_seed(seed)
    masks = (torch.rand((objects, *size), generator=generator) < 0.5).to(torch.uint8)
    limit = torch.tensor([size[1], size[0]], dtype=torch.float64)
    ends = (torch.rand((regions, 2, 2), generator=generator, dtype=torch.float64) * 1.4 - 0.2) * limit
    boxes = ends.sort(dim=1).values.flatten(1)
    boxes[::7, 2:] = boxes[::7, :2]
    return masks, torch.randint(0, objects, (regions,), generator=generator), boxes


@pytest.mark.parametrize("pixels", [10**9, 3 * 31 * 47, 1], ids=["at once", "three at once", "one by one"])
def test_crops_are_those_of_torchvision(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_ops, "PIXELS", pixels)
    masks, rows, boxes = _scene(0, 7, 40, (31, 47))
    found = crop(masks, rows, boxes, 28)
    torch.testing.assert_close(found, project_masks_on_boxes(masks, boxes, rows, 28), rtol=0, atol=1e-12)
    assert 0 < found.mean() < 1


@pytest.mark.parametrize("pixels", [10**9, 1])
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 20), width=st.integers(1, 20))
def test_share_is_what_the_pixels_cover(pixels: int, seed: int, height: int, width: int) -> None:
    """Against the sum over all pixels of how much of each the box covers, along y times along x."""
    masks, rows, boxes = _scene(seed, 3, 9, (height, width))

    def covered(low: Tensor, high: Tensor, size: int) -> Tensor:
        start = torch.arange(size)
        return (torch.minimum(high[:, None], start + 1) - torch.maximum(low[:, None], start)).clamp(min=0)

    along_y, along_x = covered(boxes[:, 1], boxes[:, 3], height), covered(boxes[:, 0], boxes[:, 2], width)
    own = masks[rows].double()
    area = own.sum(dim=(1, 2))
    expected = torch.einsum("rh,rhw,rw->r", along_y, own, along_x) / area.clamp(min=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_ops, "PIXELS", pixels)
        torch.testing.assert_close(share_inside(masks, rows, boxes), expected, rtol=0, atol=1e-9)
        single = share_inside(masks, rows, boxes.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-4)


def test_share_by_hand() -> None:
    masks = torch.zeros((2, 10, 10), dtype=torch.uint8)
    masks[0, 2:6, 1:9] = 1
    boxes = torch.tensor(
        [[1.0, 2, 9, 6], [0, 0, 10, 10], [5, 2, 9, 6], [1, 2, 2.5, 3], [9, 6, 10, 10], [-5, -5, 5, 20]]
    )
    rows = torch.zeros(6, dtype=torch.int64)
    assert share_inside(masks, rows, boxes).tolist() == pytest.approx([1, 1, 0.5, 1.5 / 32, 0, 0.5])
    assert share_inside(masks, rows + 1, boxes).tolist() == [0] * 6, "an empty mask has no share anywhere"


@pytest.mark.parametrize("objects", [0, 3])
def test_no_regions(objects: int) -> None:
    masks = torch.ones((objects, 9, 9), dtype=torch.uint8)
    rows, boxes = torch.zeros(0, dtype=torch.int64), torch.zeros((0, 4))
    assert crop(masks, rows, boxes, 28).shape == (0, 28, 28)
    assert share_inside(masks, rows, boxes).shape == (0,)


def test_large_masks_are_counted_exactly() -> None:
    """A million pixels, of which float32 sums would lose some."""
    masks = torch.ones((1, 1300, 1300), dtype=torch.uint8)
    box = torch.tensor([[0.0, 0, 1300, 1299]])
    share = share_inside(masks, torch.zeros(1, dtype=torch.int64), box)
    assert share.item() == pytest.approx(1299 / 1300, abs=1e-6)
