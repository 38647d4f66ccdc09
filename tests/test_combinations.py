"""Detectors of all kinds of parts, put together at random: each trains and answers, whatever stands beside what."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields

import pytest
import torch
from torch import nn

from detsearch.arch.catalogue import catalogue
from detsearch.arch.code import parse_network
from detsearch.arch.modules import MODULES
from detsearch.arch.spec import NORMS, SLOTS, ModuleSpec
from detsearch.build import build
from detsearch.nn.detector import Detector
from detsearch.nn.structures import Detections, ImageBatch, Targets
from detsearch.runtime.eager import EagerRuntime
from tests.nn.scenes import random_images, random_targets, with_masks

BACKBONES = (
    "basicblock_8_1-2-2-2",
    "basicblock_8_1-2-2-2(stem=7x7)",
    "bottleneck_8_1-2-2-2",
    "bottleneck_8_1-2-2-2(stride_in=1x1,last=4)",
    "Xbottleneck_8_1-2-2-2",
    "Xbottleneck_8_1-2-2-2(groups=2,group_width=8)",
    "mbblock_8_1-2-2-2",
    "timm(model=test_efficientnet)",
    "timm(model=test_resnet,last=4)",
)
NECKS = (
    "",
    "fpn(width=16)",
    "fpn(levels=2-3-4-5-6,width=16,extra_from=pool)",
    "fpn(levels=2-4-7,width=16,extra_from=c5)",
    "fpn(levels=3,width=16,norm=gn)",
    "fpn(levels=6-7,width=16,extra_from=c5)",
    "pafpn(levels=2-3-4-5,width=16)",
    "pafpn(width=16,extra_from=c5)",
    "pafpn(levels=4-6,width=16,extra_from=pool)",
)
HEADS = (
    "retinanet(depth=1)",
    "retinanet(width=24,depth=2,anchor_scale=2.0,norm=gn,loss=giou)",
    "fcos(depth=1)",
    "fcos(width=24,depth=2,norm=none)",
    "fcos(tower=cells(width=8-16,repeats=1,norm=gn))",
    "retinanet(tower=cells(boxes=dsep3(0)+max3(1)|avg3(2),classes=ddil5(1)|skip(0),width=8,order=reversed))",
    "rpn(keep=30)/2fc(width=32)",
    "rpn(width=24,depth=2,anchor_scale=4.0,keep=30)/2fc(width=32,fcs=1,convs=1,conv_width=16)",
    "rpn(keep=30)/2fc(width=32,mask=mask(width=8,depth=1))",
    "rpn(keep=30)/2fc(width=32,mask=mask(score=maskiou(width=8,depth=1,hidden=16),tower=cellgroup(width=8,repeats=1)))",
    "rpn(keep=30)/cascade(stages=4,width=32)",
    "ga_rpn(keep=30)/2fc(width=32)",
    "ga_rpn(width=24,keep=30,norm=gn)/cascade(stages=2,width=32)",
    "ga_rpn(keep=30)/cascade(width=32,mask=mask(width=8,depth=1,score=maskiou(width=8,depth=1,hidden=16)))",
)
CLASSES = 3
BATCHES = {
    "some": ([3, 0], [(60, 101), (75, 50)], (75, 101)),
    "one": ([2], [(61, 83)], (61, 83)),
    "none": ([0], [(67, 43)], (67, 43)),
}
"""Objects of each image, heights and widths, those of the padded batch."""
MAY_REST = ("neck.extra.", "head.box_sides.")
"""What may have no gradient on these small images, where the coarsest maps have a place or two: these are sampled by
chance, and through a group norm of a single value nothing comes; FCOS's sides below 0 are cut, maybe those of all."""


def combinations(count: int, seed: int) -> list[str]:
    """Network texts; within as many as the longest list above, every entry of each is there."""
    rng = random.Random(seed)

    def endless(entries: tuple[str, ...]) -> Iterator[str]:
        while True:
            yield from rng.sample(entries, len(entries))

    parts = zip(*map(endless, (BACKBONES, NECKS, HEADS, NORMS)), strict=True)
    return ["/".join(filter(None, next(parts))) for _ in range(count)]


