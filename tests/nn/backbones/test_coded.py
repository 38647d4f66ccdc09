from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from detsearch.arch.blockcode import BLOCKS, BlockCode
from detsearch.arch.catalogue import catalogue
from detsearch.arch.code import parse_module
from detsearch.arch.modules.backbones import CLASSICAL, CodedResNetSpec
from detsearch.arch.spec import NORMS, Norm
from detsearch.nn.backbones.coded import PUBLISHED, CodedResNet, build_coded
from detsearch.nn.backbones.weights import load_strictly
from detsearch.nn.norms import GroupNorm, WSConv2d


def _build(code: str, norm: Norm = "bn", **fields: str | int) -> CodedResNet:
    return build_coded(CodedResNetSpec(BlockCode.parse(code), **fields), norm=norm)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("resnet18", 5),
        ("resnet18", 4),
        ("resnet34", 5),
        ("resnet50", 5),
        ("resnet50", 4),
        ("resnext50_32x4d", 5),
        pytest.param("resnext101_32x8d", 5, marks=pytest.mark.slow),
        pytest.param("resnext101_64x4d", 5, marks=pytest.mark.slow),
    ],
)
def test_classical_networks_are_torchvisions(name: str, last: int) -> None:
    """And so they are as far as they go, with the same file of weights, where they end earlier."""
    reference = getattr(torchvision.models, name)(weights=None).double().eval()
    ours = build_coded(replace(CLASSICAL[name], last=last), norm="bn").double().eval()
    load_strictly(ours, ours.adopt(reference.state_dict()), name)
    x = torch.randn(1, 3, 64, 65, dtype=torch.float64)
    with torch.no_grad():
        maps = ours(x)
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x))))
        for i, found in enumerate(maps):
            x = reference.get_submodule(f"layer{i + 1}")(x)
            torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)
    assert len(maps) == last - 1


@pytest.mark.parametrize(
    ("text", "params", "gmacs", "classes_from"),
    [
        # As torchvision publishes them: parameters, and GMACs at 224, of the classifiers; for MobileNetV2 both without
        # its last 1x1 convolution (320 to 1,280 channels, 412,160 parameters and 20.07 MMACs), which is no stage.
        ("resnet18", 11_689_512, 1.814, 512),
        ("resnet34", 21_797_672, 3.664, 512),
        ("resnet50", 25_557_032, 4.089, 2048),
        ("resnet101", 44_549_160, 7.801, 2048),
        ("resnext50", 25_028_904, 4.230, 2048),
        ("resnext101_32x4d", 44_177_704, 7.99, 2048),
        ("resnext101_32x8d", 88_791_336, 16.414, 2048),
        ("resnext101_64x4d", 83_455_272, 15.46, 2048),
        ("mobilenetv2", 3_504_872 - 412_160, 0.301 - 0.02007, 1280),
    ],
)
def test_classical_backbones_cost_what_is_known(text: str, params: int, gmacs: float, classes_from: int) -> None:
    with torch.device("meta"):
        spec = parse_module(text, "backbone")
        backbone = catalogue().of(spec).load_builder()(spec, norm="bn").eval()
        image = torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(image)
    classifier = (classes_from + 1) * 1000
    assert sum(p.numel() for p in backbone.parameters()) + classifier == params
    assert (counter.get_total_flops() / 2 + classifier) / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_names_of_the_catalogue_are_published() -> None:
    assert set(CLASSICAL.values()) == {CLASSICAL[name] for name in PUBLISHED}
    for name in PUBLISHED:
        with torch.device("meta"):
            net = build_coded(CLASSICAL[name], norm="bn")
        assert net._published_name() == name
        assert net.classical
    assert _build("Xbottleneck_8_1-2-2-2")._published_name() is None


@pytest.mark.parametrize("name", ["resnext101_32x8d", "resnext101_64x4d"])
def test_cardinality(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = build_coded(CLASSICAL[name], norm="bn"), getattr(torchvision.models, name)(weights=None)
    for at in ("layer1.0", "layer4.2"):
        found, expected = ours.get_submodule(at), theirs.get_submodule(at)
        assert found.conv2.weight.shape == expected.conv2.weight.shape
        assert found.conv2.groups == expected.conv2.groups


@pytest.mark.parametrize("last", [2, 3, 4, 5])
def test_a_backbone_that_ends_earlier(last: int) -> None:
    code = "bottleneck_8_1-2-2-1"
    net = _build(code, last=last)
    maps = net(torch.randn(1, 3, 64, 64))
    assert net.out.levels == tuple(range(2, last + 1))
    assert [m.shape[1:] for m in maps] == [
        (c, 64 // s, 64 // s) for c, s in zip(net.out.channels, net.out.strides, strict=True)
    ]
    assert len(net.stages()) == last
    assert sum(p.numel() for p in net.parameters()) == BlockCode.parse(code).params(last=last)
    sum(m.square().sum() for m in maps).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in net.parameters())
    in_stages = [p for stage in net.stages() for module in stage for p in module.parameters()]
    assert list(map(id, in_stages)) == list(map(id, net.parameters()))


digits = st.text("12", min_size=1, max_size=2)


@settings(max_examples=25)
@given(
    st.sampled_from(BLOCKS),
    st.sampled_from([4, 6, 8]),
    st.tuples(digits, digits, digits, digits),
    st.sampled_from(NORMS),
    st.sampled_from(["deep", "7x7"]),
    st.tuples(st.integers(33, 70), st.integers(33, 70)),
)
def test_any_code_gives_its_maps(
    block: str, base: int, stages: tuple[str, ...], norm: Norm, stem: str, size: tuple[int, int]
) -> None:
    """Channels and sizes as the code says, at odd sizes; a gradient for every parameter; as many as in closed form."""
    code = BlockCode(block, base, stages)  # type: ignore[arg-type]
    net = _build(str(code), norm, stem=stem)
    assert net.out.levels == (2, 3, 4, 5)
    assert net.out.channels == code.channels
    assert sum(p.numel() for p in net.parameters()) == code.params(stem)  # type: ignore[arg-type]
    maps = net(torch.randn(2, 3, *size))
    for found, channels, stride in zip(maps, net.out.channels, net.out.strides, strict=True):
        assert found.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))
        assert found.isfinite().all()
    sum((m * torch.randn_like(m)).sum() for m in maps).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("block", ["bottleneck", "Xbottleneck"])
def test_place_of_the_stride(block: str) -> None:
    later, first = _build(f"{block}_8_1-2-1-1"), _build(f"{block}_8_1-2-1-1", stride_in="1x1")
    x = torch.randn(1, 3, 64, 64)
    assert [m.shape for m in later(x)] == [m.shape for m in first(x)]
    for net, strides in ((later, ((1, 1), (2, 2))), (first, ((2, 2), (1, 1)))):
        block_ = net.get_submodule("layer2.0")
        assert (block_.conv1.stride, block_.conv2.stride) == strides


def test_resnext_widths_and_groups() -> None:
    block = _build("Xbottleneck_56_1-2-1-1").get_submodule("layer2.0")
    assert (block.conv2.in_channels, block.conv2.out_channels, block.conv2.groups) == (224, 224, 28)
    assert block.conv3.out_channels == 448


def test_weight_standardisation_is_everywhere() -> None:
    net = _build("bottleneck_8_1-2-2-2", "gn_ws")
    assert all(isinstance(m, WSConv2d) for m in net.modules() if isinstance(m, nn.Conv2d))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert any(isinstance(m, GroupNorm) for m in net.modules())
