"""The MaskIoU head against the formulas of "Mask Scoring R-CNN" (Huang et al., CVPR 2019, sec. 3.3 and 3.4)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detsearch.arch.modules.masks import MaskIoUSpec
from detsearch.nn.heads.maskiou import MaskIoUHead, build_maskiou, mask_iou
from detsearch.nn.ops.masks import crop, share_inside
from detsearch.types import FeatureSpec

MAPS = FeatureSpec.of((2, 3), (8, 8))


def _square(top: int, left: int, bottom: int, right: int, size: int = 28) -> Tensor:
    mask = torch.zeros((1, size, size), dtype=torch.bool)
    mask[:, top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(
    ("drawn", "wanted", "share", "iou"),
    [
        (_square(0, 0, 10, 10), _square(0, 0, 10, 10), 1.0, 1.0),
        (_square(0, 0, 10, 10), _square(0, 0, 10, 10), 0.5, 0.5),
        (_square(0, 0, 10, 10), _square(0, 0, 10, 5), 1.0, 0.5),
        (_square(0, 0, 10, 10), _square(0, 0, 10, 5), 0.25, 50 / (100 + 200 - 50)),
        (_square(0, 0, 10, 10), _square(5, 5, 15, 15), 1.0, 25 / 175),
        (_square(0, 0, 10, 10), _square(10, 10, 20, 20), 1.0, 0.0),
        (_square(0, 0, 0, 0), _square(0, 0, 9, 9), 1.0, 0.0),
        (_square(0, 0, 9, 9), _square(0, 0, 0, 0), 0.0, 0.0),
        (_square(0, 0, 0, 0), _square(0, 0, 0, 0), 0.0, 0.0),
    ],
)
def test_iou_with_the_whole_object(drawn: Tensor, wanted: Tensor, share: float, iou: float) -> None:
    """Overlap / (drawn + wanted / share - overlap): what lies outside the region counts as missed."""
    assert mask_iou(drawn, wanted, torch.tensor([share])).item() == pytest.approx(iou)


def test_target_is_the_iou_in_the_image() -> None:
    """An object half outside its region, of which a quarter of the region is drawn too much: the target that the cells
    give is the IoU of the masks in pixels."""
    masks = torch.zeros((1, 112, 112), dtype=torch.uint8)
    masks[:, 28:84, 14:98] = 1
    boxes = torch.tensor([[56.0, 0, 112, 112]])
    rows = torch.zeros(1, dtype=torch.int64)
    drawn = torch.zeros_like(masks)
    drawn[:, 28:112, 56:98] = 1
    cells = crop(drawn, rows, boxes, 28) >= 0.5
    found = mask_iou(cells, crop(masks, rows, boxes, 28) >= 0.5, share_inside(masks, rows, boxes))
    overlap, union = (drawn & masks).sum(), (drawn | masks).sum()
    assert found.item() == pytest.approx((overlap / union).item(), abs=0.03)
    perfect = mask_iou(crop(masks, rows, boxes, 28) >= 0.5, crop(masks, rows, boxes, 28) >= 0.5, torch.tensor([0.5]))
    assert perfect.item() == 0.5, "no mask in this region can do better"


class Kept(nn.Module):
    """Gives one value a region, and keeps what it was given."""

    given: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.given = x
        return x.mean(dim=(1, 2, 3), keepdim=True)


def _constant(ious: list[float]) -> MaskIoUHead:
    """A head that expects of each class an IoU of its own, whatever it sees."""
    head = MaskIoUHead(Kept(), inputs=1, hidden=4, num_classes=len(ious))
    nn.init.zeros_(head.class_iou.weight)
    head.class_iou.bias.data = torch.tensor(ious)
    return head


def test_it_sees_features_and_the_mask_in_their_resolution() -> None:
    head = _constant([0.0])
    pooled, masks = torch.randn(2, 8, 14, 14), torch.rand(2, 28, 28)
    head(pooled, masks, torch.zeros(2, dtype=torch.int64))
    assert torch.equal(head.convs.given[:, :8], pooled)
    blocks = masks.unflatten(2, (14, 2)).unflatten(1, (14, 2))
    assert torch.equal(head.convs.given[:, 8], blocks.amax(dim=(2, 4)))


def test_loss_is_half_the_squared_error_of_those_that_meet_their_object() -> None:
    """Drawn is what is more likely than not, and an object's what it covers half of."""
    head = _constant([0.9, 0.2])
    drawn = torch.cat([_square(0, 0, 10, 10)] * 3) * 0.02 - 0.01
    wanted = torch.cat([_square(0, 0, 10, 10), _square(0, 0, 10, 5), _square(20, 20, 28, 28)]) * 0.01 + 0.49
    labels = torch.tensor([0, 1, 0])
    pooled = torch.randn(3, 8, 14, 14)
    losses = head.losses(pooled, drawn, labels, wanted, torch.tensor([0.8, 1.0, 1.0]))
    expected = 0.5 * ((0.9 - 0.8) ** 2 + (0.2 - 0.5) ** 2) / 2
    assert losses.keys() == {"maskiou"}
    assert losses["maskiou"].item() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(head.convs.given[:, 8].amax(dim=(1, 2)), torch.full((3,), 0.01).sigmoid())
    none = head.losses(pooled[2:], drawn[2:], labels[2:], wanted[2:], torch.ones(1))
    assert none["maskiou"].item() == 0
    none["maskiou"].backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_each_class_has_its_own_answer() -> None:
    head = _constant([0.1, 0.5, 0.9])
    found = head(torch.randn(4, 8, 14, 14), torch.rand(4, 28, 28), torch.tensor([2, 0, 1, 2]))
    torch.testing.assert_close(found, torch.tensor([0.9, 0.1, 0.5, 0.9]))


def test_the_published_head() -> None:
    """Four 3x3 convolutions of 256, the last with stride 2, and 1,024, 1,024 and C units."""
    maps = FeatureSpec.of((2, 3, 4, 5, 6), (256,) * 5)
    head = build_maskiou(MaskIoUSpec(), features=maps, num_classes=80, norm="bn")
    convs = [m for m in head.convs.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in convs] == [(257, 256, 3)] + [(256, 256, 3)] * 3
    assert [c.stride[0] for c in convs] == [1, 1, 1, 2]
    linear = [m for m in head.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(256 * 7 * 7, 1024), (1024, 1024), (1024, 80)]
    slim = build_maskiou(MaskIoUSpec(depth=1, hidden=8), features=MAPS, num_classes=2, norm="gn_ws")
    assert slim(torch.randn(3, 8, 14, 14), torch.rand(3, 28, 28), torch.zeros(3, dtype=torch.int64)).shape == (3,)
