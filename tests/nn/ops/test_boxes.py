from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou, clip_boxes_to_image

from detsearch.nn.ops.boxes import at_least, clip, decode, encode, iou


def _boxes(count: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand((count, 2), generator=generator, dtype=dtype) * 100 - 20
    side = (
        torch.rand((count, 2), generator=generator, dtype=dtype) * 60 + 2
    )  # ratios of sides below the bound of decode
    return torch.cat([corner, corner + side], dim=1)


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 2**16))
def test_iou_equals_torchvisions(m: int, n: int, seed: int) -> None:
    a, b = _boxes(m, seed), _boxes(n, seed + 1)
    torch.testing.assert_close(iou(a, b), box_iou(a, b))


def test_iou_is_batched() -> None:
    a, b = torch.stack([_boxes(3, 0), _boxes(3, 1)]), _boxes(5, 2)
    torch.testing.assert_close(iou(a, b), torch.stack([box_iou(a[0], b), box_iou(a[1], b)]))


def test_iou_of_boxes_without_area_is_zero() -> None:
    point = torch.tensor([[3.0, 3, 3, 3]])
    assert iou(point, point).item() == 0
    assert iou(point, torch.tensor([[0.0, 0, 9, 9]])).item() == 0


@given(st.integers(0, 8), st.integers(0, 2**16))
def test_coding_equals_torchvisions_and_inverts(count: int, seed: int) -> None:
    boxes, anchors = _boxes(count, seed), _boxes(count, seed + 1)
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    deltas = encode(boxes, anchors)
    torch.testing.assert_close(deltas, coder.encode_single(boxes, anchors))
    torch.testing.assert_close(decode(deltas, anchors), boxes.clone())
    wild = deltas * 40  # beyond the bound on scales
    torch.testing.assert_close(decode(wild, anchors), coder.decode_single(wild, anchors))


@given(st.integers(0, 8), st.integers(0, 2**16), st.sampled_from([(10.0, 10.0, 5.0, 5.0), (1.0, 2.0, 3.0, 4.0)]))
def test_weighted_coding_equals_torchvisions(count: int, seed: int, weights: tuple[float, float, float, float]) -> None:
    boxes, anchors = _boxes(count, seed), _boxes(count, seed + 1)
    coder = BoxCoder(weights)
    deltas = encode(boxes, anchors, weights)
    torch.testing.assert_close(deltas, coder.encode_single(boxes, anchors))
    torch.testing.assert_close(decode(deltas, anchors, weights), boxes.clone())
    torch.testing.assert_close(decode(40 * deltas, anchors, weights), coder.decode_single(40 * deltas, anchors))


def test_least_side() -> None:
    boxes = torch.tensor([[[0.0, 0, 2, 2], [0, 0, 2, 1.9], [0, 0, 1.9, 2]], [[5, 5, 5, 5], [3, 3, 0, 0], [0, 0, 9, 9]]])
    assert at_least(boxes, 2.0).tolist() == [[True, False, False], [False, False, True]]


def test_clip() -> None:
    boxes = torch.stack([_boxes(4, 0), _boxes(4, 1)])
    sizes = torch.tensor([[30, 50], [60, 20]])
    expected = torch.stack([clip_boxes_to_image(b, (h, w)) for b, (h, w) in zip(boxes, sizes.tolist(), strict=True)])
    assert torch.equal(clip(boxes, sizes), expected)
