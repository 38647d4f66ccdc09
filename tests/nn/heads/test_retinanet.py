from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from detsearch.arch.modules.heads import RetinaNetHeadSpec
from detsearch.arch.spec import Norm
from detsearch.errors import SpecError
from detsearch.nn.heads.retinanet import RetinaNetHead, build_retinanet
from detsearch.nn.heads.towers import Towers
from detsearch.nn.norms import GroupNorm, Norms, WSConv2d
from detsearch.nn.ops.anchors import OCTAVE, Anchors, pyramid_sizes
from detsearch.nn.ops.losses import PRIOR
from detsearch.nn.structures import ImageBatch
from detsearch.types import FeatureSpec
from tests.nn.scenes import random_targets

MAPS = FeatureSpec.of((3, 5), (8, 8))
SIZES = [(60, 64), (64, 50)]


def _head(norm: Norm = "bn", num_classes: int = 3, **fields: float) -> RetinaNetHead:
    """`fields` are those of the module, not of the spec."""
    anchors = Anchors(pyramid_sizes(MAPS, 4, scales=OCTAVE, finest=3))
    return RetinaNetHead(Towers(Norms.of(norm), 8, 8, 1), anchors, num_classes=num_classes, **fields)  # type: ignore[arg-type]


def _input(dtype: torch.dtype = torch.float32) -> tuple[list[torch.Tensor], ImageBatch]:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 8, 64 // s, 64 // s, generator=generator, dtype=dtype) for s in MAPS.strides]
    return maps, ImageBatch(torch.zeros(2, 3, 64, 64, dtype=dtype), torch.tensor(SIZES))


def test_answers_begin_at_the_prior() -> None:
    maps, _ = _input()
    logits, deltas = _head()(maps)
    assert [tuple(x.shape) for x in logits] == [(2, 8 * 8 * 9, 3), (2, 2 * 2 * 9, 3)]
    assert [tuple(x.shape) for x in deltas] == [(2, 8 * 8 * 9, 4), (2, 2 * 2 * 9, 4)]
    assert all((x.sigmoid() - PRIOR).abs().max() < 0.005 for x in logits)


def test_answers_stand_in_the_order_of_the_anchors() -> None:
    """Channel a * C + c at row y, column x is anchor (y * W + x) * 9 + a, class c, in either memory format."""
    head = _head()
    x = torch.randn(1, 8, 3, 5)
    raw = head.class_logits(head.towers(x)[0])
    expected = raw.view(1, 9, 3, 3, 5).permute(0, 3, 4, 1, 2).reshape(1, -1, 3)
    torch.testing.assert_close(head([x])[0][0], expected)
    x = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(head.to(memory_format=torch.channels_last)([x])[0][0], expected)  # type: ignore[call-overload]


def test_width_depth_and_norm() -> None:
    head = build_retinanet(RetinaNetHeadSpec(width=16, depth=3), features=MAPS, num_classes=2, norm="gn_ws")
    convs = [m for m in head.towers.classes.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convs] == [(8, 16), (16, 16), (16, 16)]
    assert all(isinstance(c, WSConv2d) for c in convs)
    assert len([m for m in head.modules() if isinstance(m, GroupNorm)]) == 6
    assert type(head.class_logits) is nn.Conv2d
    assert head.class_logits.bias is not None
    assert not any(isinstance(m, (nn.GroupNorm, nn.BatchNorm2d)) for m in _head("bn").modules())


@pytest.mark.parametrize("norm", ["bn", "gn", "gn_ws"])
@pytest.mark.parametrize("counts", [[3, 2], [4, 0], [0, 0]])
def test_losses(norm: Norm, counts: list[int]) -> None:
    head = _head(norm)
    maps, images = _input()
    losses = head.losses(maps, images, random_targets(counts, SIZES, 3), None)
    assert losses.keys() == {"classification", "box"}
    assert all(loss.dim() == 0 and loss.isfinite() and loss >= 0 for loss in losses.values())
    assert (losses["box"] > 0) == any(counts)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert any(counts) == bool(parameter.grad.any()) or "class" in name, name


