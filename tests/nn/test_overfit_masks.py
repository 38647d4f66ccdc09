"""Slim Mask R-CNN and Mask Scoring R-CNN learn four drawn images by heart. Minutes long: run with -m slow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detsearch.arch.code import parse_network
from detsearch.build import build
from detsearch.nn.detector import Detector
from detsearch.nn.heads.mask import MaskHead
from detsearch.nn.heads.maskiou import mask_iou
from detsearch.nn.ops.masks import crop, share_inside
from detsearch.nn.structures import ImageBatch, Regions, Targets
from tests.nn.scenes import with_masks

SIDE, IMAGES, STEPS = 96, 4, 120
COLOURS = torch.tensor([[200, 80, 80], [80, 80, 200]])
"""Of the two classes."""


def _scene() -> tuple[ImageBatch, Targets]:
    """Ellipses and rectangles on noise, two an image, in opposite quarters."""
    generator = torch.Generator().manual_seed(0)
    boxes = []
    for i in range(IMAGES):
        centres = torch.tensor([[1.0, 1], [3, 3]] if i % 2 else [[1.0, 3], [3, 1]]) * SIDE / 4
        half = SIDE / 8 + torch.rand((2, 2), generator=generator) * SIDE / 10
        boxes.append(torch.cat([centres - half, centres + half], dim=1))
    targets = Targets.from_lists(boxes, list(torch.randint(0, 2, (IMAGES, 2), generator=generator)))
    targets = with_masks(targets, (SIDE, SIDE))
    pixels = torch.randint(0, 50, (IMAGES, 3, SIDE, SIDE), generator=generator)
    assert targets.masks is not None
    painted = targets.masks[:, None] * COLOURS[targets.labels.flatten()][:, :, None, None]
    pixels += painted.view(IMAGES, 2, 3, SIDE, SIDE).sum(dim=1)
    return ImageBatch(pixels.to(torch.uint8), torch.full((IMAGES, 2), SIDE)), targets


def _painted(mask: Tensor, box: Tensor) -> Tensor:
    """(SIDE, SIDE) bool: the pixels whose centres lie in a cell of a detection's mask that is more likely than not."""
    cells = len(mask)
    places = torch.arange(SIDE) + 0.5
    x, y = (((places - box[i]) / (box[i + 2] - box[i]) * cells).floor().long() for i in range(2))
    inside = ((y >= 0) & (y < cells))[:, None] & ((x >= 0) & (x < cells))
    return inside & (mask[y.clamp(0, cells - 1)][:, x.clamp(0, cells - 1)] > 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["mask(depth=2)", "mask(depth=2,score=maskiou(depth=2,hidden=64))"])
def test_masks_are_learnt(mask: str) -> None:
    torch.manual_seed(0)
    network = f"basicblock_8_1-2-2-2/fpn(levels=2-3-4-5,width=16)/rpn/2fc(width=64,mask={mask})/gn"
    detector = build(parse_network(network), 2)
    images, targets = _scene()
    optimiser = torch.optim.AdamW(detector.parameters(), lr=0.003)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.004, total_steps=STEPS)
    seen = []
    for _ in range(STEPS):
        losses = detector.losses(images, targets)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        schedule.step()
        seen.append(losses["mask"].item())
    assert seen[-1] < seen[0] / 4

    found = detector.eval().detect(images)
    assert found.masks is not None
    assert targets.masks is not None
    overlaps = []
    for i in range(IMAGES):
        for row in range(2):
            own = found.valid[i] & (found.labels[i] == targets.labels[i, row])
            truth = targets.masks[2 * i + row].bool()
            drawn = [_painted(m, box) for m, box in zip(found.masks[i, own], found.boxes[i, own], strict=True)]
            overlaps.append(max((truth & d).sum().item() / (truth | d).sum().item() for d in drawn))
    assert sum(overlaps) / len(overlaps) > 0.8
    if "maskiou" in mask:
        expected, true = _ratings(detector, images, targets)
        assert true.std() > 0.05, "good regions and bad ones"
        assert (expected - true).abs().mean() < 0.1
        assert torch.corrcoef(torch.stack([expected, true]))[0, 1] > 0.6


@torch.no_grad()
def _ratings(detector: Detector, images: ImageBatch, targets: Targets) -> tuple[Tensor, Tensor]:
    """(R,) IoU expected of the masks of regions that hold more or less of their objects, and what it is."""
    head: MaskHead = detector.head.mask  # type: ignore[attr-defined]
    assert targets.masks is not None
    assert head.score is not None
    image, row = targets.valid.nonzero().repeat(20, 1).unbind(1)
    boxes = targets.boxes[image, row]
    shift = (torch.rand((len(boxes), 2), generator=torch.Generator().manual_seed(1)) - 0.5) * 0.6
    boxes = boxes + ((boxes[:, 2:] - boxes[:, :2]) * shift).repeat(1, 2)
    own, labels = targets.mask_rows()[image, row], targets.labels[image, row]
    features = detector.neck(detector.backbone(detector.normalise(images).pixels))  # type: ignore[misc]
    pooled, logits = head(features, Regions(boxes, image), labels)
    wanted = crop(targets.masks, own, boxes, logits.shape[-1]) >= 0.5
    return head.score(pooled, logits.sigmoid(), labels), mask_iou(
        logits > 0, wanted, share_inside(targets.masks, own, boxes)
    )
