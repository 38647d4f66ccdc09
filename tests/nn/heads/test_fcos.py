from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from detsearch.arch.code import parse_detector, parse_network
from detsearch.arch.modules.heads import FCOSHeadSpec
from detsearch.arch.spec import NORMS, Norm
from detsearch.build import build
from detsearch.cost.count import count_cost
from detsearch.errors import SpecError
from detsearch.nn.heads.fcos import FCOSHead, build_fcos, centreness
from detsearch.nn.norms import GroupNorm, WSConv2d
from detsearch.nn.ops.losses import PRIOR
from detsearch.nn.ops.places import assign
from detsearch.nn.structures import ImageBatch, Targets
from detsearch.types import FeatureSpec
from tests.nn.scenes import random_images, random_targets

MAPS = FeatureSpec.of((3, 5), (8, 8))
SIZES = [(60, 64), (64, 50)]


def _head(norm: Norm = "bn", num_classes: int = 3, features: FeatureSpec = MAPS) -> FCOSHead:
    return build_fcos(FCOSHeadSpec(depth=1), features=features, num_classes=num_classes, norm=norm)


def _input(features: FeatureSpec = MAPS, dtype: torch.dtype = torch.float32) -> tuple[list[torch.Tensor], ImageBatch]:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 8, 64 // s, 64 // s, generator=generator, dtype=dtype) for s in features.strides]
    return maps, ImageBatch(torch.zeros(2, 3, 64, 64, dtype=dtype), torch.tensor(SIZES))


def test_answers_begin_at_the_prior() -> None:
    logits, sides, centred = _head()(_input()[0])
    assert [tuple(x.shape) for x in logits] == [(2, 64, 3), (2, 4, 3)]
    assert [tuple(x.shape) for x in sides] == [(2, 64, 4), (2, 4, 4)]
    assert [tuple(x.shape) for x in centred] == [(2, 64), (2, 4)]
    assert all((x.sigmoid() - PRIOR).abs().max() < 0.005 for x in logits)
    assert all((x >= 0).all() for x in sides)


def test_answers_stand_in_the_order_of_the_places() -> None:
    """Row by row, in either memory format."""
    head = _head()
    x = torch.randn(1, 8, 3, 5)
    expected = head.class_logits(head.towers(x)[0]).view(1, 3, 15).mT
    for layout in (torch.contiguous_format, torch.channels_last):
        logits, _, centred = head.to(memory_format=layout)([x.to(memory_format=layout)])  # type: ignore[call-overload]
        torch.testing.assert_close(logits[0], expected)
        torch.testing.assert_close(centred[0], head.centreness(head.towers(x)[1]).view(1, 15))


@pytest.mark.parametrize(("norm", "expected"), [("bn", GroupNorm), ("gn", GroupNorm), ("gn_ws", GroupNorm)])
def test_towers_are_normalised_beside_any_norm(norm: Norm, expected: type[nn.Module]) -> None:
    """Group norm also beside batch norm, as published, behind convolutions with a bias."""
    head = build_fcos(FCOSHeadSpec(width=16, depth=3), features=MAPS, num_classes=2, norm=norm)
    norms = [m for m in head.modules() if isinstance(m, (nn.GroupNorm, nn.BatchNorm2d))]
    assert len(norms) == 6
    assert all(isinstance(m, expected) for m in norms)
    convs = [m for m in head.towers.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convs] == [(8, 16), (16, 16), (16, 16)] * 2
    assert all(c.bias is not None and not c.bias.any() for c in convs)
    assert all(isinstance(c, WSConv2d) == (norm == "gn_ws") for c in convs)
    plain = build_fcos(FCOSHeadSpec(norm="none"), features=MAPS, num_classes=2, norm=norm)
    assert not any(isinstance(m, (nn.GroupNorm, nn.BatchNorm2d)) for m in plain.modules())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("counts", [[3, 2], [4, 0], [0, 0]])
@pytest.mark.parametrize("levels", [(3, 5), (3,)], ids=["two maps", "one map"])
def test_losses(norm: Norm, counts: list[int], levels: tuple[int, ...]) -> None:
    features = FeatureSpec.of(levels, (8,) * len(levels))
    head = _head(norm, features=features)
    maps, images = _input(features)
    losses = head.losses(maps, images, random_targets(counts, SIZES, 3), None)
    assert losses.keys() == {"classification", "box", "centreness"}
    assert all(loss.dim() == 0 and loss.isfinite() and loss >= 0 for loss in losses.values())
    assert (losses["box"] > 0) == (losses["centreness"] > 0) == any(counts)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        boxes = name.startswith(("towers.boxes", "box_sides", "centreness"))
        assert any(counts) == bool(parameter.grad.any()) or not boxes, name


def test_perfect_answers_cost_nothing_but_their_entropy() -> None:
    """Sides that are right give no box loss, in units of the stride; the least centre-ness loss is the targets'."""
    head = _head(features=FeatureSpec.of((3,), (8,))).double()
    maps, images = _input(FeatureSpec.of((3,), (8,)), torch.float64)
    targets = random_targets([1, 0], SIZES, 3, dtype=torch.float64)
    targets.boxes[0, 0] = torch.tensor([8.0, 16, 56, 48])
    nn.init.zeros_(head.box_sides.weight)
    places = head.places(maps, images.padded, torch.float64)
    centre = ((places[:, :2] + places[:, 2:]) / 2)[None]
    sides = torch.cat([centre - targets.boxes[:1, :, :2], targets.boxes[:1, :, 2:] - centre], dim=-1) / 8
    answer = head.forward(maps)
    head.forward = lambda _: (answer[0], [sides.expand(2, -1, -1)], answer[2])  # type: ignore[method-assign]
    assert head.losses(maps, images, targets, None)["box"] == pytest.approx(0, abs=1e-6)
    assert centreness(torch.tensor([[2.0, 1, 2, 1], [1, 2, 4, 2], [0.5, 1, 2, 4]])).tolist() == [1, 0.5, 0.25]


