from __future__ import annotations

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from detsearch.arch.blockcode import BLOCKS, BlockCode
from detsearch.arch.modules.backbones import CLASSICAL, CodedResNetSpec
from detsearch.arch.spec import NORMS, Norm
from detsearch.nn.backbones.coded import PUBLISHED, CodedResNet, build_coded
from detsearch.nn.backbones.weights import load_strictly
from detsearch.nn.norms import GroupNorm, WSConv2d


def _build(code: str, norm: Norm = "bn", **fields: str) -> CodedResNet:
    return build_coded(CodedResNetSpec(BlockCode.parse(code), **fields), norm=norm)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnext50_32x4d"])
def test_classical_codes_are_torchvisions_networks(name: str) -> None:
    reference = getattr(torchvision.models, name)(weights=None).double().eval()
    code = {published: code for code, published in PUBLISHED.items()}[name]
    ours = _build(code, stem="7x7").double().eval()
    load_strictly(ours, ours.adopt(reference.state_dict()), name)
    x = torch.randn(1, 3, 64, 65, dtype=torch.float64)
    with torch.no_grad():
        maps = ours(x)
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x))))
        for i in range(4):
            x = reference.get_submodule(f"layer{i + 1}")(x)
            torch.testing.assert_close(maps[i], x, rtol=1e-9, atol=1e-9)


def test_names_of_the_catalogue_are_published() -> None:
    for name, spec in CLASSICAL.items():
        assert isinstance(spec, CodedResNetSpec)
        assert PUBLISHED[str(spec.code)] == name
        assert spec.stem == "7x7"


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
