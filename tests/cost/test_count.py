from __future__ import annotations

import time

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from detsearch.arch.code import parse_network
from detsearch.build import build
from detsearch.cost.count import count_cost
from detsearch.nn.detector import Detector
from detsearch.nn.nominal import nominal_load
from detsearch.nn.structures import Detections, ImageBatch, Proposals, Targets
from detsearch.types import InputSize, PartCost

NETWORKS = [
    "basicblock_16_1-21-21-12/fpn(levels=3-4-5,width=32)/retinanet(depth=1)/gn_ws",
    "resnet18/fpn(width=64)/retinanet(depth=2,width=48)",
]

PROPOSALS = 300


class Listed(nn.Sequential):
    """A backbone of one map."""

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return [super().forward(pixels)]


class Scale(nn.Module):
    """A neck of one 1 x 1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 4, 1, bias=False)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [self.conv(f) for f in features]


class Linear(nn.Module):
    """A head with control flow that looks at values; classifies the mean of the last map, or each proposal."""

    score_threshold, candidates = 0.05, 1000

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, classes)

    def detect(self, features: list[Tensor], images: ImageBatch, proposals: Proposals | None) -> Detections:
        means = features[-1].mean((2, 3))
        if proposals is not None:
            boxes = torch.cat([proposals.boxes.new_zeros(PROPOSALS, 1), proposals.boxes[0]], dim=1)
            means = torchvision.ops.roi_align(features[-1], boxes, 1)[..., 0, 0]
        scores = self.fc(means)
        chosen = scores[scores > 0.5].nonzero()
        assert len(chosen) == 0 or chosen.max() >= 0
        return Detections(scores, scores, scores, scores)


class Propose(nn.Module):
    keep = PROPOSALS

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, 1, 1)

    def propose(
        self, features: list[Tensor], images: ImageBatch, targets: Targets | None
    ) -> tuple[Proposals, dict[str, Tensor]]:
        scores = self.conv(features[0]).flatten(1)
        found = scores.new_zeros(1, self.keep)
        return Proposals(found.new_zeros(1, self.keep, 4), found, found == 0), {}


def detector(backbone: nn.Module, neck: nn.Module | None, proposals: nn.Module | None, head: nn.Module) -> Detector:
    return Detector(backbone, neck, proposals, head, num_classes=1)


def test_hand_computed():
    # 32 x 32 after padding. Convolution, stride 2, with bias: 3 -> 8 channels, 16 x 16 out.
    found = count_cost(
        detector(Listed(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()), Scale(), Propose(4), Linear(4, 5)),
        InputSize(30, 32),
    )
    backbone = PartCost(
        params=8 * 3 * 9 + 8 + 16,
        macs=8 * 3 * 9 * 256,
        memory_access=3 * 1024 + 8 * 256 + 8 * 3 * 9 + 8,
    )
    neck = PartCost(params=32, macs=32 * 256, memory_access=8 * 256 + 4 * 256 + 32)
    proposals = PartCost(params=5, macs=4 * 256, memory_access=4 * 256 + 256 + 5)
    head = PartCost(params=25, macs=20 * PROPOSALS, memory_access=4 * PROPOSALS + 5 * PROPOSALS + 25)
    assert found.parts == {"backbone": backbone, "neck": neck, "proposals": proposals, "head": head}
    assert found.latency is None


def test_absent_parts_cost_nothing():
    parts = count_cost(detector(Listed(nn.Conv2d(3, 8, 1)), None, None, Linear(8, 1)), InputSize(32, 32)).parts
    assert list(parts) == ["backbone", "neck", "proposals", "head"]
    assert parts["neck"] == parts["proposals"] == PartCost(params=0, macs=0, memory_access=0)


@pytest.mark.parametrize(
    ("layer", "macs", "memory_access"),
    [
        (nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False), 8 * 2 * 9 * 1024, 2 * 8 * 1024 + 8 * 2 * 9),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), 8 * 9 * 1024, 2 * 8 * 1024 + 8 * 9),
        (nn.Conv2d(8, 4, 3, padding=2, dilation=2, bias=False), 4 * 8 * 9 * 1024, 12 * 1024 + 4 * 8 * 9),
        (nn.ConvTranspose2d(8, 4, 2, stride=2, bias=False), 4 * 8 * 4 * 1024, 8 * 1024 + 4 * 4096 + 4 * 8 * 4),
        (nn.Sequential(nn.GroupNorm(4, 8), nn.MaxPool2d(3), nn.Upsample(scale_factor=2)), 0, 0),
    ],
)
def test_one_layer(layer, macs, memory_access):
    stem = nn.Conv2d(3, 8, 1, bias=False)
    part = count_cost(_with(stem, layer), InputSize(32, 32)).parts["backbone"]
    assert part.macs - 3 * 8 * 1024 == macs
    assert part.memory_access - 11 * 1024 - 24 == memory_access


def _with(*layers: nn.Module) -> Detector:
    class Nothing(nn.Module):
        score_threshold, candidates = 0.05, 1000

        def detect(self, *_: object) -> Detections:
            nothing = torch.zeros(1, 0)
            return Detections(nothing, nothing, nothing, nothing)

    return detector(Listed(*layers), None, None, Nothing())


class Deformable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offsets = nn.Conv2d(8, 18, 3, padding=1, bias=False)
        self.conv = torchvision.ops.DeformConv2d(8, 4, 3, padding=1, groups=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x, self.offsets(x))


def test_deformable_convolution_counts_as_a_convolution():
    layer = Deformable()
    x = torch.randn(1, 8, 32, 32)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() // 2 == (18 * 8 * 9 + 4 * 4 * 9) * 1024
    stem = nn.Conv2d(3, 8, 1, bias=False)
    part = count_cost(_with(stem, layer), InputSize(32, 32)).parts["backbone"]
    assert part.macs - 3 * 8 * 1024 == (18 * 8 * 9 + 4 * 4 * 9) * 1024
    placeholders = 4 + 1  # torchvision hands zeros to its operator for the absent bias and mask
    offsets, conv = (8 + 18) * 1024 + 18 * 8 * 9, (8 + 18 + 4) * 1024 + 4 * 4 * 9
    assert part.memory_access - 11 * 1024 - 24 == offsets + conv + placeholders


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)[:, None]
        return F.scaled_dot_product_attention(tokens, tokens, tokens).transpose(2, 3).reshape(x.shape)


def test_attention_counts_its_two_products():
    stem = nn.Conv2d(3, 8, 1, stride=4, bias=False)
    part = count_cost(_with(stem, Attention()), InputSize(32, 32)).parts["backbone"]
    assert part.macs - 3 * 8 * 64 == 2 * 64 * 64 * 8


def test_resnet50_classifier_is_4_089_gmacs():
    classifier = torchvision.models.resnet50()
    head = Linear(2048, 1000)
    backbone = Listed(*list(classifier.children())[:-2])
    found = count_cost(detector(backbone, None, None, head), InputSize(224, 224))
    assert found.params == 25_557_032  # published with the weights
    assert round(found.macs / 1e9, 3) == 4.089


@pytest.mark.parametrize("text", NETWORKS)
def test_equal_to_the_flop_counter_on_a_real_run(text):
    built = build(parse_network(text), 3).eval()
    size = InputSize(100, 70)
    images = ImageBatch(torch.zeros(1, 3, 96, 128, dtype=torch.uint8), torch.tensor([[96, 128]]))
    found = count_cost(built, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        built.detect(images)
    assert found.macs == counter.get_total_flops() // 2
    for part in ("backbone", "neck", "head"):
        assert found.parts[part].macs > 0
    assert found.params == sum(p.numel() for p in built.parameters())
    for figure in ("params", "macs", "memory_access"):
        assert getattr(found, figure) == sum(getattr(part, figure) for part in found.parts.values())


@pytest.mark.parametrize(
    ("text", "regions"),
    [
        ("basicblock_8_1-2-2-2/fpn(levels=3-4,width=16)/rpn(keep=20)/2fc(width=16)/gn", 20),
        ("basicblock_8_1-2-2-2/rpn(keep=300)/2fc(width=16)/gn", 3 * 4 * 15),  # of every place, 15 anchors
        ("basicblock_8_1-2-2-2/ga_rpn(keep=300)/2fc(width=16)/gn", 3 * 4),  # one
        ("basicblock_8_1-2-2-2/ga_rpn(keep=300)/cascade(stages=2,width=16)/gn", 3 * 4),
    ],
)
def test_equal_to_the_flop_counter_on_a_real_run_of_two_stages(text: str, regions: int) -> None:
    """At the load at which latency is measured, which has no more proposals than there are anchors."""
    torch.manual_seed(0)
    built = build(parse_network(text), 3).eval()
    images = ImageBatch(torch.randint(0, 256, (1, 3, 96, 128), dtype=torch.uint8), torch.tensor([[96, 128]]))
    found = count_cost(built, InputSize(128, 96))
    with FlopCounterMode(display=False) as counter, torch.no_grad(), nominal_load(built):
        built.detect(images)
    assert found.macs == counter.get_total_flops() // 2
    assert found.regions == {"proposals": regions}


def test_the_detector_is_left_as_it_was():
    built = build(parse_network(NETWORKS[1]), 3).train()
    built.backbone.eval()
    modes = [module.training for module in built.modules()]
    state = {name: tensor.clone() for name, tensor in built.state_dict().items()}
    torch.manual_seed(0)
    before = torch.get_rng_state()
    count_cost(built, InputSize(64, 64))
    assert [module.training for module in built.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in built.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)


def test_double_precision_and_frozen_parameters_cost_the_same():
    built = build(parse_network(NETWORKS[0]), 3)
    expected = count_cost(built, InputSize(64, 64))
    assert count_cost(built.double().requires_grad_(False), InputSize(64, 64)) == expected


def test_shared_parameters_count_once():
    stem = nn.Conv2d(3, 3, 1, bias=False)
    found = count_cost(_with(stem, stem), InputSize(32, 32))
    assert found.params == 9
    assert found.macs == 2 * 9 * 1024


def test_nothing_is_multiplied():
    """ResNet-50 with the published head at 1333 x 800 takes seconds to run; counting must not."""
    built = build(parse_network("resnet50/fpn/retinanet"), 80)
    began = time.process_time()
    found = count_cost(built, InputSize(1333, 800))
    assert found.macs > 2e11
    assert time.process_time() - began < 4
