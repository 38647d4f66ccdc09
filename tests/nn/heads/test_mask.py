from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import maskrcnn_inference, maskrcnn_loss
from torchvision.ops import MultiScaleRoIAlign

from detsearch.arch.modules.fields import LayerNorm
from detsearch.arch.modules.masks import MaskIoUSpec, MaskSpec
from detsearch.arch.spec import Norm
from detsearch.errors import DataError
from detsearch.nn.heads.mask import MaskHead, build_mask
from detsearch.nn.norms import GroupNorm, WSConv2d
from detsearch.nn.structures import Detections, ImageBatch, Regions, Targets
from detsearch.types import FeatureSpec
from tests.nn.scenes import random_targets, with_masks

MAPS = FeatureSpec.of((2, 3, 4, 5), (16, 16, 16, 16))
ONE = FeatureSpec.of((5,), (16,))
SIZES = [(101, 133), (96, 120)]
PADDED = (101, 133)
CLASSES = 3


def _maps(features: FeatureSpec = MAPS, images: int = 2, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn((images, c, -(-PADDED[0] // s), -(-PADDED[1] // s)), generator=generator, dtype=dtype)
        for c, s in zip(features.channels, features.strides, strict=True)
    ]


def _images(count: int = 2) -> ImageBatch:
    return ImageBatch(torch.zeros(count, 3, *PADDED), torch.tensor(SIZES[:count]))


def _positives(targets: Targets, each: int = 3, seed: int = 0) -> tuple[Regions, Tensor]:
    """`each` shaken boxes around every object, the objects in any order."""
    generator = torch.Generator().manual_seed(seed)
    image, row = targets.valid.nonzero().repeat(each, 1).unbind(1)
    order = torch.randperm(len(image), generator=generator)
    image, row = image[order], row[order]
    boxes = targets.boxes[image, row]
    side = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    boxes = boxes + (torch.rand(boxes.shape, generator=generator, dtype=boxes.dtype) - 0.5) * 0.4 * side
    return Regions(boxes, image), row


def _head(
    features: FeatureSpec = MAPS, norm: Norm = "bn", layers: LayerNorm = "auto", *, score: bool = False
) -> MaskHead:
    torch.manual_seed(0)
    spec = MaskSpec(depth=2, norm=layers, score=MaskIoUSpec(depth=2, hidden=16) if score else None)
    return build_mask(spec, features=features, num_classes=CLASSES, norm=norm)


def _answers(count: int, valid: list[int], dtype: torch.dtype = torch.float32) -> Detections:
    """Detections of `count` rows an image of which the first `valid` are some."""
    some = random_targets([count] * len(valid), SIZES[: len(valid)], CLASSES, dtype=dtype)
    rows = torch.arange(count) < torch.tensor(valid)[:, None]
    scores = torch.linspace(0.9, 0.1, count, dtype=dtype).expand(len(valid), -1)
    return Detections(some.boxes * rows[..., None], scores * rows, some.labels * rows, rows)


class Theirs(nn.Module):
    """torchvision's mask branch with the weights of ours."""

    def __init__(self, ours: MaskHead, norm_layer: type[nn.Module] | None) -> None:
        super().__init__()
        self.pool = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=14, sampling_ratio=2)
        self.convs = MaskRCNNHeads(16, [16, 16], 1, norm_layer=norm_layer)
        self.predictor = MaskRCNNPredictor(16, 16, CLASSES)
        self.convs.load_state_dict(ours.convs.state_dict())
        self.predictor.conv5_mask.load_state_dict(ours.enlarge.state_dict())
        self.predictor.mask_fcn_logits.load_state_dict(ours.class_logits.state_dict())

    def forward(self, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
        found: Tensor = self.predictor(
            self.convs(self.pool(OrderedDict((str(i), m) for i, m in enumerate(maps)), boxes, [PADDED] * len(boxes)))
        )
        return found


@pytest.mark.parametrize("norm_layer", [None, nn.BatchNorm2d], ids=["v1", "v2"])
@pytest.mark.parametrize("counts", [[4, 2], [5, 0], [1]], ids=str)
def test_losses_and_gradients_are_those_of_torchvision(counts: list[int], norm_layer: type[nn.Module] | None) -> None:
    head = _head(layers="none" if norm_layer is None else "bn").double()
    reference = Theirs(head, norm_layer).double()
    maps = [m.requires_grad_() for m in _maps(images=len(counts), dtype=torch.float64)]
    targets = random_targets(counts, SIZES[: len(counts)], CLASSES, dtype=torch.float64)
    targets = with_masks(targets, PADDED)
    regions, rows = _positives(targets)
    order = regions.image.argsort(stable=True)  # theirs are by image
    regions, rows = Regions(regions.boxes[order], regions.image[order]), rows[order]
    assert targets.masks is not None
    boxes = [regions.boxes[regions.image == i] for i in range(len(counts))]
    expected = maskrcnn_loss(
        reference(maps, boxes),
        boxes,
        list(targets.masks.split(counts)),
        [label[valid] for label, valid in zip(targets.labels, targets.valid, strict=True)],
        [rows[regions.image == i] for i in range(len(counts))],
    )
    found = head.losses(maps, regions, rows, _images(len(counts)), targets)
    assert found.keys() == {"mask"}
    torch.testing.assert_close(found["mask"], expected, rtol=0, atol=1e-12)
    theirs = torch.autograd.grad(expected, [*maps, *reference.parameters()])
    ours = torch.autograd.grad(found["mask"], [*maps, *head.parameters()])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert all(grad.any() for grad in ours[len(maps) :])


@pytest.mark.parametrize("norm_layer", [None, nn.BatchNorm2d], ids=["v1", "v2"])
def test_masks_are_those_of_torchvision(norm_layer: type[nn.Module] | None) -> None:
    head = _head(layers="none" if norm_layer is None else "bn").double().eval()
    reference = Theirs(head, norm_layer).double().eval()
    maps = _maps(dtype=torch.float64)
    detections = _answers(9, [9, 4], torch.float64)
    found = head.answer(maps, detections, _images())
    kept = list(detections.valid)
    boxes = [b[v] for b, v in zip(detections.boxes, kept, strict=True)]
    labels = [c[v] for c, v in zip(detections.labels, kept, strict=True)]
    with torch.no_grad():
        expected = maskrcnn_inference(reference(maps, boxes), labels)
    assert found.masks is not None
    assert found.masks.shape == (2, 9, 28, 28)
    for masks, valid, theirs in zip(found.masks, kept, expected, strict=True):
        torch.testing.assert_close(masks[valid], theirs[:, 0], rtol=0, atol=1e-12)
        assert not masks[~valid].any()
    assert torch.equal(found.boxes, detections.boxes)
    assert found.mask_scores is None


@pytest.mark.parametrize("features", [MAPS, ONE], ids=["pyramid", "one map"])
@pytest.mark.parametrize(("norm", "layers"), [("bn", "auto"), ("bn", "bn"), ("gn", "auto"), ("gn_ws", "auto")])
@pytest.mark.parametrize("counts", [[3, 2], [0, 2], [0, 0], [1], [0]], ids=str)
def test_every_parameter_has_a_gradient(
    features: FeatureSpec, norm: Norm, layers: LayerNorm, counts: list[int]
) -> None:
    head = _head(features, norm, layers, score=True)
    targets = with_masks(random_targets(counts, SIZES[: len(counts)], CLASSES), PADDED)
    regions, rows = _positives(targets)
    losses = head.losses(_maps(features, len(counts)), regions, rows, _images(len(counts)), targets)
    assert losses.keys() == {"mask", "maskiou"}
    assert all(loss.dim() == 0 and loss.isfinite() for loss in losses.values())
    assert all((loss > 0) == any(counts) for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert any(counts) == bool(parameter.grad.any()), name


@pytest.mark.parametrize("score", [False, True])
@pytest.mark.parametrize(("count", "valid"), [(5, [0, 0]), (5, [0, 3]), (0, [0, 0]), (3, [3])], ids=str)
def test_rows_that_are_not_valid_stay_empty(score: bool, count: int, valid: list[int]) -> None:
    head = _head(score=score).eval()
    detections = _answers(count, valid)
    with torch.inference_mode():
        found = head.answer(_maps(images=len(valid)), detections, _images(len(valid)))
    assert found.masks is not None
    assert found.masks.shape == (len(valid), count, 28, 28)
    assert torch.equal(found.masks.flatten(2).any(dim=2), detections.valid)
    assert ((found.masks >= 0) & (found.masks <= 1)).all()
    assert (found.mask_scores is not None) == score
    if found.mask_scores is not None:
        assert torch.equal(found.mask_scores != 0, detections.valid)


def test_masks_are_ranked_by_class_score_times_expected_iou() -> None:
    head = _head(score=True).eval()
    assert head.score is not None
    nn.init.zeros_(head.score.class_iou.weight)
    head.score.class_iou.bias.data = torch.tensor([0.2, 0.5, 0.9])
    detections = _answers(6, [6, 3])
    found = head.answer(_maps(), detections, _images())
    expected = detections.scores * torch.tensor([0.2, 0.5, 0.9])[detections.labels] * detections.valid
    assert found.mask_scores is not None
    torch.testing.assert_close(found.mask_scores, expected)
    assert torch.equal(found.scores, detections.scores)


def test_an_image_has_the_same_masks_in_any_batch() -> None:
    head = _head(norm="gn_ws", score=True).eval()
    maps, detections = _maps(), _answers(6, [5, 3])
    together = head.answer(maps, detections, _images())
    row = slice(1, 2)
    alone = head.answer(
        [m[row] for m in maps],
        Detections(*(getattr(detections, name)[row] for name in ("boxes", "scores", "labels", "valid"))),
        ImageBatch(torch.zeros(1, 3, *PADDED), torch.tensor(SIZES[1:])),
    )
    for name in ("masks", "mask_scores"):
        torch.testing.assert_close(getattr(alone, name), getattr(together, name)[row], rtol=0, atol=1e-5)


def test_memory_format_and_precision() -> None:
    """Channels last gives the same; under autocast, losses and masks are float32 and nearly the same."""
    head, targets = _head(score=True), with_masks(random_targets([3, 2], SIZES, CLASSES), PADDED)
    regions, rows = _positives(targets)
    given = (regions, rows, _images(), targets)
    expected = head.losses(_maps(), *given)
    last = [m.to(memory_format=torch.channels_last) for m in _maps()]
    found = head.to(memory_format=torch.channels_last).losses(last, *given)  # type: ignore[call-overload]
    with torch.autocast("cpu", torch.bfloat16):
        less = head.losses(last, *given)
        drawn = head.eval().answer(last, _answers(4, [4, 2]), _images())
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(less[name], loss, rtol=0.05, atol=0.01)
    assert drawn.masks is not None
    assert drawn.masks.dtype == torch.float32


def test_width_depth_and_norm() -> None:
    wide = FeatureSpec.of((5,), (512,))
    head = build_mask(MaskSpec(depth=3, score=MaskIoUSpec()), features=wide, num_classes=5, norm="gn_ws")
    convs = [m for m in head.convs.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convs] == [(512, 256), (256, 256), (256, 256)], "at most 256"
    assert all(isinstance(c, WSConv2d) for c in convs)
    assert sum(isinstance(m, GroupNorm) for m in head.convs.modules()) == 3
    assert head.enlarge.weight.shape == (256, 256, 2, 2)
    assert head.class_logits.weight.shape == (5, 256, 1, 1)
    narrow = build_mask(MaskSpec(width=32), features=MAPS, num_classes=1, norm="bn")
    assert [c.out_channels for c in narrow.convs.modules() if isinstance(c, nn.Conv2d)] == [32] * 4
    assert not any(isinstance(m, (nn.GroupNorm, nn.BatchNorm2d)) for m in narrow.modules())


def test_targets_without_masks_are_refused() -> None:
    targets = with_masks(random_targets([2, 1], SIZES, CLASSES), PADDED)
    regions, rows = _positives(targets)
    with pytest.raises(DataError, match="expected a mask for every object"):
        _head().losses(_maps(), regions, rows, _images(), replace(targets, masks=None))