FEW = combinations(max(map(len, (BACKBONES, NECKS, HEADS, NORMS))), seed=0)


def _tokens(spec: ModuleSpec) -> Iterator[str]:
    yield catalogue().of(spec).token
    for field in fields(spec):
        if isinstance(value := getattr(spec, field.name), ModuleSpec):
            yield from _tokens(value)


def test_every_module_is_among_the_few() -> None:
    parts = [part for text in FEW for slot in SLOTS if (part := parse_network(text).part(slot)) is not None]
    assert {token for part in parts for token in _tokens(part)} == {descriptor.token for descriptor in MODULES}


@pytest.mark.parametrize("text", FEW)
def test_a_few_combinations(text: str) -> None:
    _trains_and_answers(text)


@pytest.mark.slow
@pytest.mark.parametrize("text", combinations(150, seed=1))
def test_many_combinations(text: str) -> None:
    _trains_and_answers(text)


@pytest.mark.parametrize(
    "text",
    [
        "basicblock_8_1-2-2-2/fpn(levels=2-4-6-7,width=16,extra_from=c5)/retinanet(depth=1)/gn",
        "basicblock_8_1-2-2-2/fpn(levels=6-7,width=16)/fcos(depth=1)/gn_ws",
    ],
)
def test_what_may_rest_learns_from_a_larger_image(text: str) -> None:
    torch.manual_seed(0)
    detector = build(parse_network(text), CLASSES).train()
    boxes = torch.tensor([[[10.0, 20, 500, 490], [100, 150, 420, 400]]])
    targets = Targets(boxes, torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool))
    torch.stack(list(detector.losses(random_images([(512, 512)], (512, 512), 0), targets).values())).sum().backward()
    resting = [name for name, parameter in detector.named_parameters() if name.startswith(MAY_REST)]
    assert resting
    for name in resting:
        assert detector.get_parameter(name).grad.any(), name  # type: ignore[union-attr]


def _trains_and_answers(text: str) -> None:
    torch.manual_seed(0)
    detector = build(parse_network(text), CLASSES)
    for name, parameter in detector.named_parameters():
        if name.endswith(".weight") and not parameter.any():  # timm's last norms of a branch, which begin at zero
            nn.init.ones_(parameter)
    for seed, batch in enumerate(BATCHES):
        _trains(detector, batch, seed)
    for precision in ("float32", "bfloat16"):
        runtime = EagerRuntime(detector, precision=precision)
        for seed, (_, sizes, padded) in enumerate(BATCHES.values()):
            images = random_images(sizes, padded, seed)
            _plausible(runtime(images), images)
            with runtime.nominal_load():
                found = runtime(images)
            _plausible(found, images)
            assert found.valid.any()


def _trains(detector: Detector, batch: str, seed: int) -> None:
    counts, sizes, padded = BATCHES[batch]
    targets = with_masks(random_targets(counts, sizes, CLASSES, seed), padded)
    losses = detector.train().losses(random_images(sizes, padded, seed), targets)
    assert all(loss.dim() == 0 and loss.isfinite() for loss in losses.values()), losses
    detector.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in detector.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any() or batch != "some" or name.startswith(MAY_REST), name
    for slot, part in detector.parts().items():
        assert any(parameter.grad.any() for parameter in part.parameters()), slot  # type: ignore[union-attr]


def _plausible(found: Detections, images: ImageBatch) -> None:
    """Finite; boxes in their images; scores, and masks if any, in 0..1, but an expected IoU may be anything."""
    assert found.boxes.isfinite().all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= images.sizes.flip(1).repeat(1, 2)[:, None]).all()
    assert (found.boxes[..., 2:] >= found.boxes[..., :2]).all()
    for values in (found.scores, found.masks):
        assert values is None or ((values >= 0) & (values <= 1)).all()
    assert found.mask_scores is None or found.mask_scores.isfinite().all()
    assert (found.labels[found.valid] < CLASSES).all()
