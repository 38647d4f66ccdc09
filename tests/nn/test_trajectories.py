"""Training goes where torchvision's training goes: from the same state, SGD on the same batches and samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from detsearch.nn.detector import Detector
from detsearch.nn.ops.anchors import OCTAVE
from detsearch.nn.ops.losses import PRIOR
from detsearch.nn.torchvision_weights import from_torchvision
from tests.nn.parity import BODY, Preprocessed, SlimBackbone, as_lists, noise, settle, twin
from tests.nn.scenes import random_targets
from tests.nn.test_parity_faster_rcnn import CLASSES, NETWORKS, faster_rcnn, sample_evenly, twin_of

STEPS = 20
SIZES = [(64, 64), (60, 56)]


def _retinanet() -> tuple[nn.Module, Detector]:
    torch.manual_seed(0)
    anchors = AnchorGenerator(
        tuple(tuple(int(4 * 2**level * scale) for scale in OCTAVE) for level in range(3, 8)), ((0.5, 1.0, 2.0),) * 5
    )
    reference = RetinaNet(SlimBackbone((3, 4, 5), 32, LastLevelP6P7(32, 32)), CLASSES, anchor_generator=anchors)
    targets = random_targets([3, 2], SIZES, CLASSES, dtype=torch.float64)
    settle(reference.double(), noise(SIZES, (64, 64), torch.float64), as_lists(targets), {"cls_logits": 0.5})
    nn.init.constant_(reference.head.classification_head.cls_logits.bias, -math.log((1 - PRIOR) / PRIOR))
    return reference, twin(reference, f"{BODY}/fpn(width=32)/retinanet", CLASSES)


def _faster_rcnn() -> tuple[nn.Module, Detector]:
    reference = faster_rcnn("v2", 0)
    assign = reference.rpn.assign_targets_to_anchors

    def in_float64(*arguments: object) -> tuple[list[Tensor], list[Tensor]]:
        labels, boxes = assign(*arguments)
        return [image.double() for image in labels], boxes

    reference.rpn.assign_targets_to_anchors = in_float64  # its float32 labels would round the loss
    detector = twin_of(reference, NETWORKS["v2"])
    sample_evenly(reference, detector, {"rpn": (64, 0.5), "roi_heads": (48, 0.25)})
    return reference, detector


@pytest.mark.parametrize(
    ("both", "first_label"), [(_retinanet, 0), (_faster_rcnn, 1)], ids=["retinanet", "faster_rcnn"]
)
def test_twenty_steps(both: Callable[[], tuple[nn.Module, Detector]], first_label: int) -> None:
    """In float64, norms of the batch, with momentum and weight decay: parameters and running statistics end within
    1e-8, and far from where they began."""
    reference, detector = both()
    before = {name: p.detach().clone() for name, p in detector.named_parameters()}
    runs = []
    for model in (reference, detector):
        model.train()
        runs.append(torch.optim.SGD(model.parameters(), lr=0.002, momentum=0.9, weight_decay=1e-4))
    history: list[list[float]] = []
    for step in range(STEPS):
        batch = noise(SIZES, (64, 64), torch.float64, seed=step % 4)
        targets = random_targets([3, step % 3], SIZES, CLASSES, seed=step % 4, dtype=torch.float64)
        reference.transform = Preprocessed(batch)
        theirs = reference(list(batch.pixels), as_lists(targets, first_label))
        sums = []
        for losses, optimiser in zip((theirs, detector.losses(batch, targets)), runs, strict=True):
            optimiser.zero_grad()
            total = torch.stack(list(losses.values())).sum()
            total.backward()
            optimiser.step()
            sums.append(total.item())
        assert sums[0] == pytest.approx(sums[1], rel=0, abs=1e-8)
        history.append(sums)
    assert sum(sums[0] for sums in history[-4:]) < sum(sums[0] for sums in history[:4])
    expected = from_torchvision(reference.state_dict())
    for name, value in detector.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-8, msg=name)
    moved = max(float((p.detach() - before[name]).abs().max()) for name, p in detector.named_parameters())
    assert moved > 1e-2
