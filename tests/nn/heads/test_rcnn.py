from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detsearch.arch.modules.heads import TwoFCSpec
from detsearch.arch.spec import Norm
from detsearch.errors import SpecError
from detsearch.nn.heads.rcnn import RCNNHead, build_2fc, region_predictor
from detsearch.nn.heads.regions import best_detections, region_losses, training_regions
from detsearch.nn.norms import Norms, WSConv2d
from detsearch.nn.ops.boxes import encode
from detsearch.nn.structures import Detections, ImageBatch, Proposals, Regions, Targets
from detsearch.types import FeatureSpec
from tests.nn.parity import EvenSampler
from tests.nn.scenes import random_targets

MAPS = FeatureSpec.of((2, 4), (8, 8))
SIZES = [(60, 64), (64, 50)]
WEIGHTS = (10.0, 10.0, 5.0, 5.0)
SLIM: dict[str, Any] = {"width": 16}


def _head(norm: Norm = "bn", features: FeatureSpec = MAPS, **fields: Any) -> RCNNHead:
    torch.manual_seed(0)
    slim = {**SLIM, "conv_width": 8} if "convs" in fields else SLIM
    return build_2fc(TwoFCSpec(**{**slim, **fields}), features=features, num_classes=3, norm=norm)


def _input(
    numbers: tuple[int, int] = (12, 9), features: FeatureSpec = MAPS
) -> tuple[list[Tensor], ImageBatch, Proposals]:
    """Maps, images, and proposals, so many that are valid of each image."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 8, 64 // s, 64 // s, generator=generator) for s in features.strides]
    corner = torch.rand(2, 12, 2, generator=generator) * 30
    boxes = torch.cat([corner, corner + 4 + torch.rand(2, 12, 2, generator=generator) * 16], dim=-1)
    valid = torch.arange(12) < torch.tensor(numbers)[:, None]
    boxes = boxes * valid[..., None]
    return maps, ImageBatch(torch.zeros(2, 3, 64, 64), torch.tensor(SIZES)), Proposals(boxes, valid.float(), valid)


def test_spec_to_module() -> None:
    head = _head("gn_ws", width=32, fcs=3, convs=2, conv_width=12)
    layers = head.predictor.layers
    assert [(m.in_channels, m.out_channels) for m in layers.modules() if isinstance(m, WSConv2d)] == [(8, 12), (12, 12)]
    assert [(m.in_features, m.out_features) for m in layers.modules() if isinstance(m, nn.Linear)] == [
        (12 * 49, 32), (32, 32), (32, 32),
    ]  # fmt: skip
    assert head.predictor.class_logits.out_features == 4
    assert head.predictor.box_deltas.out_features == 12
    assert head.mask is None
    assert not any(isinstance(m, nn.Conv2d) for m in _head().modules())


def test_maps_of_different_width_are_refused() -> None:
    with pytest.raises(SpecError, match="2fc"):
        _head(features=FeatureSpec.of((3, 4), (8, 16)))


def test_classes_share_deltas_where_agnostic() -> None:
    maps, images, proposals = _input()
    predictor = region_predictor(MAPS, Norms.of("bn"), num_classes=3, width=16, agnostic=True)
    logits, deltas = predictor(maps, Regions.of(proposals.boxes, proposals.valid))
    assert logits.shape == (21, 4)
    assert deltas.shape == (21, 1, 4)
    regions = Regions.of(proposals.boxes, proposals.valid)
    options: dict[str, Any] = {
        "weights": WEIGHTS, "score_threshold": 0.1, "candidates": 100, "nms_threshold": 0.5, "keep": 30,
    }  # fmt: skip
    scores = logits.softmax(dim=1)[:, 1:]
    shared = best_detections(scores, deltas, regions, images.sizes, **options)
    repeated = best_detections(scores, deltas.expand(-1, 3, -1), regions, images.sizes, **options)
    assert torch.equal(shared.boxes, repeated.boxes)
    assert shared.valid.sum() > 20


@pytest.mark.parametrize("fields", [{}, {"convs": 2, "fcs": 1, "norm": "bn"}, {"convs": 1, "norm": "gn"}])
@pytest.mark.parametrize("counts", [[3, 2], [4, 0], [0, 0]])
@pytest.mark.parametrize("numbers", [(12, 9), (0, 0)])
def test_losses(fields: dict[str, Any], counts: list[int], numbers: tuple[int, int]) -> None:
    """With objects and without, with proposals and without: finite, and a gradient for every parameter."""
    head = _head(**fields)
    maps, images, proposals = _input(numbers)
    losses = head.losses(maps, images, random_targets(counts, SIZES, 3), proposals)
    assert losses.keys() == {"classification", "box"}
    assert all(loss.isfinite() for loss in losses.values())
    assert (losses["box"] > 0) == any(counts)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in head.buffers())


def test_sample_of_proposals_and_objects() -> None:
    """The objects' own boxes are positive; a proposal is from an IoU of the threshold on; padding never is drawn."""
    objects = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])
    boxes = torch.tensor([
        [[0.0, 0, 10, 5], [0, 0, 10, 4.9], [21, 20, 40, 40], [0, 0, 0, 0]],
        [[1, 1, 9, 9], [2, 2, 30, 30], [0, 0, 0, 0], [0, 0, 0, 0]],
    ])  # fmt: skip
    valid = torch.tensor([[True, True, True, False], [True, True, False, False]])
    targets = Targets.from_lists([objects, objects[:0]], [torch.tensor([2, 1]), torch.zeros(0, dtype=torch.int64)])
    everything = EvenSampler(100, 1.0)
    found = training_regions(Proposals(boxes, valid.float(), valid), targets, everything, match_threshold=0.5)
    assert found.regions.image.tolist() == [0] * 5 + [1] * 2
    assert torch.equal(found.regions.boxes, torch.cat([boxes[0, :3], objects, boxes[1, :2]]))
    assert found.positive.tolist() == [0, 2, 3, 4]
    assert found.rows.tolist() == [0, 1, 0, 1]
    assert found.given.tolist() == [False] * 3 + [True] * 2 + [False] * 2
    assert torch.equal(found.positives().boxes, found.regions.boxes[found.positive])