def test_each_image_counts_the_same() -> None:
    """The batch's loss is the mean of its images' losses, however many objects they have."""
    head = _head().double()
    maps, images = _input(torch.float64)
    targets = random_targets([5, 1], SIZES, 3, dtype=torch.float64)
    together = head.losses(maps, images, targets, None)
    alone = [
        head.losses(
            [m[i : i + 1] for m in maps],
            ImageBatch(images.pixels[i : i + 1], images.sizes[i : i + 1]),
            type(targets)(targets.boxes[i : i + 1], targets.labels[i : i + 1], targets.valid[i : i + 1]),
            None,
        )
        for i in range(2)
    ]
    for name, loss in together.items():
        torch.testing.assert_close(loss, (alone[0][name] + alone[1][name]) / 2)


def test_nothing_above_the_threshold() -> None:
    head = _head(score_threshold=0.9)
    found = head.detect(*_input(), None)
    assert found.boxes.shape == (2, 300, 4)
    assert not found.valid.any()
    assert not found.boxes.any()
    head.score_threshold = 0.0
    assert head.detect(*_input(), None).valid.any()


def test_detections_lie_in_their_image_best_first() -> None:
    head = _head(score_threshold=0.0, max_detections=40)
    nn.init.normal_(head.box_deltas.weight, std=0.3)
    nn.init.normal_(head.class_logits.weight, std=0.3)
    found = head.detect(*_input(), None)
    assert found.valid.all()
    assert (found.scores.diff(dim=1) <= 0).all()
    assert (found.boxes >= 0).all()
    for i, (height, width) in enumerate(SIZES):
        assert (found.boxes[i] <= torch.tensor([width, height, width, height])).all()
    assert found.labels.unique().tolist() == [0, 1, 2]


@settings(max_examples=20)
@given(st.integers(1, 700), st.integers(1, 4), st.integers(0, 100))
def test_two_steps_of_choosing_find_the_best(candidates: int, classes: int, seed: int) -> None:
    """The K best pairs of anchor and class, as sorting all pairs would find them."""
    head = _head(num_classes=classes, candidates=candidates)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 576, classes, generator=generator)
    deltas = torch.randn(2, 576, 4, generator=generator)
    anchors = torch.rand(576, 4, generator=generator) + torch.tensor([0.0, 0, 5, 5])
    boxes, scores, labels = head._best(logits, deltas, anchors)
    kept = min(candidates, 576 * classes)
    order = logits.flatten(1).argsort(dim=1, descending=True)[:, :kept]
    assert torch.equal(scores, logits.flatten(1).gather(1, order).sigmoid())
    assert torch.equal(labels, order % classes)
    assert boxes.shape == (2, kept, 4)


def test_maps_of_different_width_are_refused() -> None:
    with pytest.raises(SpecError, match="one width"):
        build_retinanet(RetinaNetHeadSpec(), features=FeatureSpec.of((3, 4), (8, 16)), num_classes=1, norm="bn")


def test_without_a_neck_one_map_has_anchors_of_every_size() -> None:
    """As a pyramid from P3 to P7 would have them, one an octave; towers no wider than 512."""
    one = FeatureSpec.of((5,), (1024,))
    head = build_retinanet(RetinaNetHeadSpec(depth=1), features=one, num_classes=2, norm="bn")
    anchors = head.anchors([torch.zeros(1, 1, 2, 2)], (64, 64), torch.float32)
    squares = (anchors[:15, 2:] - anchors[:15, :2])[5:10]
    assert squares.tolist() == [[side, side] for side in (32, 64, 128, 256, 512)]
    assert head.towers.width == 512
    assert [tuple(x.shape) for x in head([torch.zeros(1, 1024, 2, 2)])[0]] == [(1, 2 * 2 * 15, 2)]