def test_losses_are_divided_by_the_places_of_the_batch() -> None:
    """As published: an image with many places that answer for an object counts more than one with few."""
    head = _head().double()
    maps, images = _input(dtype=torch.float64)
    targets = random_targets([5, 1], SIZES, 3, dtype=torch.float64)
    together = head.losses(maps, images, targets, None)
    grids = [(8, 8), (2, 2)]
    rows = assign(targets.boxes, targets.valid, grids, images.padded, strides=MAPS.strides, radius=head.radius)
    numbers = (rows >= 0).sum(dim=1)
    alone = [
        head.losses(
            [m[i : i + 1] for m in maps],
            ImageBatch(images.pixels[i : i + 1], images.sizes[i : i + 1]),
            Targets(targets.boxes[i : i + 1], targets.labels[i : i + 1], targets.valid[i : i + 1]),
            None,
        )
        for i in range(2)
    ]
    assert numbers[0] != numbers[1]
    for name, loss in together.items():
        torch.testing.assert_close(loss, (torch.stack([part[name] for part in alone]) * numbers).sum() / numbers.sum())


def test_detections_lie_in_their_image_best_first() -> None:
    head = _head()
    head.score_threshold, head.max_detections = 0.0, 40
    nn.init.normal_(head.box_sides.weight, std=0.3)
    nn.init.normal_(head.class_logits.weight, std=0.3)
    found = head.detect(*_input(), None)
    assert found.boxes.shape == (2, 40, 4)
    assert found.valid.all()
    assert (found.scores.diff(dim=1) <= 0).all()
    assert (found.boxes >= 0).all()
    for i, (height, width) in enumerate(SIZES):
        assert (found.boxes[i] <= torch.tensor([width, height, width, height])).all()
    head.score_threshold = 0.999
    assert not head.detect(*_input(), None).valid.any()


@settings(max_examples=20)
@given(st.integers(1, 300), st.integers(1, 4), st.integers(0, 100))
def test_choosing_by_steps_finds_the_best(candidates: int, classes: int, seed: int) -> None:
    """The K best pairs of place and class by the root of probability times centre-ness, as sorting all would."""
    head = _head(num_classes=classes)
    head.candidates = candidates
    generator = torch.Generator().manual_seed(seed)
    logits, centred = (torch.randn(2, 100, n, generator=generator, dtype=torch.float64) for n in (classes, 1))
    sides = torch.rand(2, 100, 4, generator=generator, dtype=torch.float64)
    places = torch.rand(100, 4, generator=generator, dtype=torch.float64) + torch.tensor([0.0, 0, 8, 8])
    boxes, scores, labels = head._best(logits, sides, centred[..., 0], places)
    every = (logits.sigmoid() * centred.sigmoid()).sqrt().flatten(1)
    kept = min(candidates, 100 * classes)
    order = every.argsort(dim=1, descending=True)[:, :kept]
    torch.testing.assert_close(scores, every.gather(1, order))  # a sigmoid's last digit depends on the layout
    assert torch.equal(labels, order % classes)
    assert boxes.shape == (2, kept, 4)


@pytest.mark.parametrize("text", ["/fcos", "/retinanet(loss=giou)", "(last=4)/fcos(norm=bn)", "/pafpn(width=16)/fcos"])
def test_a_whole_detector(text: str) -> None:
    """Mostly on one map, at an odd size and batch 1; gradients with and without objects; bfloat16; inference mode."""
    detector = build(parse_network(f"basicblock_8_1-2-2-2{text}"), 3)
    images = random_images([(75, 101)], (75, 101))
    for counts in ([3], [0]):
        losses = detector.losses(images, random_targets(counts, [(75, 101)], 3))
        torch.stack(list(losses.values())).sum().backward()
        for name, parameter in detector.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        detector.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detector.losses(images, random_targets([3], [(75, 101)], 3))
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    detector.eval().head.score_threshold = 0.0
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = detector.detect(images)
    assert found.boxes.dtype == torch.float32
    assert found.valid.any()


def test_published_cost() -> None:
    """FCOS-R50 with the stride in the 1x1 convolution at 1280x800 and 80 classes: 32.2 M parameters, 201 GMACs."""
    spec = parse_detector("resnet50(stride_in=1x1)/fpn/fcos@1280x800")
    cost = count_cost(build(spec.network, 80), spec.input)
    assert cost.params / 1e6 == pytest.approx(32.2, rel=0.01)
    assert cost.macs / 1e9 == pytest.approx(201, rel=0.01)


def test_maps_of_different_width_are_refused() -> None:
    with pytest.raises(SpecError, match="one width"):
        build_fcos(FCOSHeadSpec(), features=FeatureSpec.of((3, 4), (8, 16)), num_classes=1, norm="bn")