def test_losses_by_hand() -> None:
    targets = Targets.from_lists([torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[5.0, 5, 30, 20]])],
                                 [torch.tensor([2]), torch.tensor([0])])  # fmt: skip
    boxes = torch.tensor([[[1.0, 0, 10, 10], [30, 30, 40, 40]], [[5, 5, 28, 21], [40, 2, 60, 9]]])
    valid = torch.ones(2, 2, dtype=torch.bool)

    def proposals_only(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        first = torch.arange(3) < 2
        return positive & first, negative & first

    sampled = training_regions(Proposals(boxes, valid.float(), valid), targets, proposals_only, match_threshold=0.5)
    logits, deltas = torch.randn(4, 4), torch.randn(4, 3, 4)
    found = region_losses(logits, deltas, sampled, targets, WEIGHTS)
    chosen = F.log_softmax(logits, dim=1)[torch.arange(4), torch.tensor([3, 0, 1, 0])]
    torch.testing.assert_close(found["classification"], -chosen.mean())
    off = torch.stack([
        deltas[0, 2] - encode(targets.boxes[0, 0], boxes[0, 0], WEIGHTS),
        deltas[2, 0] - encode(targets.boxes[1, 0], boxes[1, 0], WEIGHTS),
    ]).abs()  # fmt: skip
    smooth = torch.where(off < 1 / 9, off**2 * 4.5, off - 1 / 18)
    torch.testing.assert_close(found["box"], smooth.sum() / 4)


def test_a_detection_knows_its_class_and_box() -> None:
    """Softmax over background and classes; every class has a box of its own; one below the threshold is left out."""
    regions = Regions(torch.tensor([[10.0, 10, 30, 30], [40, 40, 60, 64]]), torch.tensor([0, 1]))
    scores = torch.tensor([[0.6, 0.3, 0.05], [0.02, 0.01, 0.9]])
    deltas = torch.zeros(2, 3, 4)
    deltas[0, 1, 0] = 5.0  # half a width to the right, times the weight of 10
    found = best_detections(
        scores, deltas, regions, torch.tensor(SIZES), weights=WEIGHTS, score_threshold=0.05, candidates=100,
        nms_threshold=0.5, keep=4,
    )  # fmt: skip
    assert found.valid.tolist() == [[True, True, False, False], [True, False, False, False]]
    assert found.labels[found.valid].tolist() == [0, 1, 2]
    torch.testing.assert_close(
        found.boxes[found.valid], torch.tensor([[10.0, 10, 30, 30], [20, 10, 40, 30], [40, 40, 50, 64]])
    )
    torch.testing.assert_close(found.scores[found.valid], torch.tensor([0.6, 0.3, 0.9]))


def test_detections_lie_in_their_image_best_first() -> None:
    head = _head()
    head.score_threshold = 0.0
    nn.init.normal_(head.predictor.box_deltas.weight, std=3)
    nn.init.normal_(head.predictor.class_logits.weight, std=1)
    found = head.detect(*_input())
    assert found.boxes.shape == (2, 100, 4)
    assert found.valid.sum() > 10
    assert (found.scores.diff(dim=1) <= 0).all()
    sides = found.boxes[found.valid][:, 2:] - found.boxes[found.valid][:, :2]
    assert (sides >= 0.01).all()
    for i, (height, width) in enumerate(SIZES):
        assert (found.boxes[i] >= 0).all()
        assert (found.boxes[i] <= torch.tensor([width, height, width, height])).all()
    head.score_threshold = 1.0
    assert not head.detect(*_input()).valid.any()


def test_what_has_no_area_in_the_image_is_no_detection() -> None:
    """Cut at the border, a hundredth of a pixel must remain."""
    regions = Regions(
        torch.tensor([[50.0, 5, 50.009, 20], [20, 5, 20.011, 20], [64, 5, 80, 20]]), torch.zeros(3).long()
    )
    found = best_detections(
        torch.full((3, 1), 0.9), torch.zeros(3, 1, 4), regions, torch.tensor(SIZES[:1]), weights=WEIGHTS,
        score_threshold=0.05, candidates=100, nms_threshold=0.5, keep=4,
    )  # fmt: skip
    assert found.valid.sum() == 1
    assert found.boxes[0, 0, 0] == pytest.approx(20, abs=0.01)


def test_predictions_begin_small() -> None:
    """Deviations of 0.01 and 0.001 (Girshick, ICCV 2015, sec. 2.3): a box is first its proposal."""
    predictor = region_predictor(MAPS, Norms.of("bn"), num_classes=50, width=256)
    assert predictor.class_logits.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert predictor.box_deltas.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert not predictor.class_logits.bias.any()
    assert not predictor.box_deltas.bias.any()


def test_candidates_bound_the_work() -> None:
    head = _head()
    head.score_threshold, head.candidates = 0.0, 5
    everything = head.detect(*_input())
    assert everything.valid.sum(dim=1).max() <= 5
    assert not head.detect(*_input((0, 0))).valid.any()
    assert head.detect(*_input((0, 3))).valid.any(dim=1).tolist() == [False, True]


class Masks(nn.Module):
    """Remembers what it was handed."""

    def losses(self, features: Any, regions: Regions, rows: Tensor, images: Any, targets: Any) -> dict[str, Tensor]:
        self.seen = regions, rows
        return {"mask": regions.boxes.sum() * 0}

    def answer(self, features: Any, detections: Detections, images: Any) -> Detections:
        self.detections = detections
        return detections


def test_masks_get_positive_regions_and_detections() -> None:
    head = _head()
    head.mask = masks = Masks()
    maps, images, proposals = _input()
    targets = random_targets([3, 0], SIZES, 3)
    assert head.losses(maps, images, targets, proposals).keys() == {"classification", "box", "mask"}
    regions, rows = masks.seen
    assert len(regions) == len(rows) >= 3
    assert not regions.image.any()
    assert torch.equal(regions.boxes[-3:], targets.boxes[0])
    assert rows[-3:].tolist() == [0, 1, 2]

    proposals.boxes[:] = torch.tensor([5.0, 5, 40, 40])  # the same box: all but one of a class are suppressed
    head.score_threshold, head.max_detections = 0.0, 20
    assert head.detect(maps, images, proposals).valid.sum(dim=1).max() <= 3
    head.fill = True
    assert head.detect(maps, images, proposals).valid.all()
    assert masks.detections.valid.all()


def test_one_map_channels_last_bfloat16() -> None:
    one = FeatureSpec.of((5,), (8,))
    head = _head(features=one, convs=1)
    maps, images, proposals = _input(features=one)
    targets = random_targets([3, 1], SIZES, 3)
    plain = head.losses(maps, images, targets, proposals)
    last = [m.contiguous(memory_format=torch.channels_last) for m in maps]
    head.predictor.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for name, loss in head.losses(last, images, targets, proposals).items():
        torch.testing.assert_close(loss, plain[name])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = head.losses([m.bfloat16() for m in maps], images, targets, proposals)
        found = head.detect([m.bfloat16() for m in maps], images, proposals)
    assert found.boxes.dtype == torch.float32
    for name, loss in low.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, plain[name], rtol=0.05, atol=0.01)
