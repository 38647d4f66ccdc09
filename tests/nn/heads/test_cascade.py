from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from detsearch.arch.code import parse_network
from detsearch.arch.modules.heads import CascadeSpec
from detsearch.arch.modules.masks import MaskSpec
from detsearch.build import build
from detsearch.errors import SpecError
from detsearch.nn.detector import Detector
from detsearch.nn.heads.cascade import STAGES, CascadeHead, Stage, build_cascade, refine
from detsearch.nn.heads.rcnn import RCNNHead
from detsearch.nn.heads.regions import by_image, region_losses, training_regions
from detsearch.nn.interfaces import Filling
from detsearch.nn.ops.boxes import Weights, decode, encode, iou
from detsearch.nn.ops.nms import best_per_class
from detsearch.nn.ops.sampling import BalancedSampler
from detsearch.nn.structures import ImageBatch, Proposals, Regions, Targets
from detsearch.types import FeatureSpec
from tests.nn.overfitting import CLASSES as KINDS
from tests.nn.overfitting import descend, few_images
from tests.nn.scenes import random_targets, with_masks

MAPS = FeatureSpec.of((3, 5), (8, 8))
SIZES = [(60, 64), (64, 50)]
CLASSES = 3


class Everything:
    """A sampler without chance."""

    def __call__(self, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        return positive, negative


def _input(dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], ImageBatch]:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 8, 64 // s, 64 // s, generator=generator, dtype=dtype) for s in MAPS.strides]
    return maps, ImageBatch(torch.zeros(2, 3, 64, 64, dtype=dtype), torch.tensor(SIZES))


def _proposals(counts: list[int], seed: int = 5, dtype: torch.dtype = torch.float64) -> Proposals:
    found = random_targets(counts, SIZES, 1, seed, dtype)
    return Proposals(found.boxes, found.valid.to(dtype), found.valid)


def _near(targets: Targets, off: float, number: int = 6, seed: int = 1) -> Proposals:
    """`number` copies of each object, their corners moved by up to a share of their sides."""
    generator = torch.Generator().manual_seed(seed)
    sides = (targets.boxes[..., 2:] - targets.boxes[..., :2]).repeat(1, number, 2)
    noise = torch.rand(sides.shape, generator=generator, dtype=sides.dtype) * 2 - 1
    valid = targets.valid.repeat(1, number)
    return Proposals(targets.boxes.repeat(1, number, 1) + off * noise * sides, valid.to(sides.dtype), valid)


def _cascade(stages: int = 3, mask: MaskSpec | None = None, dtype: torch.dtype = torch.float64) -> CascadeHead:
    torch.manual_seed(0)
    head = build_cascade(CascadeSpec(stages, 16, mask), features=MAPS, num_classes=CLASSES, norm="bn").to(dtype)
    for predictor in head.predictors:  # so that the stages differ and boxes move
        nn.init.normal_(predictor.class_logits.weight, std=0.3)
        nn.init.normal_(predictor.box_deltas.weight, std=1.0)
    head.sampler = Everything()
    return head


class Fixed(nn.Module):
    """In the place of a predictor: the same logits and deltas for every region."""

    pool = staticmethod(lambda features, regions: regions.boxes)

    def __init__(self, logits: Tensor, deltas: Tensor) -> None:
        super().__init__()
        self.logits, self.deltas = logits, deltas

    def forward(self, features: list[Tensor], regions: Regions) -> tuple[Tensor, Tensor]:
        return self.read(regions.boxes)

    def read(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits.expand(len(pooled), -1), self.deltas.expand(len(pooled), 1, -1)


def test_the_papers_stages() -> None:
    assert [stage.match_threshold for stage in STAGES] == [0.5, 0.6, 0.7, 0.75]
    assert [stage.loss_weight for stage in STAGES] == [1, 0.5, 0.25, 0.125]
    assert [stage.weights for stage in STAGES[:3]] == [(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)]
    for stage in STAGES:
        scale = 100 * (stage.match_threshold - 0.4)
        assert stage.weights == pytest.approx((scale, scale, scale / 2, scale / 2))
    for stages in (2, 3, 4):
        assert _cascade(stages).stages == STAGES[:stages]


def test_each_stage_has_its_own_layers_and_one_box_for_all_classes() -> None:
    head = build_cascade(CascadeSpec(4, 24), features=MAPS, num_classes=5, norm="bn")
    assert len({id(p) for p in head.parameters()}) == 4 * 8
    for predictor in head.predictors:
        assert predictor.box_deltas.out_features == 4
        assert predictor.class_logits.out_features == 6
        assert predictor.class_logits.in_features == 24
        assert [(fc.in_features, fc.out_features) for fc in predictor.layers.fcs] == [(8 * 49, 24), (24, 24)]  # type: ignore[union-attr]


@pytest.mark.parametrize("counts", [[3, 2], [4, 0], [0, 0]])
def test_the_first_stage_is_a_2fc_head_with_one_box(counts: list[int]) -> None:
    """With the loss weights 1, 0, 0 the sum of losses is that of the R-CNN head on the same predictor."""
    head = _cascade()
    head.stages = tuple(Stage(s.match_threshold, s.weights, float(i == 0)) for i, s in enumerate(STAGES[:3]))
    single = RCNNHead(head.predictors[0], sampler=Everything())
    maps, images = _input()
    targets = random_targets(counts, SIZES, CLASSES, dtype=torch.float64)
    found = head.losses(maps, images, targets, _near(targets, 0.2))
    expected = single.losses(maps, images, targets, _near(targets, 0.2))
    assert found.keys() == {f"{name}_{i}" for name in ("classification", "box") for i in (1, 2, 3)}
    torch.testing.assert_close(found["classification_1"], expected["classification"])
    torch.testing.assert_close(found["box_1"], expected["box"])
    assert (found["box_1"] > 0) == any(counts)
    assert all(float(found[f"{name}_{i}"].detach()) == 0 for name in ("classification", "box") for i in (2, 3))


def test_each_stage_is_a_2fc_head_on_the_boxes_of_the_one_before() -> None:
    """Step by step with public parts: sample, losses, refine, leave the objects' own boxes out, match anew."""
    head = _cascade(4)
    maps, images = _input()
    targets = random_targets([3, 2], SIZES, CLASSES, dtype=torch.float64)
    proposals = _near(targets, 0.25)
    found = head.losses(maps, images, targets, proposals)
    thresholds, weights = (0.5, 0.6, 0.7, 0.75), (10.0, 20.0, 30.0, 35.0)
    sizes: list[int] = []
    for i, predictor in enumerate(head.predictors):
        w: Weights = (weights[i], weights[i], weights[i] / 2, weights[i] / 2)
        sampled = training_regions(proposals, targets, Everything(), match_threshold=thresholds[i])
        sizes.append(len(sampled.regions))
        logits, deltas = predictor(maps, sampled.regions)
        expected = region_losses(logits, deltas, sampled, targets, w)
        for name in ("classification", "box"):
            torch.testing.assert_close(found[f"{name}_{i + 1}"], 0.5**i * expected[name])
        boxes = decode(deltas[:, 0].detach(), sampled.regions.boxes, w)
        own = (iou(sampled.regions.boxes, targets.boxes[targets.valid]) == 1).any(dim=1)
        assert torch.equal(own, sampled.given)
        lists = []
        for image, (height, width) in enumerate(SIZES):
            mine = boxes[(sampled.regions.image == image) & ~own]
            lists.append(torch.minimum(mine.clamp(min=0), torch.tensor([width, height, width, height])))
        padded = Targets.from_lists(lists, [torch.zeros(len(b), dtype=torch.int64) for b in lists])
        proposals = Proposals(padded.boxes, padded.valid.double(), padded.valid)
    assert sizes == [5 * 7] * 4  # six proposals an object and its own box, at every stage


def test_what_is_positive_grows_stricter() -> None:
    """Proposals of IoU 0.55, 0.65, 0.72 and 0.8 with a regressor that leaves boxes as they are."""
    targets = Targets.from_lists([torch.tensor([[0.0, 0, 40, 40]]).double()], [torch.zeros(1, dtype=torch.int64)])
    ious = torch.tensor([0.55, 0.65, 0.72, 0.8]).double()
    boxes = torch.stack([torch.zeros(4), torch.zeros(4), 40 * ious, torch.full((4,), 40.0)], dim=1)[None].double()
    still = Fixed(torch.zeros(2).double(), torch.zeros(4).double())
    head = CascadeHead([still] * 4, STAGES, sampler=Everything())  # type: ignore[list-item]
    proposals = Proposals(boxes, torch.ones(1, 4).double(), torch.ones(1, 4, dtype=torch.bool))
    images = ImageBatch(torch.zeros(1, 3, 64, 64), torch.tensor([[64, 64]]))
    losses = head.losses([], images, targets, proposals)
    for i, stage in enumerate(STAGES):
        assert float(losses[f"classification_{i + 1}"]) == pytest.approx(0.5**i * math.log(2))
        goals = encode(targets.boxes[0].expand(4, -1), boxes[0], stage.weights)[ious >= stage.match_threshold]
        off = nn.functional.smooth_l1_loss(torch.zeros_like(goals), goals, reduction="sum", beta=1 / 9)
        assert float(losses[f"box_{i + 1}"]) == pytest.approx(0.5**i * float(off) / 5)


def test_identical_regressors_converge() -> None:
    """A regressor that moves each box by a tenth of its width to the right, doubled weights halving the step: with
    deltas (1, 0, 0, 0) the three stages move by 1/10, 1/20 and 1/30 of 30 pixels, 5.5 in all; cut at the image."""
    moving = Fixed(torch.tensor([0.0, 2.0]).double(), torch.tensor([1.0, 0, 0, 0]).double())
    head = CascadeHead([moving] * 3, STAGES[:3], sampler=Everything(), score_threshold=0)  # type: ignore[list-item]
    boxes = torch.tensor([[[0.0, 0, 30, 20], [25, 30, 55, 50]]]).double()
    images = ImageBatch(torch.zeros(1, 3, 64, 64), torch.tensor([[64, 60]]))
    proposals = Proposals(boxes, torch.tensor([[0.9, 0.8]]).double(), torch.ones(1, 2, dtype=torch.bool))
    found = head.detect([], images, proposals)
    expected = torch.tensor([[5.5, 0, 35.5, 20], [30.5, 30, 60, 50]]).double()
    # The second is cut at 60 after the last stage only: 25 + 3 + 1.5 + 1 = 30.5.
    torch.testing.assert_close(found.boxes[0, :2], expected)
    assert found.valid.sum() == 2


def test_a_perfect_regressor_arrives_in_one_stage_and_stays() -> None:
    class Perfect(Fixed):
        def forward(self, features: list[Tensor], regions: Regions) -> tuple[Tensor, Tensor]:
            goal = torch.tensor([10.0, 12, 40, 44]).double().expand_as(regions.boxes)
            weights = STAGES[self.stage].weights  # type: ignore[has-type]
            return self.read(regions.boxes)[0], encode(goal, regions.boxes, weights)[:, None]

    stages = [Perfect(torch.zeros(2).double(), torch.zeros(4).double()) for _ in range(3)]
    for i, stage in enumerate(stages):
        stage.stage = i  # type: ignore[assignment]
    regions = Regions(torch.tensor([[0.0, 0, 30, 30], [5, 20, 60, 50]]).double(), torch.zeros(2, dtype=torch.int64))
    sizes = torch.tensor([[64, 64]])
    for i, stage in enumerate(stages):
        regions = refine(regions, stage([], regions)[1], STAGES[i].weights, sizes)
        torch.testing.assert_close(regions.boxes, torch.tensor([[10.0, 12, 40, 44]] * 2).double())


def test_scores_are_the_mean_over_the_stages_on_the_last_regions() -> None:
    head = _cascade()
    head.score_threshold = 0.0
    maps, images = _input()
    proposals = _proposals([4, 3])
    found = head.detect(maps, images, proposals)
    regions = Regions.of(proposals.boxes, proposals.valid)
    first, second, third = head.predictors
    with torch.no_grad():
        regions = refine(regions, first(maps, regions)[1], STAGES[0].weights, images.sizes)
        regions = refine(regions, second(maps, regions)[1], STAGES[1].weights, images.sizes)
        logits = [predictor(maps, regions)[0] for predictor in (first, second, third)]
        boxes = decode(third(maps, regions)[1][:, 0], regions.boxes, STAGES[2].weights)
    scores = sum(x.exp() / x.exp().sum(dim=1, keepdim=True) for x in logits)[:, 1:] / 3  # type: ignore[index]
    for image, (height, width) in enumerate(SIZES):
        own = regions.image == image
        cut = torch.minimum(boxes[own].clamp(min=0), torch.tensor([width, height, width, height]))
        expected = best_per_class(
            cut.repeat_interleave(CLASSES, dim=0)[None],
            scores[own].flatten()[None],
            torch.arange(CLASSES).repeat(int(own.sum()))[None],
            ((cut[:, 2:] - cut[:, :2]).amin(dim=1) > 1e-2).repeat_interleave(CLASSES)[None],
            iou_threshold=0.5,
            keep=100,
        )
        assert int(expected.valid.sum()) >= CLASSES
        torch.testing.assert_close(found.boxes[image], expected.boxes[0])
        torch.testing.assert_close(found.scores[image], expected.scores[0])
        assert torch.equal(found.labels[image], expected.labels[0])


def test_no_gradient_passes_between_stages() -> None:
    head = _cascade()
    head.stages = tuple(Stage(s.match_threshold, s.weights, float(i == 2)) for i, s in enumerate(STAGES[:3]))
    maps, images = _input()
    targets = random_targets([3, 2], SIZES, CLASSES, dtype=torch.float64)
    torch.stack(list(head.losses(maps, images, targets, _near(targets, 0.2)).values())).sum().backward()
    for i, predictor in enumerate(head.predictors):
        for parameter in predictor.parameters():
            assert parameter.grad is not None
            assert bool(parameter.grad.any()) == (i == 2)


@pytest.mark.parametrize("mask", [None, MaskSpec(width=8, depth=1)], ids=["boxes", "masks"])
@pytest.mark.parametrize("proposed", [5, 0])
@pytest.mark.parametrize("counts", [[3, 2], [4, 0], [0, 0]])
def test_gradients(mask: MaskSpec | None, proposed: int, counts: list[int]) -> None:
    head = _cascade(4, mask, torch.float32)
    maps, images = _input(torch.float32)
    targets = with_masks(random_targets(counts, SIZES, CLASSES), (64, 64))
    losses = head.losses(maps, images, targets, _proposals([proposed] * 2, dtype=torch.float32))
    assert all(loss.dim() == 0 and loss.isfinite() and loss >= 0 for loss in losses.values())
    assert ("mask" in losses) == (mask is not None)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if any(counts) and "predictors" in name:
            assert parameter.grad.any(), name


@pytest.mark.parametrize("mask", [None, MaskSpec(width=8, depth=1)], ids=["boxes", "masks"])
def test_answers_without_proposals_and_with_few(mask: MaskSpec | None) -> None:
    head = _cascade(3, mask, torch.float32)
    assert isinstance(head, Filling)
    maps, images = _input(torch.float32)
    nothing = head.detect(maps, images, _proposals([0, 0], dtype=torch.float32))
    assert nothing.boxes.shape == (2, 100, 4)
    assert not nothing.valid.any()
    head.score_threshold, head.fill = 0.0, True
    found = head.detect(maps, images, _proposals([0, 5], dtype=torch.float32))
    assert found.valid.sum(dim=1).tolist() == ([0, 15] if mask is not None else [0, int(found.valid[1].sum())])
    assert (found.masks is not None) == (mask is not None)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert head.detect(maps, images, _proposals([3, 5], dtype=torch.float32)).boxes.dtype == torch.float32


def test_by_image() -> None:
    values, image = torch.arange(8.0).view(4, 2), torch.tensor([0, 2, 2, 2])
    rows, counts = by_image(values, image, 4, padding=-1)
    assert counts.tolist() == [1, 0, 3, 0]
    assert rows[:, :, 0].tolist() == [[0, -1, -1], [-1] * 3, [2, 4, 6], [-1] * 3]
    assert by_image(values[:0], image[:0], 2)[0].shape == (2, 0, 2)


def test_maps_of_one_width() -> None:
    with pytest.raises(SpecError, match="cascade"):
        build_cascade(CascadeSpec(), features=FeatureSpec.of((3, 4), (8, 16)), num_classes=2, norm="bn")
    for fields in ({"stages": 1}, {"stages": 5}, {"width": 4}):
        with pytest.raises(SpecError, match=next(iter(fields))):
            CascadeSpec(**fields)


@pytest.mark.slow
def test_overfits_four_images(tmp_path: Path) -> None:
    """160 steps on 11 objects of five classes: each is found once, and nothing else. The second stage still makes the
    boxes better, the third keeps them: seen over three seeds, a mean IoU of 0.63 to 0.64 as proposed, then 0.92 to
    0.94, 0.96 to 0.97, and that of the second stage or up to 0.005 more or 0.001 less."""
    images, targets = few_images(tmp_path, 4)
    torch.manual_seed(0)
    code = "basicblock_12_1-21-21-21/fpn(levels=3-4-5,width=32)/rpn(anchor_scale=4.0,keep=100)/cascade(width=64)/gn"
    detector = build(parse_network(code), KINDS)
    head = detector.head
    assert isinstance(head, CascadeHead)
    head.sampler = BalancedSampler(64, 0.25)
    descend(detector, lambda: detector.losses(images, targets), steps=160)
    detector.eval()
    found = detector.detect(images)
    sure = found.valid & (found.scores > 0.5)
    overlap = iou(targets.boxes, found.boxes.masked_fill(~sure[..., None], 0.0))
    overlap = overlap.where(targets.labels[..., None] == found.labels[:, None], 0.0)
    means = [float(mean) for mean in _means(detector, images, targets)]
    assert (overlap.amax(dim=2) >= 0.75)[targets.valid].all()
    assert sure.sum() == targets.valid.sum()
    assert means[0] + 0.1 < means[1] < means[2] < means[3] + 0.01


@torch.no_grad()
def _means(detector: Detector, images: ImageBatch, targets: Targets) -> list[Tensor]:
    """Mean IoU of the regions around objects with these: as proposed, and behind each stage."""
    assert detector.neck is not None
    assert detector.proposals is not None
    assert isinstance(detector.head, CascadeHead)
    maps = detector.neck(detector.backbone(detector.normalise(images).pixels))
    proposals, _ = detector.proposals.propose(maps, images, None)
    best = iou(targets.boxes.masked_fill(~targets.valid[..., None], 0.0), proposals.boxes).amax(dim=1)
    regions = Regions.of(proposals.boxes, proposals.valid & (best >= 0.5))
    steps = [regions]
    for predictor, stage in zip(detector.head.predictors, detector.head.stages, strict=True):
        regions = refine(regions, predictor(maps, regions)[1], stage.weights, images.sizes)
        steps.append(regions)
    # Those of each image with the objects of that image.
    return [iou(targets.boxes[r.image], r.boxes[:, None]).amax(dim=1).mean() for r in steps]
